"""Llama: pre-norm layers of grouped attention with rotary positions and a SwiGLU feed-forward, RMSNorm, no biases.

Our tensors are Megatron's: linear_qkv holds, query group by query group, the group's query heads, its key head and its value
head; linear_fc1 holds the gate and then the up projection. Both sides rotate the two halves of a head, so no row changes its
place within a head.
Source: Touvron et al., Llama, 2023 (arXiv:2302.13971) and Llama 2, 2023 (arXiv:2307.09288); scaled rotary positions: Grattafiori et
al., Llama 3, 2024 (arXiv:2407.21783).
"""

import math
from typing import Any

from pretrain.config.derive import kv_channels, padded_vocab_size
from pretrain.config.schema import ModelConfig
from pretrain.model.families.family import Family
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.rotary import ROPE_THETA, ROTARY_FIELDS, read_rotary, write_rotary
from pretrain.model.families.table import (
    ATTENTION_OUTPUT,
    DOWN,
    EMBEDDING,
    FEED_FORWARD_NORM,
    FINAL_NORM,
    GATE_AND_UP,
    HF_EMBEDDING,
    HF_OUTPUT,
    INPUT_NORM,
    OUTPUT,
    QUERY_KEY_VALUE,
    HfPart,
    Table,
    TensorSpec,
    norm,
)


def table(model: ModelConfig) -> Table:
    """Return the table of a Llama model's tensors."""
    hidden, std = model.hidden_size, model.init_method_std
    first, last = [_vocabulary(model, EMBEDDING, hf=HF_EMBEDDING)], [norm(FINAL_NORM, hidden, hf="model.norm.weight")]
    if not model.share_embeddings_and_output_weights:
        last.append(_vocabulary(model, OUTPUT, hf=HF_OUTPUT))
    ffn, attended = model.ffn_hidden_size, model.num_attention_heads * kv_channels(model)
    residual_std = std / math.sqrt(
        2 * model.num_layers
    )  # of what is added to the residual stream (Shoeybi et al., 2019)
    query_key_value = _query_key_value(model)
    layer = (
        TensorSpec(
            name=QUERY_KEY_VALUE,
            shape=(sum(len(rows) for part in query_key_value for rows in part.rows), hidden),
            split_dim=0,
            init_std=std,
            hf_parts=query_key_value,
        ),
        TensorSpec(
            name=ATTENTION_OUTPUT,
            shape=(hidden, attended),
            split_dim=1,
            init_std=residual_std,
            hf_parts=(HfPart(name="self_attn.o_proj.weight", rows=(range(hidden),)),),
        ),
        TensorSpec(
            name=GATE_AND_UP,
            shape=(2 * ffn, hidden),
            split_dim=0,
            sections=("gate", "up"),
            init_std=std,
            hf_parts=(
                HfPart(name="mlp.gate_proj.weight", rows=(range(ffn),)),
                HfPart(name="mlp.up_proj.weight", rows=(range(ffn, 2 * ffn),)),
            ),
        ),
        TensorSpec(
            name=DOWN,
            shape=(hidden, ffn),
            split_dim=1,
            init_std=residual_std,
            hf_parts=(HfPart(name="mlp.down_proj.weight", rows=(range(hidden),)),),
        ),
        norm(INPUT_NORM, hidden, hf="input_layernorm.weight"),
        norm(FEED_FORWARD_NORM, hidden, hf="post_attention_layernorm.weight"),
    )
    return Table(first=tuple(first), layer=layer, last=tuple(last), num_layers=model.num_layers)


def _vocabulary(model: ModelConfig, name: str, *, hf: str) -> TensorSpec:
    """Return the spec of a tensor with a row for each token, and padding rows."""
    padded = padded_vocab_size(model)
    return TensorSpec(
        name=name,
        shape=(padded, model.hidden_size),
        split_dim=0,
        init_std=model.init_method_std,
        padding_rows=padded - model.vocab_size,
        hf_parts=(HfPart(name=hf, rows=(range(model.vocab_size),)),),
    )


