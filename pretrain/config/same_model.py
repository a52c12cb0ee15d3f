"""Whether two configurations describe one model: what a run is compared with when it resumes, and when it begins with
another run's weights. Both are resolved, a field that one of them did not state has its default there.
"""

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from fanal.shown import in_yaml
from pretrain.config.derive import kv_channels, padded_vocab_size
from pretrain.config.schema import ModelConfig

FREE_AT_RESUME = frozenset({"attention_backend"})
"""Fields that say how the model is computed, not what it is: a run that resumes may change them."""
FREE_AT_START = FREE_AT_RESUME | {
    "rotary_base", "local_rotary_base", "rotary_scaling", "rotary_scaling_factor", "rotary_scaling_original_length",
    "rotary_scaling_low_freq_factor", "rotary_scaling_high_freq_factor", "rotary_scaling_beta_fast", "rotary_scaling_beta_slow",
    "rotary_scaling_attention_factor", "no_rope_layer_interval", "sliding_window", "full_attention_layer_interval",
    "init_method_std",
}  # fmt: skip
"""Fields that do not say which weights there are: a run may begin with weights that were trained under other values."""


def model_differences(saved: ModelConfig, current: ModelConfig, *, free: Collection[str]) -> list[str]:
    """The fields in which the model of a checkpoint is another one than the configured model, each with both values.

    What acts is compared: a head size, or a divisor of the scores, that is stated equals one that follows, and two paddings of the
    vocabulary that give as many rows are equal. A value that follows from others which differ is not named beside them.
    """
    before, after = _acting_values(saved), _acting_values(current)
    units = {"make_vocab_size_divisible_by": " rows in memory"}
    return [
        f"model.{name} (checkpoint {in_yaml(value)}{units.get(name, '')}, config {in_yaml(after[name])}{units.get(name, '')})"
        for name, value in before.items()
        if name not in free and value != after[name] and getattr(saved, name) != getattr(current, name)
    ]


def _acting_values(model: ModelConfig) -> dict[str, Any]:
    stated = {field.name: getattr(model, field.name) for field in fields(model)}
    scalar = model.query_pre_attention_scalar
    return stated | {
        "kv_channels": kv_channels(model),
        "make_vocab_size_divisible_by": padded_vocab_size(model),
        "query_pre_attention_scalar": float(kv_channels(model)) if scalar is None else scalar,
    }
