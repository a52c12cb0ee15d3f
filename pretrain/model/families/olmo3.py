"""OLMo 3: like OLMo 2, with a sliding window in most layers; scaled rotary positions are those of the other layers alone.

Source: OLMo team, OLMo 3, 2025 (https://allenai.org/olmo); transformers, modeling_olmo3.py.
"""

import dataclasses
from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.llama import read_llama_like
from pretrain.model.families.olmo2 import EPSILON, FIXED, OLMO2
from pretrain.model.families.rotary_by_layer import misfit_of_scaling, read_rotary_by_layer, write_rotary_by_layer
from pretrain.model.families.window import WINDOW_FIELDS, read_window, write_window

WINDOW = 4096
"""Value of sliding_window in a config that does not state it."""
INTERVAL = 4
"""Every how many layers one has no window, in a config that does not state layer_types."""
ROPE_THETA = 500_000.0
"""Value of rope_theta in a config that does not state it."""


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic."""
    return OLMO2.write_config(model) | write_window(model) | write_rotary_by_layer(model)


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    windows = read_window(fields, default_window=WINDOW, default_interval=INTERVAL)
    rotary = read_rotary_by_layer(fields, windows, default_base=ROPE_THETA, default_local_base=None)
    if fields.get("rope_parameters") is None and rotary["rotary_base"] != ROPE_THETA:
        raise fields.refuse(
            "rope_theta", rotary["rotary_base"],
            f"is read for all layers by transformers 4, and for those without a window alone by 5; {ROPE_THETA} works, or "
            "rope_parameters with both kinds of layers",
        )  # fmt: skip
    if "local_rotary_base" in rotary:
        raise fields.refuse(
            "rope_parameters", fields.get("rope_parameters"), "must have one rope_theta for all layers of this class"
        )
    groups = fields.get("num_attention_heads")
    return read_llama_like(fields, default_groups=groups, default_epsilon=EPSILON, **FIXED, **rotary, **windows)


OLMO3 = dataclasses.replace(
    OLMO2,
    title="OLMo 3",
    architecture="Olmo3ForCausalLM",
    model_type="olmo3",
    fields=OLMO2.fields | WINDOW_FIELDS,
    misfit=misfit_of_scaling,
    write_config=write_config,
    read_config=read_config,
)
