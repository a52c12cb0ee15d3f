"""A family of models: its table of tensors, the configuration it uses, and its Hugging Face side."""

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
    """Name to display."""
    architecture: str
    """Value of ``architectures`` in a Hugging Face config.json."""
    model_type: str
    """Value of ``model_type`` there."""
    fields: frozenset[str]
    """Fields of ModelConfig that it uses; a model with another one off its default is not of this family."""
    table: Callable[[ModelConfig], Table]
    """Function from a model to the table of its tensors."""
    write_config: Callable[[ModelConfig], dict[str, Any]]
    """Function from a model to its arithmetic in config.json; an export adds names, lengths and token ids."""
    read_config: Callable[[HfFields], ModelConfig]
    """Function from a config.json to its model. Raises: UnsupportedModelError naming what is not supported."""
