"""Progress of a proof: a line for each start of a training run, how long it took, and an estimate of what is left."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from fanal.console import Console
from pretrain.inspect.evidence import StepReader
from pretrain.inspect.kill import Running
from pretrain.log.summary import duration

SAY_EVERY_S = 10.0
"""Seconds between two lines about the steps of a run."""
LOOK_EVERY_S = 0.05


class ProveProgress:
    """The starts of a proof, counted and timed."""

    def __init__(self, console: Console, *, num_starts: int, num_steps: int) -> None:
        self._console, self._num_starts, self._num_steps = console, num_starts, num_steps
        self._begun, self._elapsed_s = 0, 0.0
        self._since = time.monotonic()

    def begin(self, what: str) -> None:
        """Say what is started."""
        self._begun, self._since = self._begun + 1, time.monotonic()
        self._num_starts = max(self._num_starts, self._begun)
        self._say(f"start {self._begun} of {self._num_starts}: {what}")

    def end(self) -> None:
        """Say how long it took, and about how long the others will take: each as long as the mean of those before."""
        took = time.monotonic() - self._since
        self._elapsed_s += took
        left = (self._num_starts - self._begun) * self._elapsed_s / self._begun
        self._say(
            f"  took {duration(took)}" + (f"; about {duration(left)} left" if self._begun < self._num_starts else "")
        )

    def wait_for(self, process: Running, run_dir: Path) -> int:
        """Wait for a run, and say now and then how far it is; return its exit code."""
        steps, say_at = StepReader(run_dir), time.monotonic() + SAY_EVERY_S
        steps.skip_what_is_there()

        def look() -> None:
            nonlocal say_at
            if time.monotonic() >= say_at:
                say_at += SAY_EVERY_S
                steps.read()
                self._say("  starting" if steps.last_step is None else f"  step {steps.last_step} of {self._num_steps}")

        return wait_for(process, look)

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


def wait_for(process: Running, look: Callable[[], None] = lambda: None) -> int:
    """Wait for a run; return its exit code. It is killed if the wait ends otherwise. Args: look: called again and again."""
    try:
        while (code := process.poll()) is None:
            look()
            time.sleep(LOOK_EVERY_S)
        return code
    except BaseException:
        if process.poll() is None:
            os.kill(process.pid, 9)  # its ranks follow it
        raise
