"""The update of Muon, over the master values that megatron-core's optimizer keeps. What it is: muon.py."""

from collections.abc import Mapping
from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer

from pretrain.model.families.table import TensorSpec
from pretrain.optim.adamw import OPTIMIZER as ADAMW
from pretrain.optim.matrices import scale_of
from pretrain.optim.newton_schulz import orthogonalize
from pretrain.optim.states import STEP, masters_of, take_groups
from pretrain.optim.whole_matrices import Piece, WholeMatrices


class Muon(torch.optim.Optimizer):
    """Muon for the masters of matrices, and an Adam for the others, with one state and one set of groups."""

    def __init__(self, adam: torch.optim.Optimizer) -> None:
        """Args: adam: over all masters; its groups become ours, and it keeps a part of their parameters (``place``)."""
        defaults = {"momentum": 0.95, "nesterov": True, "num_ns_steps": 5, "scale": "rms"}
        super().__init__([torch.zeros(1)], defaults)
        self.state = adam.state
        adam_groups = [{**group, "params": list(group["params"])} for group in adam.param_groups]
        take_groups(self, adam)
        adam.param_groups = adam_groups
        for group in self.param_groups:
            # In every group: a rank whose range has matrices alone counts as well.
            group[STEP] = 0
        self._adam = adam
        self._groups: dict[torch.Tensor, dict[str, Any]] = {}
        self._whole: WholeMatrices | None = None

    def place(self, inner: MegatronOptimizer, specs: Mapping[torch.nn.Parameter, TensorSpec]) -> None:
        """Tell which masters are of matrices, and plan how these become whole.

        Their dtype while they are orthogonalized, and on their way: bfloat16 for a bf16 model on GPUs, else fp32.
        """
        of_matrices = {main for parameter, main, _ in masters_of(inner) if specs[parameter].is_layer_matrix}
        self._groups = {main: group for group in self.param_groups for main in group["params"] if main in of_matrices}
        for group in self._adam.param_groups:
            group["params"] = [main for main in group["params"] if main not in of_matrices]
        self._adam = ADAMW.over(self._adam)
        self._whole = WholeMatrices(inner, specs)
        self._device = next(iter(specs)).device
        is_bf16 = bool(inner.config.bf16) and self._device.type != "cpu"
        self._dtype = torch.bfloat16 if is_bf16 else torch.float32

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update all masters. Collective over the ranks of a pipeline stage."""
        for group, rest in zip(self.param_groups, self._adam.param_groups, strict=True):
            rest.update({name: group[name] for name in ("lr", "weight_decay", "betas", "eps", STEP)})
        self._adam.step()
        self._update_matrices()
        for group in self.param_groups:
            group[STEP] += 1

    def _update_matrices(self) -> None:
        assert self._whole is not None, "place comes first"
        for main, group in self._groups.items():
            assert main.grad is not None, "every matrix takes part in the loss"
            self.state[main]["exp_avg"].lerp_(main.grad, 1.0 - group["momentum"])
            main.mul_(1.0 - group["lr"] * group["weight_decay"])
        settings = self.param_groups[0]
        self._whole.apply(
            self._direction,
            lambda matrix: orthogonalize(matrix, num_steps=settings["num_ns_steps"]),
            self._take,
            dtype=self._dtype,
            device=self._device,
        )

    def _direction(self, piece: Piece) -> torch.Tensor:
        """Return the momentum of a piece, with one more gradient if it is Nesterov's."""
        assert piece.main.grad is not None, "every matrix takes part in the loss"
        momentum, gradient = (
            tensor.view(-1)[piece.start : piece.end] for tensor in (self.state[piece.main]["exp_avg"], piece.main.grad)
        )
        group = self._groups[piece.main]
        return torch.lerp(gradient, momentum, group["momentum"]) if group["nesterov"] else momentum

    def _take(self, piece: Piece, update: torch.Tensor) -> None:
        group = self._groups[piece.main]
        rate = group["lr"] * scale_of(piece.matrix.shape, group["scale"])
        piece.main.view(-1)[piece.start : piece.end].add_(update, alpha=-rate)
