"""What a family's table of tensors is made of. Pure arithmetic; no torch.

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
"""All of them, in the order of the trainer's layer."""

HF_EMBEDDING, HF_OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class HfPart:
    """A tensor of the Hugging Face model, as rows of one of ours."""

    name: str
    rows: tuple[range, ...]
    """Blocks of our rows, in the order of theirs."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One row of a table: all that the trainer, a checkpoint and an export have to know of a tensor."""

    name: str
    """In a layer's rows without the layer, which ``Table.whole`` puts in front."""
    shape: tuple[int, ...]
    """Of the whole tensor, whatever the layout."""
    hf_parts: tuple[HfPart, ...]
    """The Hugging Face tensors that together hold it, its padding left out."""
    split_dim: int | None = None
    """The dim that tensor parallelism splits; None where every rank holds a copy."""
    sections: tuple[str, ...] = ()
    """Names of equal blocks of rows, one after the other, each of which is split and drawn by itself; none means one block."""
    init_std: float | None = None
    """Standard deviation of the initial values, which are normal with mean 0; None where they all are 1."""
    padding_rows: int = 0
    """Rows at the end that stand for no token: zeros, which the loss never sees."""

    @property
    def num_parameters(self) -> int:
        """Numbers that are trained, padding left out."""
        return (self.shape[0] - self.padding_rows) * math.prod(self.shape[1:])

    @property
    def is_matrix(self) -> bool:
        """Whether a product is made with it; matrices have weight decay, norms have none."""
        return len(self.shape) > 1

    @property
    def seed_names(self) -> tuple[str, ...]:
        """What the initial values of each section are drawn by, besides the seed of the run."""
        return tuple(f"{self.name}/{section}" for section in self.sections) or (self.name,)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Every tensor of a model, in the order in which an export writes them."""

    first: tuple[TensorSpec, ...]
    """Before the layers."""
    layer: tuple[TensorSpec, ...]
    """Of each layer, under the names that they have in it."""
    last: tuple[TensorSpec, ...]
    """After the layers."""
    num_layers: int

    def whole(self) -> dict[str, TensorSpec]:
        """Every tensor by its name in the whole model, layers counted from 0, in the order of the trainer."""
        return {spec.name: spec for spec in self._with(sorted(self.layer, key=lambda spec: PLACES.index(spec.name)))}

    def as_exported(self) -> list[TensorSpec]:
        """The same in the order of an export."""
        return self._with(self.layer)

    def _with(self, layer: Sequence[TensorSpec]) -> list[TensorSpec]:
        layers = [_in_layer(spec, number) for number in range(self.num_layers) for spec in layer]
        return [*self.first, *layers, *self.last]


def layer_tensor(number: int, name: str) -> str:
    """The name in the whole model of a tensor of a layer, counted from 0."""
    return f"decoder.layers.{number}.{name}"


def norm(name: str, size: int, *, hf: str) -> TensorSpec:
    """A row for the weight of a norm, under its Hugging Face name."""
    return TensorSpec(name=name, shape=(size,), hf_parts=(HfPart(name=hf, rows=(range(size),)),))


def _in_layer(spec: TensorSpec, number: int) -> TensorSpec:
    parts = tuple(replace(part, name=f"model.layers.{number}.{part.name}") for part in spec.hf_parts)
    return replace(spec, name=layer_tensor(number, spec.name), hf_parts=parts)
