"""Contestants in turns: first they must train the same, then their steps are timed."""

import gc
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from bench.compare import Timing
from bench.step.task import Contestant, Figures

REFERENCE = "fanal"
BOUNDS = {"fp32": Figures(loss=1e-6, grad_norm=1e-5), "bf16": Figures(loss=5e-4, grad_norm=2e-2)}
"""Relative differences from Fanal's figures that are rounding, by precision. Seen over five steps: 1.4e-7 and 2.9e-6 in fp32,
2.8e-4 and 6.5e-3 in bf16, where every contestant rounds in places of its own."""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Seconds per step of one contestant, in each round."""

    wall: Timing
    cpu: Timing
    """User and system time of all threads."""


def disagreements(found: Mapping[str, Sequence[Figures]], precision: str) -> list[str]:
    """Return a line for each contestant whose losses or gradient norms are not Fanal's within rounding."""
    bounds, reference = BOUNDS[precision], found[REFERENCE]
    lines = []
    for name, figures in found.items():
        for what, bound in bounds._asdict().items():
            ours, theirs = ([getattr(one, what) for one in steps] for steps in (reference, figures))
            worst = max(abs(their / our - 1) for our, their in zip(ours, theirs, strict=True))
            if not worst <= bound:  # written so that NaN is a disagreement
                lines.append(f"{name}: {what} differs by {worst:.1e}, {bound:.0e} is allowed: {theirs}, fanal {ours}")
    return lines


def trained(contestants: Mapping[str, Contestant], data: Sequence[torch.Tensor]) -> dict[str, list[Figures]]:
    """Let every contestant train the same batches; return what those found that train at all."""
    found = {name: [contestant.step(rows) for rows in data] for name, contestant in contestants.items()}
    return {name: [one for one in figures if one] for name, figures in found.items() if all(figures)}


def take_turns(
    contestants: Mapping[str, Contestant], data: Sequence[torch.Tensor], *, rounds: int, steps: int
) -> tuple[dict[str, Turns], list[float]]:
    """Time ``steps`` steps of every contestant in each round, after one that fills the caches with its own tensors.

    Another contestant begins each round, so that none always follows the same one.
    Returns: the times, and the machine's load average at the beginning of each round.
    """
    names = list(contestants)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    loads = []
    for number in range(rounds):
        loads.append(os.getloadavg()[0])
        first = number % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            contestants[name].step(data[0])
            wall_before, cpu_before = time.perf_counter(), time.process_time()
            for rows in data[1 : steps + 1]:
                contestants[name].step(rows)
            wall[name].append((time.perf_counter() - wall_before) / steps)
            cpu[name].append((time.process_time() - cpu_before) / steps)
    turns = {
        name: Turns(wall=Timing(rounds_s=tuple(wall[name])), cpu=Timing(rounds_s=tuple(cpu[name]))) for name in names
    }
    return turns, loads
