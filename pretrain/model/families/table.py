"""The table of a family's tensors, and the rows it is made of. Pure arithmetic; no torch.

The trainer's tensors have Megatron's names and layout. Rows are dim 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

EMBEDDING = "embedding.word_embeddings.weight"
FINAL_NORM = "decoder.final_layernorm.weight"
OUTPUT = "output_layer.weight"

# The places in a layer where a family may have a tensor: layer_spec.py trains with those that it fills, inference.py
# decodes with them. Where there is no norm, its input goes through.
INPUT_NORM = "input_layernorm.weight"
QUERY_KEY_VALUE = "self_attention.linear_qkv.weight"
QUERY_NORM = "self_attention.q_layernorm.weight"
KEY_NORM = "self_attention.k_layernorm.weight"
ATTENTION_OUTPUT = "self_attention.linear_proj.weight"
FEED_FORWARD_NORM = "pre_mlp_layernorm.weight"
GATE_AND_UP = "mlp.linear_fc1.weight"
DOWN = "mlp.linear_fc2.weight"
PLACES = (
    INPUT_NORM, ATTENTION_OUTPUT, QUERY_KEY_VALUE, QUERY_NORM, KEY_NORM, FEED_FORWARD_NORM, GATE_AND_UP, DOWN,
)  # fmt: skip
"""All places, in the order of the trainer's layer."""

HF_EMBEDDING, HF_OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class HfPart:
    """A tensor of the Hugging Face model, as rows of one of ours."""

    name: str
    rows: tuple[range, ...]
    """Blocks of our tensor's rows, in the order of the Hugging Face tensor's."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One row of a table: everything that the trainer, a checkpoint and an export need to know about a tensor."""

    name: str
    """Name of the tensor; in the rows of a layer without the layer, which ``Table.whole`` adds."""
    shape: tuple[int, ...]
    """Shape of the whole tensor, whatever the layout."""
    hf_parts: tuple[HfPart, ...]
    """Hugging Face tensors that together hold it, its padding left out."""
    split_dim: int | None = None
    """Dimension that tensor parallelism splits; None where every rank holds a copy."""
    sections: tuple[str, ...] = ()
    """Names of equal, consecutive blocks of rows, each split and initialized by itself; none means one block."""
    init_std: float | None = None
    """Standard deviation of the initial values, which are normal with mean 0; None where they are all 1."""
    padding_rows: int = 0
    """Number of rows at the end without a token: zeros, which the loss leaves out."""

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters, padding left out."""
        return (self.shape[0] - self.padding_rows) * math.prod(self.shape[1:])

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix; matrices have weight decay, norms do not."""
        return len(self.shape) > 1

    @property
    def seed_names(self) -> tuple[str, ...]:
        """Names that key the initial values of each section, together with the run's seed."""
        return tuple(f"{self.name}/{section}" for section in self.sections) or (self.name,)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Every tensor of a model, in the order in which an export writes them."""

    first: tuple[TensorSpec, ...]
    """Tensors before the layers."""
    layer: tuple[TensorSpec, ...]
    """Tensors of each layer, under their names within the layer."""
    last: tuple[TensorSpec, ...]
    """Tensors after the layers."""
    num_layers: int

    def whole(self) -> dict[str, TensorSpec]:
        """Return every tensor by its name in the whole model, layers counted from 0, in the order of the trainer."""
        return {spec.name: spec for spec in self._with(sorted(self.layer, key=lambda spec: PLACES.index(spec.name)))}

    def as_exported(self) -> list[TensorSpec]:
        """Return every tensor in the order of an export."""
        return self._with(self.layer)

    def _with(self, layer: Sequence[TensorSpec]) -> list[TensorSpec]:
        layers = [_in_layer(spec, number) for number in range(self.num_layers) for spec in layer]
        return [*self.first, *layers, *self.last]


def layer_tensor(number: int, name: str) -> str:
    """Return the name in the whole model of a tensor in a layer, counted from 0."""
    return f"decoder.layers.{number}.{name}"


def norm(name: str, size: int, *, hf: str) -> TensorSpec:
    """Return the row of the weight of a norm."""
    return TensorSpec(name=name, shape=(size,), hf_parts=(HfPart(name=hf, rows=(range(size),)),))


def _in_layer(spec: TensorSpec, number: int) -> TensorSpec:
    parts = tuple(replace(part, name=f"model.layers.{number}.{part.name}") for part in spec.hf_parts)
    return replace(spec, name=layer_tensor(number, spec.name), hf_parts=parts)
