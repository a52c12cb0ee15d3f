"""``config.json`` and ``generation_config.json`` of an export. Pure.

Both of today's `transformers` read them: 4 takes ``torch_dtype``, 5 ``dtype``.
"""

from dataclasses import replace
from typing import Any

from pretrain.convert.ours.source import ExportSource
from pretrain.model.families import family_of
from pretrain.model.families.sizes import num_parameters


def exported_vocab_size(source: ExportSource) -> int:
    """Rows of the exported embedding: those that a token names."""
    return min(source.model.vocab_size, source.tokenizer.vocab_size)


def exported_parameters(source: ExportSource) -> int:
    """Numbers in the exported weights."""
    return num_parameters(replace(source.model, vocab_size=exported_vocab_size(source)))


def hf_config(source: ExportSource, *, dtype: str) -> dict[str, Any]:
    """What ``config.json`` holds. Args: dtype: ``bfloat16`` or ``float32``."""
    family, tokenizer = family_of(source.model), source.tokenizer
    content = {
        **family.write_config(source.model),
        "architectures": [family.architecture],
        "bos_token_id": tokenizer.bos_id,
        "dtype": dtype,
        "eos_token_id": tokenizer.eos_id,
        "max_position_embeddings": source.seq_length,
        "model_type": family.model_type,
        "pad_token_id": tokenizer.pad_id,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": exported_vocab_size(source),
    }
    return dict(sorted(content.items()))


def generation_config(source: ExportSource) -> dict[str, Any]:
    """What ``generation_config.json`` holds: a base model's ids, and no taste in sampling or length."""
    tokenizer = source.tokenizer
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
