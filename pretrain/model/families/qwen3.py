"""Qwen3: like Llama, with RMSNorm over each query head and each key head (QK-norm) before their rotary positions.

Source: Yang et al., Qwen3, 2025 (arXiv:2505.09388); the norms: Henry et al., 2020 (arXiv:2010.04245).
"""

import dataclasses
from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.llama import LLAMA_LIKE, NAMES, read_llama_like
from pretrain.model.families.qwen2 import acting_window
from pretrain.model.families.table import KEY_NORM, QUERY_NORM
from pretrain.model.families.window import refuse_window

QUERY_GROUPS = 32
"""Value of num_key_value_heads in a config that does not state it."""
WINDOW = 4096
"""Value of sliding_window in a config that does not state it, and uses it."""
HEAD_SIZE = 128
"""Value of head_dim in a config that does not state it."""
FIXED: dict[str, Any] = {"qk_layernorm": True}


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic."""
    content = LLAMA_LIKE.write_config(model) | {"sliding_window": None, "use_sliding_window": False}
    return {key: value for key, value in content.items() if key != "mlp_bias"}


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    refuse_window(fields, acting_window(fields, WINDOW))
    return read_llama_like(fields, default_groups=QUERY_GROUPS, default_head_size=HEAD_SIZE, **FIXED)


QWEN3 = dataclasses.replace(
    LLAMA_LIKE,
    title="Qwen3",
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    fixed=FIXED,
    names={**NAMES, QUERY_NORM: "self_attn.q_norm.weight", KEY_NORM: "self_attn.k_norm.weight"},
    write_config=write_config,
    read_config=read_config,
)
