"""Faults of Muon, which the comparison with a plain one must notice: each returns what is in place while a run trains."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from pretrain.model.families.table import Part, TensorSpec
from pretrain.optim import muon_update, whole_matrices
from pretrain.optim.matrices import Matrix, matrices_of
from pretrain.optim.whole_matrices import WholeMatrices
from pretrain.train import loop


def orthogonalized_by_each_rank_for_itself() -> Any:
    """Every tensor-parallel rank takes its share of a matrix for a matrix."""

    def broken(self: Any, value: Any, work: Any, take: Any, **_: Any) -> None:
        for one in (one for together in self._rounds for one in together):
            shape = list(one.matrix.shape)
            shape[one.matrix.split_dim] //= self._tp
            result = work(torch.cat([value(piece) for piece in one.given]).view(shape)).reshape(-1)
            for piece, update in zip(one.given, result.split([p.end - p.start for p in one.given]), strict=True):
                take(piece, update)

    return patch.object(WholeMatrices, "apply", broken)


def _whole_tensors(ending: str) -> Any:
    def broken(spec: TensorSpec, *, num_ranks: int) -> list[Matrix]:
        whole = replace(spec, parts=(Part(rows=(range(spec.shape[0]),)),))
        return matrices_of(whole if spec.name.endswith(ending) else spec, num_ranks=num_ranks)

    return patch.object(whole_matrices, "matrices_of", broken)


def queries_keys_and_values_as_one_matrix() -> Any:
    """A fused tensor is taken for a matrix."""
    return _whole_tensors("linear_qkv.weight")


def gate_and_up_as_one_matrix() -> Any:
    """A fused tensor is taken for a matrix."""
    return _whole_tensors("linear_fc1.weight")


def scale_left_out() -> Any:
    """Updates have singular values of about 1, whatever the shape."""
    return patch.object(muon_update, "scale_of", lambda *_: 1.0)


def momentum_forgotten_at_a_resume() -> Any:
    """A resume that restores weights and the states of AdamW, but starts the momentum of matrices from zero."""
    load = loop.load_checkpoint

    def broken(run: Any, model: Any, optimizer: Any, *args: Any) -> Any:
        start = load(run, model, optimizer, *args)
        for states in optimizer.chained_optimizers[0].optimizer.state.values():
            if "exp_avg_sq" not in states:
                states["exp_avg"].zero_()
        return start

    return patch.object(loop, "load_checkpoint", broken)
