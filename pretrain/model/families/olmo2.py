"""OLMo 2: like Llama, with RMSNorm after attention and feed-forward instead of before, and over all queries and all keys.

Source: OLMo team, 2 OLMo 2 Furious, 2025 (arXiv:2501.00656).
"""

import dataclasses
from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.llama import LLAMA_LIKE, NAMES, read_llama_like
from pretrain.model.families.table import (
    FEED_FORWARD_NORM,
    INPUT_NORM,
    KEY_NORM,
    POST_ATTENTION_NORM,
    POST_FEED_FORWARD_NORM,
    QUERY_NORM,
)
from pretrain.model.families.window import refuse_window

EPSILON = 1e-5
"""Value of rms_norm_eps in a config that does not state it."""
FIXED: dict[str, Any] = {"norm_placement": "after", "qk_layernorm": True, "qk_layernorm_scope": "full"}


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic."""
    return {key: value for key, value in LLAMA_LIKE.write_config(model).items() if key != "mlp_bias"}


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    refuse_window(fields, fields.get("sliding_window"))
    groups = fields.get("num_attention_heads")
    return read_llama_like(fields, default_groups=groups, default_epsilon=EPSILON, **FIXED)


OLMO2 = dataclasses.replace(
    LLAMA_LIKE,
    title="OLMo 2",
    architecture="Olmo2ForCausalLM",
    model_type="olmo2",
    fixed=FIXED,
    names={
        **{name: theirs for name, theirs in NAMES.items() if name not in (INPUT_NORM, FEED_FORWARD_NORM)},
        QUERY_NORM: "self_attn.q_norm.weight",
        KEY_NORM: "self_attn.k_norm.weight",
        POST_ATTENTION_NORM: "post_attention_layernorm.weight",
        POST_FEED_FORWARD_NORM: "post_feedforward_layernorm.weight",
    },
    state_after_attention="mlp",
    write_config=write_config,
    read_config=read_config,
)
