"""The table of a model's tensors, and the rows it is made of. Pure arithmetic; no torch.

The trainer's tensors have Megatron's names and layout. Rows are dim 0.
"""

import math
from dataclasses import dataclass, replace

EMBEDDING = "embedding.word_embeddings.weight"
FINAL_NORM = "decoder.final_layernorm.weight"
OUTPUT = "output_layer.weight"

# The places in a layer where a model may have a tensor: layer_spec.py trains with those that it has, inference.py decodes
# with them. Where there is no norm, its input goes through.
INPUT_NORM = "input_layernorm.weight"
INPUT_NORM_BIAS = "input_layernorm.bias"
ATTENTION_OUTPUT = "self_attention.linear_proj.weight"
QUERY_KEY_VALUE = "self_attention.linear_qkv.weight"
QUERY_KEY_VALUE_BIAS = "self_attention.linear_qkv.bias"
QUERY_NORM = "self_attention.q_layernorm.weight"
KEY_NORM = "self_attention.k_layernorm.weight"
POST_ATTENTION_NORM = "self_attention.post_layernorm.weight"
POST_ATTENTION_NORM_BIAS = "self_attention.post_layernorm.bias"
FEED_FORWARD_NORM = "pre_mlp_layernorm.weight"
FEED_FORWARD_NORM_BIAS = "pre_mlp_layernorm.bias"
FEED_FORWARD_INPUT = "mlp.linear_fc1.weight"
DOWN = "mlp.linear_fc2.weight"
XIELU_ALPHA_P = "mlp.activation_func.alpha_p"
XIELU_ALPHA_N = "mlp.activation_func.alpha_n"
POST_FEED_FORWARD_NORM = "mlp.post_layernorm.weight"
POST_FEED_FORWARD_NORM_BIAS = "mlp.post_layernorm.bias"
PLACES = (
    INPUT_NORM, INPUT_NORM_BIAS, ATTENTION_OUTPUT, QUERY_KEY_VALUE, QUERY_KEY_VALUE_BIAS, QUERY_NORM, KEY_NORM,
    POST_ATTENTION_NORM, POST_ATTENTION_NORM_BIAS, FEED_FORWARD_NORM, FEED_FORWARD_NORM_BIAS, FEED_FORWARD_INPUT, DOWN,
    XIELU_ALPHA_P, XIELU_ALPHA_N, POST_FEED_FORWARD_NORM, POST_FEED_FORWARD_NORM_BIAS,
)  # fmt: skip
"""All places, in the order of the trainer's layer."""
FINAL_NORM_BIAS = "decoder.final_layernorm.bias"

# Parts of a tensor that are tensors of their own elsewhere.
QUERY, KEY, VALUE, GATE, UP = "query", "key", "value", "gate", "up"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a tensor, which may be a tensor of its own in other programs."""

    name: str = ""
    """Name of the part; empty where it is the whole, its padding left out."""
    rows: tuple[range, ...]
    """Blocks of rows, in the order in which other programs have them."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One row of a table: everything that the trainer, a checkpoint and an export need to know about a tensor."""

    name: str
    """Name of the tensor; in the rows of a layer without the layer, which ``Table.whole`` adds."""
    shape: tuple[int, ...]
    """Shape of the whole tensor, whatever the layout."""
    parts: tuple[Part, ...]
    """Parts that together hold it, its padding left out."""
    split_dim: int | None = None
    """Dimension that tensor parallelism splits (split.py); None where every rank holds a copy."""
    sections: tuple[str, ...] = ()
    """Names of equal, consecutive blocks of rows, each split and initialized by itself; none means one block."""
    copied_parts: tuple[str, ...] = ()
    """Names of the parts, a block of rows for each query group, of which tensor-parallel ranks hold copies where there are more of
    them than groups; none means that every row has one holder."""
    init_std: float | None = None
    """Standard deviation of the initial values, which are normal with mean 0; None where they are all ``init_value``."""
    init_value: float = 1.0
    """Every initial value, where none is drawn."""
    padding_rows: int = 0
    """Number of rows at the end without a token: zeros, which the loss leaves out."""
    has_token_rows: bool = False
    """Whether each row belongs to a token, as in the embedding and the output layer."""

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters, padding left out."""
        return (self.shape[0] - self.padding_rows) * math.prod(self.shape[1:])

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix, and no norm, bias or learned scalar."""
        return len(self.shape) > 1

    @property
    def is_layer_matrix(self) -> bool:
        """Whether it is a matrix, or several, between the embedding and the output layer."""
        return self.is_matrix and not self.has_token_rows

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
        layer = sorted(self.layer, key=lambda spec: PLACES.index(spec.name))
        layers = [_in_layer(spec, number) for number in range(self.num_layers) for spec in layer]
        return {spec.name: spec for spec in (*self.first, *layers, *self.last)}


def layer_tensor(number: int, name: str) -> str:
    """Return the name in the whole model of a tensor in a layer, counted from 0."""
    return f"decoder.layers.{number}.{name}"


def part_name(name: str, part: Part) -> str:
    """Return the name of a part of a tensor: of the tensor, where the part is the whole."""
    return f"{name}/{part.name}" if part.name else name


def _in_layer(spec: TensorSpec, number: int) -> TensorSpec:
    return replace(spec, name=layer_tensor(number, spec.name))
