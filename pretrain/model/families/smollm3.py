"""SmolLM3: like Llama, with layers that have no rotary positions (NoPE), every fourth one.

Source: Bakouch et al., SmolLM3, 2025 (https://huggingface.co/blog/smollm3); Yang et al., RoPE to NoPE and back again, 2025
(arXiv:2501.18795).
"""

import dataclasses
from typing import Any

from pretrain.config.derive import has_rotary_positions
from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.llama import LLAMA_LIKE, read_llama_like
from pretrain.model.families.qwen2 import acting_window
from pretrain.model.families.window import refuse_window

QUERY_GROUPS = 4
"""Value of num_key_value_heads in a config that does not state it."""
ROPE_THETA = 2_000_000.0
"""Value of rope_theta in a config that does not state it."""
INTERVAL = 4
"""Value of no_rope_layer_interval in a config that does not state it."""


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic."""
    return LLAMA_LIKE.write_config(model) | {
        "no_rope_layer_interval": model.no_rope_layer_interval,
        # In spite of their name in transformers, 1 is a layer with rotary positions.
        "no_rope_layers": [int(has_rotary_positions(model, layer)) for layer in range(model.num_layers)],
        "sliding_window": None,
        "use_sliding_window": False,
    }


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    refuse_window(fields, acting_window(fields, None))
    model = read_llama_like(fields, default_groups=QUERY_GROUPS, default_tied=True, default_rotary_base=ROPE_THETA)
    return _with_interval(fields, model)


def _with_interval(fields: HfFields, model: ModelConfig) -> ModelConfig:
    """Find the interval whose layers are those without rotary positions: the list counts where both are stated."""
    stated = fields.get("no_rope_layers")
    if stated is None:
        return dataclasses.replace(model, no_rope_layer_interval=fields.size("no_rope_layer_interval", INTERVAL))
    rotary = [bool(value) for value in stated] if isinstance(stated, list) else []
    if len(rotary) != model.num_layers:
        raise fields.refuse(
            "no_rope_layers", stated, f"must be a list of num_hidden_layers ({model.num_layers}) zeros and ones"
        )
    if all(rotary):
        return model
    found = dataclasses.replace(model, no_rope_layer_interval=rotary.index(False) + 1)
    if rotary != [has_rotary_positions(found, layer) for layer in range(model.num_layers)]:
        raise fields.refuse(
            "no_rope_layers", stated, "is supported only where every N-th layer is 0 and all others are 1"
        )
    return found


SMOLLM3 = dataclasses.replace(
    LLAMA_LIKE,
    title="SmolLM3",
    architecture="SmolLM3ForCausalLM",
    model_type="smollm3",
    fields=LLAMA_LIKE.fields | {"no_rope_layer_interval"},
    write_config=write_config,
    read_config=read_config,
)
