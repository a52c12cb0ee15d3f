"""Read a Hugging Face folder's ``config.json`` as our model, or refuse a feature by its name. No torch, nothing executed."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fanal.errors import error_type
from fanal.links import read_inside
from fanal.shown import kind_of
from pretrain.config.model_rules import model_problem
from pretrain.config.number_rules import LARGEST, size_problem
from pretrain.config.schema import ModelConfig
from pretrain.convert.ours.token_ids import token_ids
from pretrain.model.families import FAMILIES
from pretrain.model.families.family import Family
from pretrain.model.families.hf_fields import HfFields, UnsupportedModelError

CONFIG_JSON = "config.json"


@dataclass(frozen=True, kw_only=True)
class HfModel:
    """The model that a ``config.json`` describes."""

    model: ModelConfig
    max_positions: int
    """Number of tokens in the longest sequence the model was made for."""
    content: dict[str, Any]
    """Content of the file, unchanged."""


def read_hf_config(folder: Path, *, make_vocab_size_divisible_by: int = 128) -> HfModel:
    """Read the model of a Hugging Face folder.

    Raises: UnsupportedModelError naming the key, its value and what is supported; SpecialTokenIdError; as ``open_inside``.
    """
    path = folder / CONFIG_JSON
    try:
        text = read_inside(folder, CONFIG_JSON)
    except OSError as error:
        raise error_type(error, UnsupportedModelError)(
            f"HF_DIR ({folder}) must be a Hugging Face model's folder, and its {CONFIG_JSON} cannot be read ({error.strerror})"
        ) from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsupportedModelError(f"{path} is not JSON ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise UnsupportedModelError(f"{path} must hold an object; it holds {kind_of(content)}; copy it again")
    fields = HfFields(path, content)
    model = replace(_family(fields).read_config(fields), make_vocab_size_divisible_by=make_vocab_size_divisible_by)
    problem = size_problem(
        replace(model, num_layers=1)
    )  # the layers are counted against the files' tensors (assemble.py)
    if problem is not None:
        raise UnsupportedModelError(f"{path} describes a model that is too large for any machine: {problem}")
    if model.num_layers <= LARGEST["model"]["num_layers"] and (problem := model_problem(model)) is not None:
        raise UnsupportedModelError(f"{path} describes a model that no run can have: {problem}")
    max_positions = fields.size("max_position_embeddings")
    token_ids(content, path, vocab_size=model.vocab_size)
    return HfModel(model=model, max_positions=max_positions, content=content)


def _family(fields: HfFields) -> Family:
    """Return the family that ``architectures`` names, or ``model_type`` where it is not stated. Raises: UnsupportedModelError."""
    if fields.get("auto_map"):
        raise fields.refuse("auto_map", fields.get("auto_map"), "names code in the folder, which is never run")
    stated, model_type = fields.get("architectures", []), fields.get("model_type")
    found = [
        family
        for family in FAMILIES
        if stated == [family.architecture] or (not stated and model_type == family.model_type)
    ]
    if not found:
        _refuse_wrapper(fields, stated)
        supported = ", ".join(family.architecture for family in FAMILIES)
        raise fields.refuse("architectures", stated, f"must be a supported one: {supported}")
    family = found[0]
    if model_type not in (None, family.model_type):
        raise fields.refuse(
            "model_type", model_type, f"must be {family.model_type!r}, which goes with {family.architecture}"
        )
    if fields.get("quantization_config"):
        raise fields.refuse(
            "quantization_config", fields.get("quantization_config"), "is not supported; use the unquantized weights"
        )
    return family


def _refuse_wrapper(fields: HfFields, stated: Any) -> None:
    """Refuse a text model of ours that is a part of a larger one, such as Gemma 3 with images. Raises: UnsupportedModelError."""
    inner = fields.get("text_config")
    model_type = inner.get("model_type") if isinstance(inner, dict) else None
    for family in FAMILIES:
        if model_type == family.model_type:
            raise fields.refuse(
                "architectures",
                stated,
                f"holds a text model ({model_type}, text_config) as a part of itself; that part, saved alone as "
                f"{family.architecture}, works",
            )
