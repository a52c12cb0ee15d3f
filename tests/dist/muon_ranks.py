"""What the ranks of a layout do for the tests of Muon: one world, many runs one after the other. A world costs seconds to open."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from fanal.run_folder import checkpoints_dir
from pretrain.config.schema import RunConfig
from pretrain.model.families.table import Part, TensorSpec
from pretrain.model.gpt import build_model, unwrap
from pretrain.model.initialize import global_named_parameters
from pretrain.optim import muon_update, whole_matrices
from pretrain.optim.matrices import Matrix, matrices_of
from pretrain.optim.whole_matrices import WholeMatrices
from pretrain.parallel.world import open_world
from pretrain.train import loop

WEIGHTS = "weights.pt"
"""Initial weights, in a run's folder."""


@dataclass(frozen=True)
class Task:
    """One run of a rank."""

    run: RunConfig
    fault: str | None = None
    """One of FAULTS."""
    resumes: Path | None = None
    """Checkpoint of another run that it begins with."""


def train_all(tasks: Sequence[Task]) -> int:
    """One rank: train runs of one layout, one after the other. A single rank writes the initial weights."""
    torch.set_num_threads(1)
    first = tasks[0].run
    with open_world(first.parallel, seed=first.train.seed) as world:
        for task in tasks:
            run = task.run
            if world.size == 1 and task.fault is None:
                parameters = global_named_parameters(unwrap(build_model(run, world))[0])
                Path(run.run_dir).mkdir(parents=True, exist_ok=True)
                torch.save({name: value.detach().clone() for name, value in parameters}, Path(run.run_dir) / WEIGHTS)
            if task.resumes is not None and world.rank == 0:
                shutil.copytree(task.resumes, checkpoints_dir(run.run_dir) / task.resumes.name)
            dist.barrier()
            planted = FAULTS[task.fault]() if task.fault else contextlib.nullcontext()
            with patch.object(loop, "open_world", lambda *_, **__: contextlib.nullcontext(world)), planted:
                assert loop.train(run) == 0, run.run_dir
    return 0


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


FAULTS: dict[str, Callable[[], Any]] = {
    fault.__name__: fault
    for fault in (
        orthogonalized_by_each_rank_for_itself, queries_keys_and_values_as_one_matrix, gate_and_up_as_one_matrix,
        scale_left_out, momentum_forgotten_at_a_resume,
    )
}  # fmt: skip
"""Faults of Muon, by name: each makes what is in place while a run trains."""
