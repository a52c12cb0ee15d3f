"""Mistral: like Llama, without the sliding window of the first ones, which is not supported. An import is exported as Llama."""

import dataclasses

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.llama import LLAMA, read_llama_like

WINDOW = 4096
"""Value of sliding_window in a config that does not state it."""


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    return read_llama_like(fields, default_groups=None, window=fields.content.get("sliding_window", WINDOW))


MISTRAL = dataclasses.replace(
    LLAMA, title="Mistral", architecture="MistralForCausalLM", model_type="mistral", read_config=read_config
)