def _query_key_value(model: ModelConfig) -> tuple[HfPart, ...]:
    head, groups = kv_channels(model), model.num_query_groups
    queries = model.num_attention_heads // groups * head  # rows of a group's queries; its key and its value follow
    starts = [group * (queries + 2 * head) for group in range(groups)]
    return tuple(
        HfPart(
            name=f"self_attn.{name}.weight",
            rows=tuple(range(start + first, start + first + length) for start in starts),
        )
        for name, first, length in (
            ("q_proj", 0, queries),
            ("k_proj", queries, head),
            ("v_proj", queries + head, head),
        )
    )


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic."""
    return {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": kv_channels(model),
        "hidden_act": "silu",
        "hidden_size": model.hidden_size,
        "initializer_range": model.init_method_std,
        "intermediate_size": model.ffn_hidden_size,
        "mlp_bias": False,
        "num_attention_heads": model.num_attention_heads,
        "num_hidden_layers": model.num_layers,
        "num_key_value_heads": model.num_query_groups,
        "rms_norm_eps": model.layernorm_epsilon,
        **write_rotary(model),
        "tie_word_embeddings": model.share_embeddings_and_output_weights,
    }


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    heads = fields.get("num_attention_heads")  # Llama 1 had no groups
    return read_llama_like(fields, default_groups=heads, window=fields.get("sliding_window"))


def read_llama_like(
    fields: HfFields,
    *,
    default_groups: int | None,
    window: Any,
    default_head_size: int | None = None,
    default_tied: bool = False,
    default_rotary_base: float = ROPE_THETA,
) -> ModelConfig:
    """Read the model of a config.json, with what its family takes for a key that is not stated.

    Args: window: value of sliding_window that acts, None for none; default_head_size: None is hidden_size / num_attention_heads.
    Raises: UnsupportedModelError.
    """
    _refuse_other_arithmetic(fields)
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    groups = fields.size("num_key_value_heads", default_groups)
    if heads % groups:
        raise fields.refuse("num_attention_heads", heads, f"must be a multiple of num_key_value_heads ({groups})")
    head_size = fields.get("head_dim", default_head_size)
    if head_size is None and hidden % heads:
        raise fields.refuse(
            "hidden_size", hidden, f"must be a multiple of num_attention_heads ({heads}) where head_dim is not stated"
        )
    head_size = fields.size("head_dim", default_head_size or hidden // heads)
    if head_size % 2:
        raise fields.refuse("head_dim", head_size, "must be even: rotary positions turn pairs of channels")
    tied = fields.get("tie_word_embeddings", default_tied)
    if not isinstance(tied, bool):
        raise fields.refuse("tie_word_embeddings", tied, "must be true or false")
    model = ModelConfig(
        num_layers=fields.size("num_hidden_layers"),
        hidden_size=hidden,
        ffn_hidden_size=fields.size("intermediate_size"),
        num_attention_heads=heads,
        num_query_groups=groups,
        # our configs use null where the head size follows from the other fields
        kv_channels=None if head_size * heads == hidden else head_size,
        vocab_size=fields.size("vocab_size"),
        share_embeddings_and_output_weights=tied,
        **read_rotary(fields, default_base=default_rotary_base),
        layernorm_epsilon=fields.number("rms_norm_eps", fields.get("rms_norm_eps")),
        init_method_std=fields.number("initializer_range", fields.get("initializer_range", 0.02)),
    )
    _refuse_sliding_window(fields, window)
    return model


def _refuse_other_arithmetic(fields: HfFields) -> None:
    """Refuse settings with which the same weights are a different model. pretraining_tp is not one: it only orders sums."""
    for name, works in (("attention_bias", (False,)), ("mlp_bias", (False,)), ("hidden_act", ("silu", "swish"))):
        value = fields.get(name, works[0])
        if value not in works:
            raise fields.refuse(name, value, f"is not supported; {works[0]!r} works")


def _refuse_sliding_window(fields: HfFields, stated: Any) -> None:
    """Refuse a sliding window that is shorter than the longest sequence; a longer one hides nothing."""
    max_positions = fields.size("max_position_embeddings")
    if stated is not None and (type(stated) is not int or stated < max_positions):
        raise fields.refuse(
            "sliding_window", stated,
            f"is not supported below max_position_embeddings ({max_positions}); null works, as in Mistral 7B v0.2 and later",
        )  # fmt: skip
    layer_types = fields.get("layer_types", [])
    if not isinstance(layer_types, list):
        raise fields.refuse("layer_types", layer_types, "must be a list")
    other = sorted(set(map(str, layer_types)) - {"full_attention"})
    if other:
        raise fields.refuse("layer_types", other, "is not supported; 'full_attention' works")


LLAMA = Family(
    title="Llama",
    architecture="LlamaForCausalLM",
    model_type="llama",
    fields=frozenset(
        {
            "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels",
            "vocab_size", "make_vocab_size_divisible_by", "share_embeddings_and_output_weights", "layernorm_epsilon",
            "init_method_std", "attention_backend", *ROTARY_FIELDS,
        }
    ),
    table=table,
    write_config=write_config,
    read_config=read_config,
)  # fmt: skip
