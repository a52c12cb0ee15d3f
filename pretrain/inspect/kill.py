"""Kill a training run with SIGKILL at a planned moment, and say what it was doing.

The moment is planned by what the run has done (started ranks, logged a step, started to write a checkpoint) plus a delay. A
seed gives the same plans; where exactly they hit depends on the machine, so what was hit is observed and reported.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import psutil

from fanal.run_folder import checkpoints_dir, is_part, step_of
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.inspect.evidence import StepReader

Aim = Literal["start-up", "step", "save"]
Phase = Literal["start-up", "step", "save", "deletion"]
Target = Literal["one rank", "all ranks", "launcher"]
POLL_S = 0.001
"""A save of a small model takes some ten milliseconds."""
PATIENCE_S = 900.0
"""Seconds to wait for a planned moment, in case it never comes in a run that never ends."""
LAST_BREATH_S = 300.0
"""Seconds for all processes of a killed run to be gone: one that waits for a disk dies when the disk answers."""


class Running(Protocol):
    """A started run, as ``subprocess.Popen`` gives it."""

    pid: int

    def poll(self) -> int | None: ...


@dataclass(frozen=True, kw_only=True)
class KillPlan:
    """The plan of a kill: when, and which processes."""

    aim: Aim
    """start-up: the delay begins when the target is there; step: when ``after_step`` was logged; save: when the folder of a
    checkpoint of ``after_step`` or a later step appears."""
    target: Target
    rank: int = 0
    """Rank to kill if the target is "one rank"."""
    after_step: int = 0
    delay_s: float
    needs_checkpoint: bool = False
    """Wait until there is a whole checkpoint to resume from."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A kill as it happened."""

    plan: KillPlan
    phase: Phase
    """Observed: a checkpoint's .part folder right before or after the kill means save, or deletion if a newer checkpoint was
    already there. Without one: start-up until the run has logged a step."""
    last_step: int | None
    """The last step this start had logged."""
    after_s: float
    """Seconds since the watch began, which is when the run was started."""
    date: str
    """The moment, in UTC."""
    pids: tuple[int, ...]
    seen_whole: tuple[str, ...]
    """Names of the checkpoints that were there at any look since the start, the last one right before the kill."""
    exit_code: int
    """The launcher's; -9 if it was the target."""


def kill_at(process: Running, run_dir: Path, plan: KillPlan, *, num_ranks: int) -> Kill | None:
    """Wait for the planned moment, kill, and wait until every process of the run is gone; None if the run ended before.

    Call it right after the start: what the run logs from now on is what it has done.
    Raises: RuntimeError if the moment never comes or a process survives.
    """
    started, steps, folder = time.monotonic(), StepReader(run_dir), checkpoints_dir(run_dir)
    steps.skip_what_is_there()
    seen: set[str] = set()
    while not _is_time(process, steps, folder, plan, num_ranks):
        seen |= _names(folder)
        if process.poll() is not None:
            return None
        if time.monotonic() - started > PATIENCE_S:
            raise RuntimeError(f"the moment to kill {run_dir} never came in {PATIENCE_S:.0f} s: {plan}")
        time.sleep(POLL_S)
    time.sleep(plan.delay_s)
    family = _family(process.pid)
    targets = _targets(process.pid, plan)
    seen |= _names(folder)
    parts = _parts(folder)
    if process.poll() is not None:
        return None
    for pid in targets:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    after_s, date = time.monotonic() - started, datetime.now(UTC).isoformat(timespec="milliseconds")
    exit_code = _wait_for_all(process, family)
    if exit_code == 0:
        return None  # it had finished by the time the signal came
    steps.read()
    return Kill(
        plan=plan,
        phase=_phase(steps.last_step, parts | _parts(folder), checkpoints_in(folder)),
        last_step=steps.last_step,
        after_s=after_s,
        date=date,
        pids=tuple(targets),
        seen_whole=tuple(sorted(seen)),
        exit_code=exit_code,
    )


def ranks_of(launcher_pid: int) -> list[int]:
    """Processes of the ranks that a launcher has started so far, by rank.

    Where ranks are forked from a server (pretrain/parallel/local.py) they are its children, else the launcher's own. They
    start one after the other, so their ages give their order. What a rank starts itself is below it, and no rank.
    """
    try:
        launcher, ranks = psutil.Process(launcher_pid), []
        own = launcher.cmdline()
        for child in launcher.children():
            command = child.cmdline()
            if command != own and any("multiprocessing.forkserver" in part for part in command):
                ranks += child.children()
            elif not any("multiprocessing.resource_tracker" in part for part in command):
                ranks.append(child)
        return [process.pid for process in sorted(ranks, key=lambda process: (process.create_time(), process.pid))]
    except psutil.NoSuchProcess:
        return []


def _is_time(process: Running, steps: StepReader, folder: Path, plan: KillPlan, num_ranks: int) -> bool:
    if plan.aim == "start-up":
        return plan.target == "launcher" or len(ranks_of(process.pid)) == num_ranks
    steps.read()
    # What an earlier start has left is removed before the first step, so a part that is there after it is this start's.
    if steps.last_step is None or (plan.needs_checkpoint and not checkpoints_in(folder)):
        return False
    if plan.aim == "step":
        return steps.last_step >= plan.after_step
    newest = max((step_of(path.name) or 0 for path in checkpoints_in(folder)), default=0)
    return any(step >= plan.after_step and step > newest for step in _parts(folder))


def _targets(launcher_pid: int, plan: KillPlan) -> list[int]:
    """The launcher where the ranks are not there yet, or not any more: a run that is ending cannot lose a rank."""
    ranks = ranks_of(launcher_pid)
    if plan.target == "launcher" or not ranks:
        return [launcher_pid]
    return ranks if plan.target == "all ranks" else [ranks[min(plan.rank, len(ranks) - 1)]]


def _names(folder: Path) -> set[str]:
    return {path.name for path in checkpoints_in(folder)}


def _parts(folder: Path) -> set[int]:
    """Steps whose checkpoint is being written, or deleted."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return {step for name in names if is_part(name) and (step := step_of(name.removesuffix(".part"))) is not None}


def _phase(last_step: int | None, parts: set[int], checkpoints: list[Path]) -> Phase:
    if last_step is None:
        return "start-up"
    if not parts:
        return "step"
    newest = max((step_of(path.name) or 0 for path in checkpoints), default=0)
    # A save whose rename came between the look and the kill is still one: its own step is the newest.
    return "save" if max(parts) >= newest else "deletion"


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _wait_for_all(process: Running, family: list[psutil.Process]) -> int:
    deadline = time.monotonic() + LAST_BREATH_S
    while True:
        code = process.poll()
        alive = [member for member in family if not _is_gone(member)]
        if code is not None and not alive:
            return code
        if time.monotonic() > deadline:
            left = [_described(member) for member in alive] + (
                [f"{process.pid} (the launcher)"] if code is None else []
            )
            raise RuntimeError(
                f"processes of a killed run are still alive after {LAST_BREATH_S:.0f} s: {'; '.join(left)}"
            )
        time.sleep(0.01)


def _described(process: psutil.Process) -> str:
    """Its number, state and command: one in "disk-sleep" was killed, and dies when the disk answers."""
    try:
        return f"{process.pid} ({process.status()}, {' '.join(process.cmdline())[:200]})"
    except psutil.Error:
        return str(process.pid)


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
