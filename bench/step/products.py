"""The matrix products of a step and nothing else: what a step cannot go below without other products."""

import torch

from bench.step.task import Precision, Shape


class Products:
    """The three products of every linear layer, with the shapes and transposes that autograd gives them; without attention's."""

    def __init__(self, shape: Shape, precision: Precision) -> None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        heads = (shape.num_heads + 2 * shape.num_groups) * shape.head_size
        layer = [
            (heads, shape.hidden_size),
            (shape.hidden_size, shape.num_heads * shape.head_size),
            (2 * shape.ffn_hidden_size, shape.hidden_size),
            (shape.hidden_size, shape.ffn_hidden_size),
        ]
        linears = [(*linear, shape.num_layers) for linear in layer] + [(shape.vocab_size, shape.hidden_size, 1)]
        self.operands = [
            (
                torch.randn(shape.tokens, columns, dtype=dtype),
                torch.randn(rows, columns, dtype=dtype),
                torch.randn(shape.tokens, rows, dtype=dtype),
                count,
            )
            for rows, columns, count in linears
        ]
        """Input, weight and gradient of the output of each kind of linear layer, and how many there are."""

    def step(self, rows: torch.Tensor) -> None:
        for inputs, weight, _, count in self.operands:
            for _ in range(count):
                _ = inputs @ weight.t()
        for inputs, weight, gradient, count in self.operands:
            for _ in range(count):
                _ = gradient @ weight
                _ = gradient.t() @ inputs
