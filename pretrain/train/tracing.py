"""A trace of a few steps of one rank, by torch's profiler, and on a GPU what its memory was taken for: log.profile_from_step.

Wrapped around steps, not inside them: a run that traces nothing pays a comparison a step.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from fanal.run_folder import PROFILE_DIR
from pretrain.config.schema import LogConfig
from pretrain.parallel.world import World

logger = logging.getLogger(__name__)

MEMORY_EVENTS = 200_000
"""Allocations and frees that a snapshot of a GPU's memory remembers; some hundred bytes each on the host."""


class Tracer:
    """The trace of the steps that this rank is asked for; a rank that is not asked has one that does nothing."""

    def __init__(self, first: int, last: int, folder: Path, world: World) -> None:
        """Args: first, last: the steps; last below first for none."""
        self._first, self._last, self._folder, self._world = first, last, folder, world
        self._profile: profile | None = None
        self._traced = 0
        """Steps that are in the trace."""

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Trace this step, if it is one of those asked for. The step before the first is traced too, and thrown away: it takes
        what starting costs. On a GPU waits for it at both ends of the trace. Writes after the last one, for some seconds."""
        if not self._first - 1 <= step <= self._last:
            yield
            return
        if self._profile is None:
            self._profile = self._started(step)
        if step >= self._first and not self._traced:
            self._begin_memory()
        self._traced += step >= self._first
        with record_function(f"step {step}"):
            yield
        self._wait()
        self._profile.step()
        if step == self._last:
            self.close()

    def close(self) -> None:
        """Write what was traced, if a trace is under way. What cannot be written is said, and keeps nothing from the run."""
        if self._profile is None:
            return
        running, self._profile = self._profile, None
        name = f"steps-{self._first}-{self._last}-rank-{self._world.rank:05d}"
        self._last = -1  # one trace a start
        try:
            running.stop()
            if self._traced:
                self._write(running, name)
        except (OSError, RuntimeError) as error:
            logger.warning("%s: no trace was written, and training continues: %s", self._folder / name, error)

    def _write(self, running: profile, name: str) -> None:
        self._folder.mkdir(exist_ok=True)
        # Under names that nobody foresees first: what is written must go through no link of another user's.
        with tempfile.TemporaryDirectory(dir=self._folder) as place:
            trace, memory = Path(place) / "trace.json.gz", Path(place) / "memory.pickle"
            running.export_chrome_trace(str(trace))
            trace.replace(self._folder / f"trace-{name}.json.gz")
            if self._world.device.type == "cuda":
                torch.cuda.memory._dump_snapshot(str(memory))
                torch.cuda.memory._record_memory_history(enabled=None)
                memory.replace(self._folder / f"memory-{name}.pickle")

    def _started(self, step: int) -> profile:
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self._world.device.type == "cuda")
        thrown_away = max(0, self._first - step)
        plan = schedule(wait=0, warmup=thrown_away, active=self._last - step + 1 - thrown_away, repeat=1)
        self._wait()
        running = profile(activities=activities, schedule=plan, acc_events=True)
        running.start()
        return running

    def _begin_memory(self) -> None:
        if self._world.device.type == "cuda":
            torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS)

    def _wait(self) -> None:
        if self._world.device.type == "cuda":
            torch.cuda.synchronize(self._world.device)


@contextlib.contextmanager
def open_tracer(log: LogConfig, run_dir: str, world: World) -> Iterator[Tracer]:
    """This rank's tracer; what it has traced is also written when the run ends or fails before the last of its steps."""
    first, steps = log.profile_from_step, log.profile_steps
    is_asked = first is not None and world.rank == log.profile_rank
    tracer = Tracer(
        first or 0, first + steps - 1 if first is not None and is_asked else -1, Path(run_dir) / PROFILE_DIR, world
    )
    try:
        yield tracer
    finally:
        tracer.close()
