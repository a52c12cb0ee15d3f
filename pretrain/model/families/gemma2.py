"""Gemma 2: four norms a layer with weights around one, GeGLU, a scaled embedding, soft caps, a window in every other layer.

Source: Gemma team, Gemma 2, 2024 (arXiv:2408.00118).
"""

import dataclasses
import math
from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.llama import LLAMA, NAMES, read_llama_like
from pretrain.model.families.rotary import read_rotary
from pretrain.model.families.table import FEED_FORWARD_NORM, POST_ATTENTION_NORM, POST_FEED_FORWARD_NORM
from pretrain.model.families.window import WINDOW_FIELDS, read_window, write_window

EPSILON = 1e-6
"""Value of rms_norm_eps in a config that does not state it."""
HEAD_SIZE, QUERY_GROUPS, SCALAR, WINDOW, INTERVAL = 256, 4, 256, 4096, 2
"""Values of head_dim, num_key_value_heads, query_pre_attn_scalar, sliding_window and the interval of layers without a window in a
config that does not state them."""
ATTENTION_CAP, FINAL_CAP = 50.0, 30.0
"""Values of attn_logit_softcapping and final_logit_softcapping in a config that does not state them; null is none."""
GELU = ("gelu_pytorch_tanh",)
FIXED: dict[str, Any] = {
    "activation": "geglu",
    "embedding_scale": "sqrt_hidden_size",
    "layernorm_zero_centered_gamma": True,
    "norm_placement": "both",
}
GEMMA_FIELDS = WINDOW_FIELDS | {"query_pre_attention_scalar", "attention_logit_softcap", "final_logit_softcap"}


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic."""
    scalar = model.query_pre_attention_scalar
    head = LLAMA.write_config(model)
    content = head | {
        "attn_logit_softcapping": model.attention_logit_softcap,
        "final_logit_softcapping": model.final_logit_softcap,
        "hidden_activation": GELU[0],
        "query_pre_attn_scalar": head["head_dim"] if scalar is None else int(scalar),
        "use_bidirectional_attention": False,
        **write_window(model),
        "sliding_window": model.sliding_window or WINDOW,  # the class wants one even where every layer is a full one
    }
    return {key: value for key, value in content.items() if key not in ("hidden_act", "mlp_bias")}


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    windows = read_window(fields, default_window=WINDOW, default_interval=INTERVAL)
    caps = read_caps(fields, attention=ATTENTION_CAP, final=FINAL_CAP)
    rotary = read_rotary(fields)
    if rotary.get("rotary_scaling", "none") != "none":
        place = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
        raise fields.refuse(place, fields.get(place), "must not scale in this class; rope_type 'default' works")
    return read_gemma(fields, **FIXED, **windows, **caps, **rotary)


def read_gemma(fields: HfFields, **read: Any) -> ModelConfig:
    """Read what Gemma 2 and Gemma 3 have alike. Args: read: further fields. Raises: UnsupportedModelError."""
    if fields.get("use_bidirectional_attention", False):
        raise fields.refuse("use_bidirectional_attention", True, "is not supported; false works")
    model = read_llama_like(
        fields,
        default_groups=QUERY_GROUPS,
        default_head_size=HEAD_SIZE,
        default_tied=True,
        default_epsilon=EPSILON,
        activation_key="hidden_activation",
        activations=GELU,
        **read,
    )
    scalar = fields.integer("query_pre_attn_scalar", fields.get("query_pre_attn_scalar", SCALAR))
    head_size = model.kv_channels or model.hidden_size // model.num_attention_heads
    return dataclasses.replace(model, query_pre_attention_scalar=None if scalar == head_size else float(scalar))


def read_caps(fields: HfFields, *, attention: float | None, final: float | None) -> dict[str, float | None]:
    """Read the soft caps; a stated null is none.

    Args: values where they are not stated. Raises: UnsupportedModelError.
    """
    keys = {
        "attention_logit_softcap": ("attn_logit_softcapping", attention),
        "final_logit_softcap": ("final_logit_softcapping", final),
    }
    stated = {ours: (theirs, fields.content.get(theirs, default)) for ours, (theirs, default) in keys.items()}
    return {ours: None if value is None else fields.number(theirs, value) for ours, (theirs, value) in stated.items()}


def misfit(model: ModelConfig) -> str | None:
    """Return why the class cannot compute a model of these fields; None if it can."""
    scalar = model.query_pre_attention_scalar
    if scalar is not None and scalar != int(scalar):
        return f"model.query_pre_attention_scalar ({scalar}; there a whole number, such as {math.ceil(scalar)})"
    return LLAMA.misfit(model)


GEMMA2 = dataclasses.replace(
    LLAMA,
    title="Gemma 2",
    architecture="Gemma2ForCausalLM",
    model_type="gemma2",
    fixed=FIXED,
    fields=GEMMA_FIELDS,
    misfit=misfit,
    names={
        **NAMES,
        POST_ATTENTION_NORM: "post_attention_layernorm.weight",
        FEED_FORWARD_NORM: "pre_feedforward_layernorm.weight",
        POST_FEED_FORWARD_NORM: "post_feedforward_layernorm.weight",
    },
    state_after_attention="pre_feedforward_layernorm",
    write_config=write_config,
    read_config=read_config,
)
