"""Families of models, one file each: their tensors, their configuration and their Hugging Face names.

No torch: the launcher counts parameters too. layer_spec.py makes the layers that train from a family's table.
"""

import dataclasses
from collections.abc import Iterator

from fanal.errors import UserError
from pretrain.config.schema import ModelConfig
from pretrain.model.families.family import Family
from pretrain.model.families.llama import LLAMA
from pretrain.model.families.mistral import MISTRAL
from pretrain.model.families.qwen3 import QWEN3
from pretrain.model.families.smollm3 import SMOLLM3
from pretrain.model.families.table import Table, TensorSpec

FAMILIES: tuple[Family, ...] = (LLAMA, MISTRAL, QWEN3, SMOLLM3)
"""All families. A model belongs to the first one that uses every field it states."""


def family_of(model: ModelConfig) -> Family:
    """Return the family of a model: the first that uses every field that is not at its default.

    Raises: UserError naming the fields that keep the model out of the first family.
    """
    stated = set(_off_default(model))
    for family in FAMILIES:
        if stated <= family.fields:
            return family
    names = sorted(stated - FAMILIES[0].fields)
    raise UserError(
        f"no family of models uses {' and '.join(f'model.{name} ({getattr(model, name)})' for name in names)} with these other "
        "fields; the default works"
    )


def table_of(model: ModelConfig) -> Table:
    """Return the table of a model's tensors."""
    return family_of(model).table(model)


def tensors_of(model: ModelConfig) -> dict[str, TensorSpec]:
    """Return every tensor of a model by its name in the trainer and in checkpoints, layers counted from 0."""
    return table_of(model).whole()


def _off_default(model: ModelConfig) -> Iterator[str]:
    for field in dataclasses.fields(model):
        if getattr(model, field.name) != field.default:
            yield field.name
