"""What every contestant trains: one Llama, its optimizer's settings, and its batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.1
"""Of matrices; norms have none."""
BETAS = (0.9, 0.95)
EPSILON = 1e-8
CLIP = 1.0

Precision = Literal["fp32", "bf16"]
Weights = dict[str, torch.Tensor]
"""Initial weights under megatron-core's names, float32."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama and its batch; as it stands, 26.1 M parameters and 2,048 tokens a step."""

    num_layers: int = 6
    hidden_size: int = 512
    num_heads: int = 8
    num_groups: int = 4
    ffn_hidden_size: int = 1408
    vocab_size: int = 8192
    seq_length: int = 512
    batch_size: int = 4
    rotary_base: float = 10_000.0
    norm_epsilon: float = 1e-5

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch_size * self.seq_length


class Figures(NamedTuple):
    """What a step found before its update."""

    loss: float
    """Mean cross entropy of the batch, in nats."""
    grad_norm: float
    """Global norm before clipping."""


class Contestant(Protocol):
    """A model with its optimizer, ready for the first step."""

    def step(self, rows: torch.Tensor) -> Figures | None:
        """Train one step. Args: rows, int64 [batch_size, seq_length + 1]. Returns: None where nothing is trained."""
        ...


def batches(shape: Shape, count: int) -> list[torch.Tensor]:
    """Return batches of tokens, int64 [batch_size, seq_length + 1], as frequent as words are: there is something to learn."""
    generator = np.random.default_rng(1)
    frequency = 1.0 / np.arange(1, shape.vocab_size + 1)
    size = (shape.batch_size, shape.seq_length + 1)
    return [
        torch.from_numpy(generator.choice(shape.vocab_size, size=size, p=frequency / frequency.sum()).astype(np.int64))
        for _ in range(count)
    ]


def fused_adamw(parameters: Sequence[nn.Parameter]) -> torch.optim.AdamW:
    """Return PyTorch's own fused AdamW with the settings of the task."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, fused=True)


def queries_keys_values(weight: torch.Tensor, shape: Shape) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Take megatron's fused projection apart, which holds the queries, the key and the value of each group one after the other."""
    per_group = shape.num_heads // shape.num_groups
    groups = weight.view(shape.num_groups, per_group + 2, shape.head_size, shape.hidden_size)
    queries, keys, values = groups.split([per_group, 1, 1], dim=1)
    return queries.flatten(0, 2), keys.flatten(0, 2), values.flatten(0, 2)
