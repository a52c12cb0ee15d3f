"""Nemotron: a squared ReLU without a gate, LayerNorm with weights around one, and rotary positions on a part of each head.

Source: Parmar et al., Nemotron-4 15B, 2024 (arXiv:2402.16819).
"""

import dataclasses
from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.llama import LLAMA_LIKE, NAMES, read_llama_like
from pretrain.model.families.rotary import read_rotary
from pretrain.model.families.table import (
    FEED_FORWARD_NORM,
    FINAL_NORM,
    INPUT_NORM,
)
from pretrain.model.families.tensors import bias_of
from pretrain.model.families.window import refuse_window

EPSILON = 1e-5
"""Value of norm_eps in a config that does not state it."""
ROTARY_PERCENT = 0.5
"""Value of partial_rotary_factor in a config that does not state it."""
INITIALIZER_RANGE = 0.0134
"""Value of initializer_range in a config that does not state it."""
FIXED: dict[str, Any] = {
    "activation": "squared_relu",
    "normalization": "LayerNorm",
    "layernorm_zero_centered_gamma": True,
}


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic."""
    content = LLAMA_LIKE.write_config(model) | {
        "hidden_act": "relu2",
        "norm_eps": model.layernorm_epsilon,
        "partial_rotary_factor": model.rotary_percent,
    }
    content["rope_parameters"]["partial_rotary_factor"] = model.rotary_percent
    return {key: value for key, value in content.items() if key != "rms_norm_eps"}


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    refuse_window(fields, fields.get("sliding_window"))
    return read_llama_like(
        fields,
        default_groups=fields.get("num_attention_heads"),
        epsilon_key="norm_eps",
        default_epsilon=EPSILON,
        default_std=INITIALIZER_RANGE,
        activations=("relu2",),
        **FIXED,
        **read_rotary(fields, default_percent=ROTARY_PERCENT),
    )


NEMOTRON = dataclasses.replace(
    LLAMA_LIKE,
    title="Nemotron",
    architecture="NemotronForCausalLM",
    model_type="nemotron",
    fixed=FIXED,
    fields=frozenset({"rotary_percent"}),
    names={
        **NAMES,
        bias_of(INPUT_NORM): "input_layernorm.bias",
        bias_of(FEED_FORWARD_NORM): "post_attention_layernorm.bias",
        bias_of(FINAL_NORM): "model.norm.bias",
    },
    write_config=write_config,
    read_config=read_config,
)
