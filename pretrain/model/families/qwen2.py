"""Qwen2, and Qwen2.5: like Llama, with biases of queries, keys and values.

Source: Yang et al., Qwen2, 2024 (arXiv:2407.10671).
"""

import dataclasses
from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.llama import LLAMA_LIKE, NAMES, read_llama_like
from pretrain.model.families.table import KEY, QUERY, QUERY_KEY_VALUE_BIAS, VALUE
from pretrain.model.families.window import refuse_window

QUERY_GROUPS = 32
"""Value of num_key_value_heads in a config that does not state it."""
WINDOW = 4096
"""Value of sliding_window in a config that does not state it, and uses it."""
FIXED: dict[str, Any] = {"add_qkv_bias": True}


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic. The biases have no key: they belong to the class."""
    content = LLAMA_LIKE.write_config(model) | {"sliding_window": None, "use_sliding_window": False}
    return {key: value for key, value in content.items() if key not in ("attention_bias", "mlp_bias")}


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    refuse_window(fields, acting_window(fields, WINDOW))
    return read_llama_like(fields, default_groups=QUERY_GROUPS, **FIXED)


def acting_window(fields: HfFields, default: int | None) -> Any:
    """Return the sliding window of a config.json of Qwen's kind, which counts only where use_sliding_window is true."""
    return fields.get("sliding_window", default) if fields.get("use_sliding_window", False) else None


QWEN2 = dataclasses.replace(
    LLAMA_LIKE,
    title="Qwen2",
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    fixed=FIXED,
    names={
        **NAMES,
        f"{QUERY_KEY_VALUE_BIAS}/{QUERY}": "self_attn.q_proj.bias",
        f"{QUERY_KEY_VALUE_BIAS}/{KEY}": "self_attn.k_proj.bias",
        f"{QUERY_KEY_VALUE_BIAS}/{VALUE}": "self_attn.v_proj.bias",
    },
    write_config=write_config,
    read_config=read_config,
)
