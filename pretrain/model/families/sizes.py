"""Sizes that follow from the table of a model's tensors. Pure integers."""

import math
from collections.abc import Callable

from pretrain.config.schema import ModelConfig
from pretrain.model.families.table import EMBEDDING, TensorSpec
from pretrain.model.families.tensors import table_of


def num_parameters(model: ModelConfig) -> int:
    """Return the number of trainable parameters, without vocabulary padding."""
    table = table_of(model)
    layer = sum(spec.num_parameters for spec in table.layer)
    return model.num_layers * layer + sum(spec.num_parameters for spec in (*table.first, *table.last))


def product_weights(model: ModelConfig) -> int:
    """Return the number of weights that every token is multiplied with: all matrices, the embedding only as an output layer."""
    table = table_of(model)
    layer = sum(spec.num_parameters for spec in table.layer if spec.is_matrix)
    ends = sum(spec.num_parameters for spec in (*table.first, *table.last) if spec.is_matrix and spec.name != EMBEDDING)
    tied_output = model.vocab_size * model.hidden_size if model.share_embeddings_and_output_weights else 0
    return model.num_layers * layer + ends + tied_output


def checkpoint_bytes(model: ModelConfig, *, num_states: int | Callable[[TensorSpec], int]) -> int:
    """Return the bytes of one checkpoint, vocabulary padding included; other files are small.

    Args: num_states: float32 numbers of each parameter, the master value and what the optimizer keeps (optim/registry.py): of
        every tensor as many, or by the tensor.
    """

    def size(spec: TensorSpec) -> int:
        return 4 * math.prod(spec.shape) * (num_states if isinstance(num_states, int) else num_states(spec))

    table = table_of(model)
    ends = sum(size(spec) for spec in (*table.first, *table.last))
    return model.num_layers * sum(size(spec) for spec in table.layer) + ends
