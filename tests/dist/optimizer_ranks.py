"""What the ranks of a layout do for the tests of optimizers: one world, many runs one after the other. A world costs seconds to open."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from fanal.run_folder import checkpoints_dir
from pretrain.config.schema import RunConfig
from pretrain.model.gpt import build_model, unwrap
from pretrain.model.initialize import global_named_parameters
from pretrain.optim import ademamix, lion, optimizer, shards, weight_decay
from pretrain.optim.states import set_num_updates
from pretrain.parallel.world import open_world
from pretrain.train import loop
from tests.dist import muon_faults

WEIGHTS = "weights.pt"
"""Initial weights, in a run's folder."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run to train."""

    run: RunConfig
    fault: str | None = None
    """A fault of FAULTS, under which it trains."""
    resumes: Path | None = None
    """The checkpoint that it resumes, of another folder; it may be one of an earlier job."""


def train_all(jobs: Sequence[Job]) -> int:
    """One rank: train runs of one layout, one after the other. A single rank writes the initial weights."""
    torch.set_num_threads(1)
    first = jobs[0].run
    with open_world(first.parallel, seed=first.train.seed) as world:
        for job in jobs:
            folder = Path(job.run.run_dir)
            if job.resumes is not None and world.rank == 0:
                shutil.copytree(job.resumes, checkpoints_dir(folder) / job.resumes.name)
            if job.resumes is None and world.size == 1:
                folder.mkdir(parents=True, exist_ok=True)
                parameters = global_named_parameters(unwrap(build_model(job.run, world))[0])
                torch.save({name: value.detach().clone() for name, value in parameters}, folder / WEIGHTS)
            dist.barrier()
            with patch.object(loop, "open_world", lambda *_, **__: contextlib.nullcontext(world)), planted(job.fault):
                assert loop.train(job.run) == 0, folder
    return 0


@contextlib.contextmanager
def planted(fault: str | None) -> Iterator[None]:
    with FAULTS[fault]() if fault else contextlib.nullcontext():
        yield


def bias_correction_left_out() -> Any:
    """Every run begins as if a million updates had been made."""
    build = loop.build_optimizer

    def broken(*args: Any) -> Any:
        built = build(*args)
        set_num_updates(built, 10**6)
        return built

    return patch.object(loop, "build_optimizer", broken)


def updates_not_counted_at_a_resume() -> Any:
    """A resume whose optimizer counts its updates from 0, and so warms up once more."""
    load = loop.load_checkpoint

    def broken(run: Any, model: Any, built: Any, *args: Any) -> Any:
        start = load(run, model, built, *args)
        set_num_updates(built, 0)
        return start

    return patch.object(loop, "load_checkpoint", broken)


def decay_of_vectors_and_embeddings_exchanged() -> Any:
    """The keys of the weight decay's groups do nothing."""
    sound = weight_decay.group_overrides
    return patch.object(
        optimizer,
        "group_overrides",
        lambda optim: sound(replace(optim, weight_decay_on_embeddings=True, weight_decay_on_vectors=False)),
    )


def decay_that_stays() -> Any:
    """The weight decay does not follow the learning rate."""
    return patch.object(
        optimizer, "weight_decay", lambda optim, group, rate: optim.weight_decay * group[weight_decay.MULTIPLIER]
    )


def tensors_not_clipped() -> Any:
    """The rate of every tensor is the group's."""
    return patch.object(shards.Shards, "means", lambda self, mains, sums: [torch.zeros_like(total) for total in sums])


def parts_of_tensors_clipped() -> Any:
    """Every rank clips what it holds of a tensor by what it holds."""
    return patch.object(
        shards.Shards,
        "means",
        lambda self, mains, sums: [total / main.numel() for main, total in zip(mains, sums, strict=True)],
    )


def slow_average_corrected() -> Any:
    """The slow average gets a bias correction too."""
    sound = ademamix.alpha_at
    return patch.object(ademamix, "alpha_at", lambda update, **kwargs: sound(update, **kwargs) / (1 - 0.999**update))


def beta3_along_a_line() -> Any:
    """Beta3 itself rises linearly, and not its half-life."""

    def broken(update: int, *, beta1: float, beta3: float, warmup: int) -> float:
        share = min(1.0, update / warmup)
        return (1 - share) * beta1 + share * beta3

    return patch.object(ademamix, "beta3_at", broken)


def lions_betas_exchanged() -> Any:
    """Lion's average decays with the weight that its direction should have, and the other way round."""
    sound = lion.OPTIMIZER.settings
    return patch.object(
        lion,
        "OPTIMIZER",
        replace(lion.OPTIMIZER, settings=lambda optim: {"betas": sound(optim)["betas"][::-1]}),
    )


FAULTS: dict[str, Callable[[], Any]] = {
    fault.__name__: fault
    for fault in (
        bias_correction_left_out, updates_not_counted_at_a_resume, decay_of_vectors_and_embeddings_exchanged, decay_that_stays,
        tensors_not_clipped, parts_of_tensors_clipped, slow_average_corrected, beta3_along_a_line, lions_betas_exchanged,
        muon_faults.orthogonalized_by_each_rank_for_itself, muon_faults.queries_keys_and_values_as_one_matrix,
        muon_faults.gate_and_up_as_one_matrix, muon_faults.scale_left_out, muon_faults.momentum_forgotten_at_a_resume,
    )
}  # fmt: skip
"""Faults of optimizers, by name: each makes what is in place while a run trains."""
