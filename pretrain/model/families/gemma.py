"""Gemma, the first: like Llama, with GeGLU, RMSNorm with weights around one, and a scaled embedding.

Source: Gemma team, Gemma, 2024 (arXiv:2403.08295).
"""

import dataclasses
from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.llama import LLAMA, read_llama_like
from pretrain.model.families.window import refuse_window

EPSILON = 1e-6
"""Value of rms_norm_eps in a config that does not state it."""
HEAD_SIZE, QUERY_GROUPS = 256, 16
"""Values of head_dim and num_key_value_heads in a config that does not state them."""
GELU = ("gelu_pytorch_tanh", "gelu")
"""Values of hidden_act; the class computes the first where the second stands, as early folders have it."""
FIXED: dict[str, Any] = {
    "activation": "geglu",
    "embedding_scale": "sqrt_hidden_size",
    "layernorm_zero_centered_gamma": True,
}


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic. transformers 4 reads the second key first."""
    return LLAMA.write_config(model) | {"hidden_act": GELU[0], "hidden_activation": GELU[0]}


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    refuse_window(fields, fields.get("sliding_window"))
    if fields.get("use_bidirectional_attention", False):
        raise fields.refuse("use_bidirectional_attention", True, "is not supported; false works")
    if fields.get("hidden_activation", GELU[0]) != GELU[0]:
        raise fields.refuse(
            "hidden_activation", fields.get("hidden_activation"), f"is not supported; {GELU[0]!r} works"
        )
    return read_llama_like(
        fields,
        default_groups=QUERY_GROUPS,
        default_head_size=HEAD_SIZE,
        default_tied=True,
        default_epsilon=EPSILON,
        activations=GELU,
        **FIXED,
    )


GEMMA = dataclasses.replace(
    LLAMA,
    title="Gemma",
    architecture="GemmaForCausalLM",
    model_type="gemma",
    fixed=FIXED,
    write_config=write_config,
    read_config=read_config,
)
