"""Mistral: Llama, but for the window of the first ones, which we do not compute. What is imported as one is exported as Llama."""

import dataclasses

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.llama import LLAMA, read_llama_like

WINDOW = 4096
"""sliding_window of a config that does not state it."""


def read_config(fields: HfFields) -> ModelConfig:
    """The model of a config.json. Raises: UnsupportedModelError."""
    return read_llama_like(fields, default_groups=None, default_window=WINDOW)


MISTRAL = dataclasses.replace(
    LLAMA, title="Mistral", architecture="MistralForCausalLM", model_type="mistral", read_config=read_config
)
