"""A Hugging Face folder's ``config.json`` -> our model, or the name of what in it we do not compute. No torch, nothing executed."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fanal.errors import error_type
from pretrain.config.schema import ModelConfig
from pretrain.convert.ours.token_ids import token_ids
from pretrain.model.families import FAMILIES
from pretrain.model.families.family import Family
from pretrain.model.families.hf_fields import HfFields, UnsupportedModelError

CONFIG_JSON = "config.json"


@dataclass(frozen=True, kw_only=True)
class HfModel:
    """What a ``config.json`` says."""

    model: ModelConfig
    max_positions: int
    """Longest sequence the model was made for, in tokens."""
    content: dict[str, Any]
    """The file as it was."""


def read_hf_config(folder: Path, *, make_vocab_size_divisible_by: int = 128) -> HfModel:
    """The model of a Hugging Face folder.

    Raises: UnsupportedModelError naming the key, its value and what is supported; SpecialTokenIdError.
    """
    path = folder / CONFIG_JSON
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise error_type(error, UnsupportedModelError)(
            f"HF_DIR ({folder}) must be a Hugging Face model's folder, and its {CONFIG_JSON} cannot be read ({error.strerror})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UnsupportedModelError(f"{path} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UnsupportedModelError(f"{path} must hold an object; it holds a {type(content).__name__}")
    fields = HfFields(path, content)
    model = replace(_family(fields).read_config(fields), make_vocab_size_divisible_by=make_vocab_size_divisible_by)
    max_positions = fields.size("max_position_embeddings")
    token_ids(content, path, vocab_size=model.vocab_size)
    return HfModel(model=model, max_positions=max_positions, content=content)


def _family(fields: HfFields) -> Family:
    """The family that ``architectures`` names."""
    if fields.get("auto_map"):
        raise fields.refuse("auto_map", fields.get("auto_map"), "names code of the folder's own, which is never run")
    stated = fields.get("architectures", [])
    found = [family for family in FAMILIES if stated == [family.architecture]]
    if not found:
        supported = " and ".join(family.architecture for family in FAMILIES)
        raise fields.refuse("architectures", stated, f"must be one that is supported: {supported}")
    family, model_type = found[0], fields.get("model_type")
    if model_type not in (None, family.model_type):
        raise fields.refuse(
            "model_type", model_type, f"must be {family.model_type!r}, which goes with {family.architecture}"
        )
    if fields.get("quantization_config"):
        raise fields.refuse(
            "quantization_config", fields.get("quantization_config"), "is not supported: take the unquantized weights"
        )
    return family
