"""Muon in plain PyTorch, written from the papers, for tests to compare ours with. Nothing of this repository is imported but what
is beside this file.

Every weight is one whole tensor in double precision, in megatron-core's fused layout (tests/reference/llama.py). Newton-Schulz is
not iterated with products of matrices: a singular value decomposition gives the singular values, and the polynomial is iterated on
them. The optimizer of all other parameters is torch's own AdamW.

Sources: Muon (Jordan et al., 2024), Moonlight (arXiv:2502.16982), AdamW (arXiv:1711.05101).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.reference.optimizers import ReferenceOptimizer, average


@dataclass(kw_only=True)
class ReferenceMuon(ReferenceOptimizer):
    """Muon for the matrices of the layers, AdamW for the rest."""

    num_query_groups: int
    kv_channels: int
    momentum: float
    nesterov: bool
    num_steps: int
    scale: str
    betas: tuple[float, float]
    eps: float
    adams: dict[str, tuple[Tensor, torch.optim.AdamW]] = field(default_factory=dict)

    def updated(self, name: str, weight: Tensor, gradient: Tensor, *, number: int, rate: float) -> Tensor:
        """The weight after update ``number``; torch's AdamW counts for itself."""
        if name.startswith("decoder.layers.") and weight.dim() == 2:
            return self._by_muon(name, weight, gradient, rate)
        return self._by_adamw(name, weight, gradient, rate)

    def _by_muon(self, name: str, weight: Tensor, gradient: Tensor, rate: float) -> Tensor:
        direction = average(self.states.setdefault(name, {}), "exp_avg", gradient, self.momentum)
        if self.nesterov:
            direction = self.momentum * direction + (1 - self.momentum) * gradient
        update = torch.empty_like(weight)
        for rows in self.rows_of_matrices(name, len(weight)):
            update[rows] = scaled(orthogonal(direction[rows], self.num_steps), self.scale)
        return weight - rate * (self.decay_of(name, weight, rate) * weight + update)

    def rows_of_matrices(self, name: str, num_rows: int) -> list[Tensor]:
        """Which rows of a tensor are a matrix."""
        rows = torch.arange(num_rows)
        if "linear_fc1" in name:
            return list(rows.chunk(2))
        if "linear_qkv" not in name:
            return [rows]
        of_group = rows.view(self.num_query_groups, -1, self.kv_channels)  # heads of a group: queries, key, value
        return [of_group[:, :-2].reshape(-1), of_group[:, -2].reshape(-1), of_group[:, -1].reshape(-1)]

    def _by_adamw(self, name: str, weight: Tensor, gradient: Tensor, rate: float) -> Tensor:
        if name not in self.adams:
            own = weight.clone()
            adam = torch.optim.AdamW([own], betas=self.betas, eps=self.eps, foreach=False)
            self.adams[name] = own, adam
        own, adam = self.adams[name]
        own.grad = gradient
        adam.param_groups[0].update(lr=rate, weight_decay=self.decay_of(name, weight, rate))
        adam.step()
        self.states[name] = {state: adam.state[own][state] for state in ("exp_avg", "exp_avg_sq")}
        return own.clone()


def orthogonal(matrix: Tensor, num_steps: int) -> Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    for _ in range(num_steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ values.diag() @ right


def scaled(update: Tensor, scale: str) -> Tensor:
    rows, columns = update.shape
    return update * {"rms": 0.2 * max(rows, columns) ** 0.5, "spectral": max(1.0, rows / columns) ** 0.5}[scale]
