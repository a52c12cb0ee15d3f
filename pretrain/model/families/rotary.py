"""Rotary positions in a Hugging Face ``config.json``, both ways: their base, and their scaling for long sequences.

Both current major versions of `transformers` are read and written: 4 has ``rope_theta`` and ``rope_scaling``, 5 has both in
``rope_parameters``. Source: transformers, modeling_rope_utils.py.
"""

import math
from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields

ROPE_THETA = 10_000.0
"""Value of rope_theta in a config that does not state it, such as those of Llama 1 and 2."""
PLACES = ("rope_scaling", "rope_parameters")
SCALINGS = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "yarn": frozenset({"factor", "original_max_position_embeddings"}),
}
"""Keys of each kind, all of which it must state."""
MAY_STATE = {"yarn": frozenset({"beta_fast", "beta_slow", "attention_factor"})}
"""Further keys of a kind; null, or not stated, is its default."""
ORIGINAL_LENGTH = "original_max_position_embeddings"
ROTARY_FIELDS = frozenset(
    {
        "rotary_base", "rotary_scaling", "rotary_scaling_factor", "rotary_scaling_original_length",
        "rotary_scaling_low_freq_factor", "rotary_scaling_high_freq_factor", "rotary_scaling_beta_fast",
        "rotary_scaling_beta_slow", "rotary_scaling_attention_factor",
    }
)  # fmt: skip
"""Fields of ModelConfig that are read and written here."""


def write_rotary(model: ModelConfig) -> dict[str, Any]:
    """Return the keys of config.json that state a model's rotary positions."""
    scaling = write_scaling(model)
    found = {"rope_parameters": {"rope_theta": model.rotary_base, **scaling}, "rope_theta": model.rotary_base}
    return found if model.rotary_scaling == "none" else found | {"rope_scaling": scaling}


def write_scaling(model: ModelConfig) -> dict[str, Any]:
    """Return the object that states a model's scaling, as transformers 4 has it in rope_scaling."""
    kind = model.rotary_scaling
    if kind == "none":
        return {"rope_type": "default"}
    scaling: dict[str, Any] = {"rope_type": kind, "factor": model.rotary_scaling_factor}
    if kind == "llama3":
        scaling |= {
            "low_freq_factor": model.rotary_scaling_low_freq_factor,
            "high_freq_factor": model.rotary_scaling_high_freq_factor,
        }
    if kind == "yarn":
        stated = model.rotary_scaling_attention_factor
        factor = model.rotary_scaling_factor
        scaling |= {
            "beta_fast": model.rotary_scaling_beta_fast,
            "beta_slow": model.rotary_scaling_beta_slow,
            "attention_factor": _factor_of_yarn(factor) if stated is None else stated,
        }
    if kind in ("llama3", "yarn"):
        scaling[ORIGINAL_LENGTH] = model.rotary_scaling_original_length
    return scaling


def read_rotary(
    fields: HfFields, *, default_base: float = ROPE_THETA, default_percent: float | None = None
) -> dict[str, Any]:
    """Read the rotary positions of a config.json as fields of ModelConfig.

    Args: default_percent: share of the channels that turn, where it is not stated; None for a class in which all do.
    Raises: UnsupportedModelError.
    """
    percent = _percent(fields, default_percent)
    scalings = [read_scaling(fields, place, fields.get(place, {}), ("partial_rotary_factor",)) for place in PLACES]
    stated = [scaling for scaling in scalings if scaling]
    if len(stated) == 2 and stated[0] != stated[1]:
        raise fields.refuse("rope_scaling", fields.get("rope_scaling"), "must be that of rope_parameters, and differs")
    return {"rotary_base": _base(fields, default_base), **percent, **(stated[0] if stated else {})}


def _percent(fields: HfFields, default: float | None) -> dict[str, Any]:
    """Read the share of the channels that turn, at the top or inside rope_parameters."""
    name = "partial_rotary_factor"
    values = (fields.content, *(fields.get(place, {}) for place in PLACES))
    stated = {
        fields.number(name, value[name]) for value in values if isinstance(value, dict) and value.get(name) is not None
    }
    if len(stated) > 1:
        raise fields.refuse(name, sorted(stated), "is stated more than once, and must have one value")
    percent = stated.pop() if stated else 1.0 if default is None else default
    if percent > 1 or (default is None and percent != 1):
        raise fields.refuse(name, percent, "is not supported; 1.0 works")
    return {} if percent == 1 else {"rotary_percent": percent}


def _base(fields: HfFields, default: float) -> float:
    """Read rope_theta at the top, where transformers 4 writes it, or inside rope_parameters, where 5 does."""
    places = [fields.get(name, {}).get("rope_theta") for name in PLACES]
    stated = {fields.base("rope_theta", value) for value in (fields.get("rope_theta"), *places) if value is not None}
    if len(stated) > 1:
        raise fields.refuse("rope_theta", sorted(stated), "is stated more than once, and must have one value")
    return stated.pop() if stated else default


def read_scaling(fields: HfFields, place: str, stated: Any, shares: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a scaling as fields of ModelConfig; empty where there is none.

    Args: place: its key; stated: its value; shares: keys that others read. Raises: UnsupportedModelError.
    """
    if not isinstance(stated, dict):
        raise fields.refuse(place, stated, "must be an object")
    kinds = {str(stated[key]) for key in ("rope_type", "type") if stated.get(key) is not None} or {"default"}
    kind = min(kinds)
    if len(kinds) > 1 or kind not in SCALINGS:
        raise fields.refuse(
            place, stated, f"scales the rotary positions in a way that is not supported; {', '.join(SCALINGS)} work"
        )
    keys, may = SCALINGS[kind], MAY_STATE.get(kind, frozenset[str]())
    others = sorted(set(stated) - keys - may - {"rope_type", "type", "rope_theta", *shares})
    if others:
        raise fields.refuse(place, stated, f"states {', '.join(others)}, which rope_type {kind!r} does not have")
    if kind == "default":
        return {}
    named = (keys | {key for key in may if stated.get(key) is not None}) - {ORIGINAL_LENGTH}
    read: dict[str, Any] = {
        f"rotary_scaling_{key}": fields.number(f"{place}.{key}", stated.get(key)) for key in sorted(named)
    }
    if ORIGINAL_LENGTH in keys:
        read["rotary_scaling_original_length"] = fields.integer(
            f"{place}.{ORIGINAL_LENGTH}", stated.get(ORIGINAL_LENGTH)
        )
    # Our default is the paper's value, which a config may also spell out.
    if read.get("rotary_scaling_attention_factor") == _factor_of_yarn(read["rotary_scaling_factor"]):
        del read["rotary_scaling_attention_factor"]
    return {"rotary_scaling": kind, **read}


def _factor_of_yarn(factor: float) -> float:
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
