"""A family of models: what a Hugging Face class computes, as fields of our configuration, and the names of its tensors."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fanal.shown import in_yaml
from pretrain.config.schema import ModelConfig
from pretrain.model.families.hf_fields import HfFields

ANY_FIELDS = frozenset(
    {
        "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels", "vocab_size",
        "make_vocab_size_divisible_by", "share_embeddings_and_output_weights", "layernorm_epsilon", "init_method_std",
        "attention_backend", "rotary_base",
    }
)  # fmt: skip
"""Fields of ModelConfig that may have any value in every family, as far as ``Family.misfit`` does not refuse it."""


def default_of(name: str) -> Any:
    """Return the default of a field of ModelConfig."""
    return next(field.default for field in dataclasses.fields(ModelConfig) if field.name == name)


HF_EMBEDDING, HF_OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
"""Names of the tensors with a row for each token, in every class."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family. It has a file, and a line in ``FAMILIES``."""

    title: str
    """Name to display."""
    architecture: str
    """Value of ``architectures`` in a Hugging Face config.json."""
    model_type: str
    """Value of ``model_type`` there."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ModelConfig that every model of the family has at this value, though their default is another one."""
    fields: frozenset[str]
    """Further fields that it uses, beside ANY_FIELDS; all others are at their defaults in it."""
    misfit: Callable[[ModelConfig], str | None] = lambda model: None
    """Function from a model that fits ``fixed`` and ``fields`` to the reason why the class cannot compute it; None if it can."""
    names: Mapping[str, str]
    """Name of each tensor, or part of one (table.part_name), in the class; within its layer for those of a layer."""
    constants: Mapping[str, float] = field(default_factory=dict)
    """Tensors that every layer has in the class with one fixed value, by their names within the layer."""
    state_after_attention: str = "post_attention_layernorm"
    """Module of a layer in the class whose input is the residual stream after attention."""
    write_config: Callable[[ModelConfig], dict[str, Any]]
    """Function from a model to its arithmetic in config.json; an export adds names, lengths and token ids."""
    read_config: Callable[[HfFields], ModelConfig]
    """Function from a config.json to its model. Raises: UnsupportedModelError naming what is not supported."""

    def problems(self, model: ModelConfig, off_default: frozenset[str]) -> list[str]:
        """Return the fields that keep a model out of the family, or the family's own reason; empty if it belongs to it."""
        used = ANY_FIELDS | self.fields
        names = sorted(name for name in off_default - used if name not in self.fixed)
        names += sorted(name for name, value in self.fixed.items() if getattr(model, name) != value)
        if names:
            works = {name: self.fixed.get(name, default_of(name)) for name in names}
            return [f"model.{name} ({in_yaml(getattr(model, name))}; there {in_yaml(works[name])})" for name in names]
        reason = self.misfit(model)
        return [] if reason is None else [reason]
