"""Rotary positions in a Hugging Face ``config.json``, both ways: their base, and their scaling for long sequences.

Both current major versions of `transformers` are read and written: 4 has ``rope_theta`` and ``rope_scaling``, 5 has both in
``rope_parameters``. Source: transformers, modeling_rope_utils.py.
"""

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
}
"""Keys of each kind, all of which it must state."""
ROTARY_FIELDS = frozenset(
    {
        "rotary_base", "rotary_scaling", "rotary_scaling_factor", "rotary_scaling_original_length",
        "rotary_scaling_low_freq_factor", "rotary_scaling_high_freq_factor",
    }
)  # fmt: skip
"""Fields of ModelConfig that are read and written here."""


def write_rotary(model: ModelConfig) -> dict[str, Any]:
    """Return the keys of config.json that state a model's rotary positions."""
    scaling: dict[str, Any] = {"rope_type": "default"}
    if model.rotary_scaling != "none":
        scaling = {"rope_type": model.rotary_scaling, "factor": model.rotary_scaling_factor}
    if model.rotary_scaling == "llama3":
        scaling |= {
            "low_freq_factor": model.rotary_scaling_low_freq_factor,
            "high_freq_factor": model.rotary_scaling_high_freq_factor,
            "original_max_position_embeddings": model.rotary_scaling_original_length,
        }
    found = {"rope_parameters": {"rope_theta": model.rotary_base, **scaling}, "rope_theta": model.rotary_base}
    return found if model.rotary_scaling == "none" else found | {"rope_scaling": scaling}


def read_rotary(fields: HfFields, *, default_base: float) -> dict[str, Any]:
    """Read the rotary positions of a config.json as fields of ModelConfig. Raises: UnsupportedModelError."""
    if fields.get("partial_rotary_factor", 1.0) != 1.0:
        raise fields.refuse("partial_rotary_factor", fields.get("partial_rotary_factor"), "is not supported; 1.0 works")
    scalings = [_scaling(fields, place) for place in PLACES]
    stated = [scaling for scaling in scalings if scaling]
    if len(stated) == 2 and stated[0] != stated[1]:
        raise fields.refuse("rope_scaling", fields.get("rope_scaling"), "must be that of rope_parameters, and differs")
    return {"rotary_base": _base(fields, default_base), **(stated[0] if stated else {})}


def _base(fields: HfFields, default: float) -> float:
    """Read rope_theta at the top, where transformers 4 writes it, or inside rope_parameters, where 5 does."""
    places = [fields.get(name, {}).get("rope_theta") for name in PLACES]
    stated = {fields.number("rope_theta", value) for value in (fields.get("rope_theta"), *places) if value is not None}
    if len(stated) > 1:
        raise fields.refuse("rope_theta", sorted(stated), "is stated more than once, and must have one value")
    return stated.pop() if stated else default


def _scaling(fields: HfFields, place: str) -> dict[str, Any]:
    """Read the scaling at one place; empty where there is none."""
    stated = fields.get(place, {})
    if not isinstance(stated, dict):
        raise fields.refuse(place, stated, "must be an object")
    kinds = {str(stated[key]) for key in ("rope_type", "type") if stated.get(key) is not None} or {"default"}
    kind = min(kinds)
    if len(kinds) > 1 or kind not in SCALINGS:
        raise fields.refuse(
            place, stated, f"scales the rotary positions in a way that is not supported; {', '.join(SCALINGS)} work"
        )
    if stated.get("partial_rotary_factor", 1.0) != 1.0:
        raise fields.refuse(
            f"{place}.partial_rotary_factor", stated["partial_rotary_factor"], "is not supported; 1.0 works"
        )
    keys = SCALINGS[kind]
    others = sorted(set(stated) - keys - {"rope_type", "type", "rope_theta", "partial_rotary_factor"})
    if others:
        raise fields.refuse(place, stated, f"states {', '.join(others)}, which rope_type {kind!r} does not have")
    if kind == "default":
        return {}
    numbers = {
        key: fields.number(f"{place}.{key}", stated.get(key))
        for key in sorted(keys - {"original_max_position_embeddings"})
    }
    read = {f"rotary_scaling_{key}": value for key, value in numbers.items()}
    if kind == "llama3":
        length = "original_max_position_embeddings"
        read["rotary_scaling_original_length"] = fields.integer(f"{place}.{length}", stated.get(length))
    return {"rotary_scaling": kind, **read}
