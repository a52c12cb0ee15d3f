"""Mistral: like Llama, with a sliding window in every layer. One without a window is exported as Llama.

Source: Jiang et al., Mistral 7B, 2023 (arXiv:2310.06825); Beltagy et al., Longformer, 2020 (arXiv:2004.05150).
"""

import dataclasses
from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.llama import LLAMA_LIKE, read_llama_like
from pretrain.model.families.window import refuse_window

WINDOW = 4096
"""Value of sliding_window in a config that does not state it."""


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic."""
    return LLAMA_LIKE.write_config(model) | {"sliding_window": model.sliding_window}


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json: null is no window, and a window that no sequence is longer than is none either.

    Raises: UnsupportedModelError.
    """
    refuse_window(fields, None)  # this class reads no layer_types
    window = fields.content.get("sliding_window", WINDOW)
    if window is not None:
        window = fields.integer("sliding_window", window)
    # A window as long as the longest sequence hides nothing there, and is kept: that length is the last training's.
    acts = window is not None and window <= fields.size("max_position_embeddings")
    return read_llama_like(fields, default_groups=None, sliding_window=window if acts else None)


MISTRAL = dataclasses.replace(
    LLAMA_LIKE,
    title="Mistral",
    architecture="MistralForCausalLM",
    model_type="mistral",
    fields=LLAMA_LIKE.fields | {"sliding_window"},
    write_config=write_config,
    read_config=read_config,
)
