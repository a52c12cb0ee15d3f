"""Sliding windows in a Hugging Face ``config.json``, both ways: their size, and the layers that have none."""

from typing import Any

from pretrain.config.derive import has_sliding_window
from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields

FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW_FIELDS = frozenset({"sliding_window", "full_attention_layer_interval"})
"""Fields of ModelConfig that are read and written here."""


def write_window(model: ModelConfig) -> dict[str, Any]:
    """Return the keys of config.json that state which layers have a window."""
    types = [SLIDING if has_sliding_window(model, layer) else FULL for layer in range(model.num_layers)]
    return {"layer_types": types, "sliding_window": model.sliding_window}


def read_window(fields: HfFields, *, default_window: int, default_interval: int) -> dict[str, Any]:
    """Read the windows of a config.json as fields of ModelConfig: the list of layers counts where an interval is stated too.

    Args: default_interval: every how many layers one has no window, where the list is not stated.
    Raises: UnsupportedModelError.
    """
    window, layers = fields.size("sliding_window", default_window), fields.size("num_hidden_layers")
    stated = fields.get("layer_types")
    needs_one = stated is None or (isinstance(stated, list) and SLIDING in stated)
    if needs_one and fields.content.get("sliding_window", window) is None:
        raise fields.refuse("sliding_window", None, f"must be stated where layers have one; {default_window} works")
    if stated is None:
        # In a model of fewer layers, all of them have a window.
        return {
            "sliding_window": window,
            "full_attention_layer_interval": default_interval if default_interval <= layers else None,
        }
    if not isinstance(stated, list) or len(stated) != layers or not set(map(str, stated)) <= {FULL, SLIDING}:
        raise fields.refuse(
            "layer_types", stated, f"must be a list of num_hidden_layers ({layers}) entries, {FULL!r} or {SLIDING!r}"
        )
    interval = stated.index(FULL) + 1 if FULL in stated else None
    found = ModelConfig(num_layers=layers, sliding_window=window, full_attention_layer_interval=interval)
    if stated != write_window(found)["layer_types"]:
        raise fields.refuse(
            "layer_types", stated, f"is supported only where every N-th layer is {FULL!r} and all others {SLIDING!r}"
        )
    if interval == 1:
        return {}
    return {"sliding_window": window, "full_attention_layer_interval": interval}


def refuse_window(fields: HfFields, stated: Any) -> None:
    """Refuse a sliding window that is shorter than the longest sequence; a longer one hides nothing.

    Args: stated: value of sliding_window that acts, None for none. Raises: UnsupportedModelError.
    """
    max_positions = fields.size("max_position_embeddings")
    if stated is not None and (type(stated) is not int or stated < max_positions):
        raise fields.refuse(
            "sliding_window", stated,
            f"is not supported below max_position_embeddings ({max_positions}) in this class; null works",
        )  # fmt: skip
    layer_types = fields.get("layer_types", [])
    if not isinstance(layer_types, list):
        raise fields.refuse("layer_types", layer_types, "must be a list")
    other = sorted(set(map(str, layer_types)) - {FULL})
    if other:
        raise fields.refuse("layer_types", other, f"is not supported in this class; {FULL!r} works")
