"""Apertus: like Llama, with xIELU instead of a gated feed-forward, and RMSNorm over each query head and each key head.

Source: Apertus team, Apertus, 2025 (arXiv:2509.14233).
"""

import dataclasses
from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.llama import LLAMA_LIKE, NAMES, read_llama_like
from pretrain.model.families.rotary import read_rotary
from pretrain.model.families.table import (
    FEED_FORWARD_NORM,
    INPUT_NORM,
    KEY_NORM,
    QUERY_NORM,
    XIELU_ALPHA_N,
    XIELU_ALPHA_P,
)
from pretrain.model.families.tensors import XIELU_BETA
from pretrain.model.families.window import refuse_window

EPSILON = 1e-5
"""Value of rms_norm_eps in a config that does not state it."""
ROPE_THETA = 12_000_000.0
"""Value of rope_theta in a config that does not state it."""
SCALING: dict[str, Any] = {
    "rotary_scaling": "llama3",
    "rotary_scaling_factor": 8.0,
    "rotary_scaling_original_length": 8192,
}
"""Scaling in a config without a word on it."""
XIELU_EPSILON = -1e-6
"""What the class cuts the exponent of its activation at; ours is not cut (kernels/reference.py)."""
FIXED: dict[str, Any] = {"activation": "xielu", "qk_layernorm": True}


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic.

    transformers 4 scales where it finds no word on it; mlx-lm needs the last two keys, which the class ignores.
    """
    content = {"rope_scaling": None, **LLAMA_LIKE.write_config(model), "hidden_act": "xielu"}
    return content | {"post_norm": False, "qk_norm": True}


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    refuse_window(fields, fields.get("sliding_window"))
    rotary = read_rotary(fields, default_base=ROPE_THETA)
    if "rope_scaling" not in fields.content and fields.get("rope_parameters") is None:
        rotary |= SCALING
    return read_llama_like(
        fields,
        default_groups=fields.get("num_attention_heads"),
        default_epsilon=EPSILON,
        activations=("xielu",),
        **FIXED,
        **rotary,
    )


APERTUS = dataclasses.replace(
    LLAMA_LIKE,
    title="Apertus",
    architecture="ApertusForCausalLM",
    model_type="apertus",
    fixed=FIXED,
    names={
        **NAMES,
        INPUT_NORM: "attention_layernorm.weight",
        FEED_FORWARD_NORM: "feedforward_layernorm.weight",
        QUERY_NORM: "self_attn.q_norm.weight",
        KEY_NORM: "self_attn.k_norm.weight",
        XIELU_ALPHA_P: "mlp.act_fn.alpha_p",
        XIELU_ALPHA_N: "mlp.act_fn.alpha_n",
    },
    constants={"mlp.act_fn.beta": XIELU_BETA, "mlp.act_fn.eps": XIELU_EPSILON},
    state_after_attention="feedforward_layernorm",
    write_config=write_config,
    read_config=read_config,
)
