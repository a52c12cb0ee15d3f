"""Train real runs on real local ranks, and read what they logged."""

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fanal.run_progress import parse_metrics
from pretrain.config.derive import world_size
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.inspect.bounds import FP32
from pretrain.parallel.local import Failure, _start_servers, run_local_ranks
from pretrain.train.loop import train
from tests.dist import (
    average_faults,
    context_faults,
    energy_counters,
    family_faults,
    faults,
    group_faults,
    interruptions,
    offload_faults,
    reading_spies,
    recompute_faults,
    stability_faults,
)

FAULTS = (
    faults,
    family_faults,
    group_faults,
    context_faults,
    interruptions,
    average_faults,
    stability_faults,
    recompute_faults,
    offload_faults,
    reading_spies,
    energy_counters,
)
"""Where a fault is looked for by its name."""
STAMPED = ("start", "time_unix_s", "elapsed_s", "replay")
"""What a line of the log says of who wrote it when."""
STABILITY = 2e-5
"""Bound for every number of a stability report, relative: that of a gradient norm, which is one of them."""
PRELOAD = ("tests.dist.preloaded",)
"""What the fork server of a test session has imported before the first rank."""


def start_fork_server() -> None:
    """Start the server that every rank of this process is forked from, without waiting for its imports; the first start counts."""
    _start_servers(multiprocessing.get_context("forkserver"), "cpu", PRELOAD)


@dataclass(frozen=True)
class Trace:
    """What a run logged, step by step."""

    exit_code: int
    failure: Failure | None
    losses: dict[int, float | None]
    grad_norms: dict[int, float | None]
    skipped: dict[int, int]
    validation: dict[int, dict[str, float]]
    loss_by_domain: dict[int, dict[str, float]]
    output: str = ""
    """What rank 0 wrote to its terminal, in this run and in earlier ones of its folder."""
    z_losses: dict[int, float | None] = field(default_factory=dict)
    """None of a step without one."""
    stability: dict[int, dict[str, float | None]] = field(default_factory=dict)
    """Numbers of the stability reports, by step and name; layers and parts follow the name."""


def terminal_of(run_dir: Path) -> Path:
    """The file that is rank 0's terminal."""
    return run_dir / "logs" / "rank-00000.log"


def rank_main(run: RunConfig, fault: str | None) -> int:
    """One rank, with a fault planted or not. The fork server has the terminal of the first test; rank 0 gets a file."""
    if os.environ["RANK"] == "0":
        stream = terminal_of(Path(run.run_dir)).open("a")
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)
    if fault is not None:
        next(getattr(module, fault) for module in FAULTS if hasattr(module, fault))()
    return int(train(run))


def run_and_trace(run: RunConfig, fault: str | None = None, *, fresh: bool = True) -> Trace:
    """Train ``run`` on as many local ranks as it needs; from scratch unless told to resume."""
    folder = Path(run.run_dir)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    code, failure = run_local_ranks(
        rank_main, run, fault,
        preload=PRELOAD, num_ranks=world_size(run.parallel), device_type="cpu", log_dir=folder / "logs",
    )  # fmt: skip
    return read_trace(folder, code, failure)


def read_trace(folder: Path, code: int, failure: Failure | None) -> Trace:
    """What a run has logged in its folder."""
    metrics = folder / "metrics.jsonl"
    records = parse_metrics(metrics.read_text()) if metrics.is_file() else []
    steps = [record for record in records if record["kind"] == "step"]
    return Trace(
        exit_code=code,
        failure=failure,
        losses={record["step"]: record["loss"] for record in steps},
        grad_norms={record["step"]: record["grad_norm"] for record in steps},
        skipped={record["step"]: record["skipped_steps"] for record in steps},
        validation={record["step"]: record["validation_loss"] for record in records if record["kind"] == "validation"},
        loss_by_domain={record["step"]: record["loss_by_domain"] for record in steps},
        output=terminal_of(folder).read_text() if terminal_of(folder).is_file() else "",
        z_losses={record["step"]: record.get("z_loss") for record in steps},  # of an earlier version: no such field
        stability={record["step"]: dict(_numbers(record)) for record in records if record["kind"] == "stability"},
    )


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float | None]]:
    """Every number in a record but its step, by where it is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("kind", "step", *STAMPED):
                yield from _numbers(inner, f"{name} {key}".lstrip())
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _numbers(inner, f"{name} {number}")
    else:
        yield name, value


def make_run(config: Path, run_dir: Path, *overrides: str) -> RunConfig:
    """The tests' small run, changed by overrides."""
    return load_run(config, [f"run_dir={run_dir}", *overrides])


def assert_same_training(
    trace: Trace, reference: Trace, *, loss: float = FP32.loss, grad_norm: float = FP32.grad_norm
) -> None:
    """Every step's loss, gradient norm and loss of each domain agree, relative to the reference."""
    assert trace.exit_code == 0, f"the run failed: {trace.failure}"
    assert trace.losses.keys() == reference.losses.keys() != set(), "not the same steps were logged"
    for step, expected in reference.losses.items():
        _assert_close(f"loss of step {step}", trace.losses[step], expected, loss)
        _assert_close(f"gradient norm of step {step}", trace.grad_norms[step], reference.grad_norms[step], grad_norm)
        assert trace.loss_by_domain[step].keys() == reference.loss_by_domain[step].keys(), f"domains of step {step}"
        for domain, wanted in reference.loss_by_domain[step].items():
            found = trace.loss_by_domain[step][domain]
            _assert_close(f"loss of {domain} in step {step}", found, wanted, loss)


def assert_same_stability(trace: Trace, reference: Trace) -> None:
    """Every number of every stability report agrees, relative to the reference."""
    assert trace.stability.keys() == reference.stability.keys() != set(), "not the same steps were reported"
    for step, numbers in reference.stability.items():
        assert trace.stability[step].keys() == numbers.keys(), f"numbers of step {step}"
        for name, expected in numbers.items():
            _assert_close(f"{name} of step {step}", trace.stability[step][name], expected, STABILITY)


def _assert_close(what: str, found: float | None, expected: float | None, tolerance: float) -> None:
    assert found is not None and expected is not None, f"{what} is missing or not finite"
    error = abs(found - expected) / abs(expected)
    assert error <= tolerance, f"{what}: {found} is {error:.2e} from {expected}, more than {tolerance:.0e}"
