"""Gemma 3, its text model: like Gemma 2, with RMSNorm over each query head and each key head, and a base of its own in layers
with a window.

Source: Gemma team, Gemma 3, 2025 (arXiv:2503.19786).
"""

import dataclasses
from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.gemma2 import GEMMA2, read_caps, read_gemma
from pretrain.model.families.gemma2 import misfit as misfit_of_gemma2
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.rotary import ROTARY_FIELDS
from pretrain.model.families.rotary_by_layer import misfit_of_scaling, read_rotary_by_layer, write_rotary_by_layer
from pretrain.model.families.table import KEY_NORM, QUERY_NORM
from pretrain.model.families.window import read_window

WINDOW, INTERVAL = 4096, 6
"""Values of sliding_window and sliding_window_pattern in a config that does not state them."""
ROPE_THETA, LOCAL_ROPE_THETA = 1_000_000.0, 10_000.0
"""Values of rope_theta and rope_local_base_freq in a config that does not state them."""
FIXED: dict[str, Any] = {**GEMMA2.fixed, "qk_layernorm": True}


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic.

    ``layer_types`` states the windows; mlx-lm reads ``sliding_window_pattern`` instead.
    """
    local = model.rotary_base if model.local_rotary_base is None else model.local_rotary_base
    interval = 1 if model.sliding_window is None else model.full_attention_layer_interval
    content = GEMMA2.write_config(model) | write_rotary_by_layer(model) | {"rope_local_base_freq": local}
    return content if interval is None else content | {"sliding_window_pattern": interval}


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    interval = fields.size("sliding_window_pattern", INTERVAL)
    windows = read_window(fields, default_window=WINDOW, default_interval=interval)
    rotary = read_rotary_by_layer(fields, windows, default_base=ROPE_THETA, default_local_base=LOCAL_ROPE_THETA)
    caps = read_caps(fields, attention=None, final=None)
    if caps["attention_logit_softcap"] is not None:
        raise fields.refuse(
            "attn_logit_softcapping", caps["attention_logit_softcap"], "does nothing in this class; null works"
        )
    return read_gemma(fields, **FIXED, **windows, **caps, **rotary)


def misfit(model: ModelConfig) -> str | None:
    """Return why the class cannot compute a model of these fields; None if it can."""
    return misfit_of_scaling(model) or misfit_of_gemma2(model)


GEMMA3 = dataclasses.replace(
    GEMMA2,
    title="Gemma 3",
    architecture="Gemma3ForCausalLM",
    model_type="gemma3_text",
    fixed=FIXED,
    # The class has a key for the soft cap of scores, and does nothing with it.
    fields=(GEMMA2.fields - {"attention_logit_softcap"}) | ROTARY_FIELDS | {"local_rotary_base"},
    misfit=misfit,
    names={**GEMMA2.names, QUERY_NORM: "self_attn.q_norm.weight", KEY_NORM: "self_attn.k_norm.weight"},
    write_config=write_config,
    read_config=read_config,
)
