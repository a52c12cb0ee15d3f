"""What a family of models is: its table of tensors, the configuration it uses, and its Hugging Face side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.table import Table


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family. It has a file, and a line in ``FAMILIES``."""

    title: str
    """Its name for people."""
    architecture: str
    """What ``architectures`` of a Hugging Face config.json says."""
    model_type: str
    """What ``model_type`` says there."""
    fields: frozenset[str]
    """The fields of ModelConfig that it uses; a model with another one off its default is not of this family."""
    table: Callable[[ModelConfig], Table]
    """The tensors of a model."""
    write_config: Callable[[ModelConfig], dict[str, Any]]
    """What config.json says of a model's arithmetic; an export adds its names, lengths and token ids."""
    read_config: Callable[[HfFields], ModelConfig]
    """The model that a config.json describes. Raises: UnsupportedModelError naming what in it we do not compute."""
