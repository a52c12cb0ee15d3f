"""The numbers of a stability report while they are on the device: sums and maxima by part of the model, in one flat tensor."""

from typing import Literal, get_args

import torch

from pretrain.model.families.table import EMBEDDING, OUTPUT

Sum = Literal[
    "residual", "attention", "feed_forward", "elements", "log_denominator", "tokens", "gradient", "weight", "update"
]
"""What is added up: squares of activations, and how many elements each of the three had; logarithms of denominators, and how many;
squares of gradients, weights and updates."""
Maximum = Literal["residual", "attention_logit", "output_logit"]
SUMS: tuple[Sum, ...] = get_args(Sum)
MAXIMA: tuple[Maximum, ...] = get_args(Maximum)
EMBEDDING_ROW = 0
"""Row of the embedding; layer number n, counted from 0, has row n + 1."""


class Figures:
    """One step's numbers, with the same rows on every rank: what a rank has not seen adds nothing. fp64."""

    def __init__(self, num_layers: int, device: torch.device) -> None:
        rows = num_layers + 3
        self.final_norm_row, self.output_row = num_layers + 1, num_layers + 2
        self.flat = torch.zeros((len(SUMS) + len(MAXIMA)) * rows, dtype=torch.float64, device=device)
        self.flat_sums, self.flat_maxima = self.flat.split([len(SUMS) * rows, len(MAXIMA) * rows])
        self.flat_maxima.fill_(float("-inf"))
        self._sums, self._maxima = self.flat_sums.view(-1, rows), self.flat_maxima.view(-1, rows)

    def add(self, what: Sum, row: int, value: torch.Tensor | float) -> None:
        """Add to a sum. No host wait."""
        self._sums[SUMS.index(what), row].add_(value)

    def add_rows(self, what: Sum, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Add each of some values to the sum of its row. Args: rows, int64 [n]; values, fp64 [n]."""
        self._sums[SUMS.index(what)].index_add_(0, rows, values)

    def reach(self, what: Maximum, row: int, value: torch.Tensor) -> None:
        """Raise a maximum to a value, if that is larger; one that is no number makes it infinite. No host wait."""
        # Not a number is lost in a maximum over ranks, which infinity is not.
        known = torch.nan_to_num(value.double(), nan=float("inf"), posinf=float("inf"), neginf=float("-inf"))
        cell = self._maxima[MAXIMA.index(what), row]
        cell.copy_(torch.maximum(cell, known))


def row_of_layer(layer: torch.nn.Module) -> int:
    """Return the row of a decoder layer, which megatron numbers from 1 through the whole model."""
    return layer.layer_number  # type: ignore[return-value]


def row_of_tensor(name: str, num_layers: int) -> int:
    """Return the row of a tensor by its name in the whole model."""
    if name.startswith("decoder.layers."):
        return int(name.split(".")[2]) + 1
    return {EMBEDDING: EMBEDDING_ROW, OUTPUT: num_layers + 2}.get(name, num_layers + 1)
