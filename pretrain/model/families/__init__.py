"""Families of models, one file each: what a class of Hugging Face's transformers computes, and its names.

No torch: the launcher counts parameters too. Which tensors a model has follows from its fields alone (tensors.py); a family is
needed to give it to Hugging Face, and to take it from there.
"""

import dataclasses

from fanal.errors import UserError
from pretrain.config.schema import ModelConfig
from pretrain.model.families.apertus import APERTUS
from pretrain.model.families.family import Family
from pretrain.model.families.gemma import GEMMA
from pretrain.model.families.gemma2 import GEMMA2
from pretrain.model.families.gemma3 import GEMMA3
from pretrain.model.families.llama import LLAMA
from pretrain.model.families.mistral import MISTRAL
from pretrain.model.families.nemotron import NEMOTRON
from pretrain.model.families.olmo2 import OLMO2
from pretrain.model.families.olmo3 import OLMO3
from pretrain.model.families.qwen2 import QWEN2
from pretrain.model.families.qwen3 import QWEN3
from pretrain.model.families.smollm3 import SMOLLM3

FAMILIES: tuple[Family, ...] = (
    LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3, OLMO2, OLMO3, APERTUS, NEMOTRON, GEMMA, GEMMA2, GEMMA3,
)  # fmt: skip
"""All families. A model belongs to the first one whose class computes it."""


def family_of(model: ModelConfig) -> Family:
    """Return the family of a model: the first whose class computes it.

    Raises: UserError naming what keeps the model out of the nearest family.
    """
    stated = off_default(model)
    problems = {family.title: (family, family.problems(model, stated)) for family in FAMILIES}
    for family, found in problems.values():
        if not found:
            return family
    family, found = min(problems.values(), key=lambda entry: len(entry[1]))
    raise UserError(
        f"no class of transformers computes this model: {family.architecture} comes nearest, and differs in {', '.join(found)}; "
        "it trains here, and with those values it can be exported"
    )


def off_default(model: ModelConfig) -> frozenset[str]:
    """Return the fields of a model that are not at their defaults."""
    return frozenset(field.name for field in dataclasses.fields(model) if getattr(model, field.name) != field.default)
