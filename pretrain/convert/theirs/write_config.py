"""``config.json`` and ``generation_config.json`` of an export. Pure.

Both current major versions of `transformers` read them: 4 reads ``torch_dtype``, 5 ``dtype``.
"""

from dataclasses import replace
from typing import Any

from pretrain.config.derive import num_tokens
from pretrain.convert.ours.source import ExportSource
from pretrain.model.families import family_of
from pretrain.model.families.sizes import num_parameters


def exported_vocab_size(source: ExportSource) -> int:
    """Return the number of rows of the exported embedding, one for each token."""
    return num_tokens(source.model, tokenizer_vocab_size=source.tokenizer.vocab_size)


def exported_parameters(source: ExportSource) -> int:
    """Return the number of parameters in the exported weights."""
    return num_parameters(replace(source.model, vocab_size=exported_vocab_size(source)))


def hf_config(source: ExportSource, *, dtype: str) -> dict[str, Any]:
    """Return the content of ``config.json``. Args: dtype: ``bfloat16`` or ``float32``."""
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
    """Return the content of ``generation_config.json``: a base model's ids, and no settings of sampling or length."""
    tokenizer = source.tokenizer
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
