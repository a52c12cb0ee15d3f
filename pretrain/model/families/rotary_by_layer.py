"""Rotary positions in a Hugging Face ``config.json`` of a class whose layers with a window have their own, both ways.

transformers 4 has ``rope_theta`` and ``rope_scaling`` for layers without a window and, in some classes, ``rope_local_base_freq``
for the others; 5 has an object for each kind of layer in ``rope_parameters``. Scaled are the layers without a window alone.
"""

from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.rotary import read_scaling, write_scaling
from pretrain.model.families.window import FULL, SLIDING


def write_rotary_by_layer(model: ModelConfig) -> dict[str, Any]:
    """Return the keys of config.json that state a model's rotary positions."""
    scaling, base = write_scaling(model), model.rotary_base
    local = base if model.local_rotary_base is None else model.local_rotary_base
    by_layer = {FULL: {"rope_theta": base, **scaling}, SLIDING: {"rope_theta": local, "rope_type": "default"}}
    found = {"rope_parameters": by_layer, "rope_theta": base}
    return found if model.rotary_scaling == "none" else found | {"rope_scaling": scaling}


def misfit_of_scaling(model: ModelConfig) -> str | None:
    """Return why such a class cannot compute a model of these fields: it does not scale in layers with a window; None if it can."""
    if model.sliding_window and model.full_attention_layer_interval is None and model.rotary_scaling != "none":
        return "model.rotary_scaling in layers with model.sliding_window"
    return None


def read_rotary_by_layer(
    fields: HfFields, windows: dict[str, Any], *, default_base: float, default_local_base: float | None
) -> dict[str, Any]:
    """Read the rotary positions of a config.json as fields of ModelConfig.

    Args: windows: as ``read_window`` returns; default_local_base: base of layers with a window where it is not stated, None for a
        class in which it is that of the others.
    Raises: UnsupportedModelError.
    """
    by_layer = fields.get("rope_parameters", {})
    if not isinstance(by_layer, dict):
        raise fields.refuse("rope_parameters", by_layer, f"must be an object with {FULL!r} and {SLIDING!r}")
    if others := sorted(set(by_layer) - {FULL, SLIDING}):
        raise fields.refuse(
            "rope_parameters",
            by_layer,
            f"must hold nothing but {FULL!r} and {SLIDING!r}, and holds also {', '.join(others)}",
        )
    if (percent := fields.get("partial_rotary_factor", 1.0)) != 1.0:
        raise fields.refuse("partial_rotary_factor", percent, "is not supported; 1.0 works")
    full, sliding = (_object(fields, by_layer, kind) for kind in (FULL, SLIDING))
    stated = [read_scaling(fields, f"rope_parameters.{FULL}", full)] if full else []
    if (old := fields.get("rope_scaling")) is not None:
        stated.append(read_scaling(fields, "rope_scaling", old))
    if len(stated) == 2 and stated[0] != stated[1]:
        raise fields.refuse("rope_scaling", old, f"must be that of rope_parameters.{FULL}, and differs")
    if read_scaling(fields, f"rope_parameters.{SLIDING}", sliding):
        raise fields.refuse(f"rope_parameters.{SLIDING}", sliding, "must not scale; rope_type 'default' works")
    base = _one(fields, "rope_theta", (fields.get("rope_theta"), full.get("rope_theta")), default_base)
    local = _one(
        fields,
        "rope_local_base_freq",
        (fields.get("rope_local_base_freq"), sliding.get("rope_theta")),
        base if default_local_base is None else default_local_base,
    )
    scaling = stated[0] if stated else {}
    if windows.get("sliding_window") is not None and windows.get("full_attention_layer_interval") is None:
        return {"rotary_base": local}  # every layer has a window
    is_other = windows.get("sliding_window") is not None and local != base
    return {"rotary_base": base, **scaling, **({"local_rotary_base": local} if is_other else {})}


def _object(fields: HfFields, by_layer: dict[str, Any], kind: str) -> dict[str, Any]:
    stated = by_layer.get(kind) or {}
    if not isinstance(stated, dict):
        raise fields.refuse(f"rope_parameters.{kind}", stated, "must be an object")
    return stated


def _one(fields: HfFields, name: str, values: tuple[Any, ...], default: float) -> float:
    """Return the one value that a number is stated with at several places."""
    stated = {fields.base(name, value) for value in values if value is not None}
    if len(stated) > 1:
        raise fields.refuse(name, sorted(stated), "is stated more than once, and must have one value")
    return stated.pop() if stated else default
