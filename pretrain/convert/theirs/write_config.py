"""``config.json`` and ``generation_config.json`` of an export. Pure.

Both of today's `transformers` read them: 4 takes ``rope_theta`` and ``torch_dtype``, 5 ``rope_parameters`` and ``dtype``.
"""

from dataclasses import replace
from typing import Any

from pretrain.config.derive import kv_channels, num_parameters
from pretrain.convert.ours.source import ExportSource


def exported_vocab_size(source: ExportSource) -> int:
    """Rows of the exported embedding: those that a token names."""
    return min(source.model.vocab_size, source.tokenizer.vocab_size)


def exported_parameters(source: ExportSource) -> int:
    """Numbers in the exported weights."""
    return num_parameters(replace(source.model, vocab_size=exported_vocab_size(source)))


def hf_config(source: ExportSource, *, dtype: str) -> dict[str, Any]:
    """What ``config.json`` holds. Args: dtype: ``bfloat16`` or ``float32``."""
    model, tokenizer = source.model, source.tokenizer
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.bos_id,
        "dtype": dtype,
        "eos_token_id": tokenizer.eos_id,
        "head_dim": kv_channels(model),
        "hidden_act": "silu",
        "hidden_size": model.hidden_size,
        "initializer_range": model.init_method_std,
        "intermediate_size": model.ffn_hidden_size,
        "max_position_embeddings": source.seq_length,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": model.num_attention_heads,
        "num_hidden_layers": model.num_layers,
        "num_key_value_heads": model.num_query_groups,
        "pad_token_id": tokenizer.pad_id,
        "rms_norm_eps": model.layernorm_epsilon,
        "rope_parameters": {"rope_theta": model.rotary_base, "rope_type": "default"},
        "rope_theta": model.rotary_base,
        "tie_word_embeddings": model.share_embeddings_and_output_weights,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": exported_vocab_size(source),
    }


def generation_config(source: ExportSource) -> dict[str, Any]:
    """What ``generation_config.json`` holds: a base model's ids, and no taste in sampling or length."""
    tokenizer = source.tokenizer
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
