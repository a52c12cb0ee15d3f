"""Start a training run in about a second: forked from a process that has imported everything, ranks included.

The command line imports for several seconds in each start, which is most of a torture's time. Here the launcher is forked
from multiprocessing's fork server, which a test session keeps, and its ranks are forked from the launcher. What a rank
does, and what a kill meets, is the same.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pretrain.inspect.kill import Running
from pretrain.inspect.prove import Start
from tests.dist.harness import start_fork_server

PR_SET_PDEATHSIG = 1


class Warm:
    """A started run."""

    def __init__(self, process: Any) -> None:
        self._process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self._process.exitcode


def warm_start(fault: str | None = None) -> Start:
    """A way to start runs, with a fault planted or not (a function in tests/dist/faults.py)."""
    return partial(_start, fault)


def _start(fault: str | None, config: Path, overrides: Sequence[str], output: Path) -> Running:
    context: Any = multiprocessing.get_context("forkserver")
    start_fork_server()
    process = context.Process(target=_launch, args=(fault, config, tuple(overrides), output))
    process.start()
    return Warm(process)


def _launch(fault: str | None, config: Path, overrides: tuple[str, ...], output: Path) -> None:
    import torch

    from pretrain import __main__
    from pretrain.config.load import load_run
    from pretrain.parallel import local
    from pretrain.start_training import train_local
    from tests.dist import faults

    stream = output.open("a")
    os.dup2(stream.fileno(), sys.stdout.fileno())
    os.dup2(stream.fileno(), sys.stderr.fileno())
    os.environ["OMP_NUM_THREADS"] = "1"
    fork = multiprocessing.get_context("fork")
    local.multiprocessing = SimpleNamespace(get_context=lambda _: fork)  # type: ignore[assignment]
    # Ranks are forked from here, so a server would import everything for nobody: four seconds of a core a start.
    local.forkserver = SimpleNamespace(ensure_running=lambda: None)  # type: ignore[assignment]
    torch.set_num_threads(1)  # what OMP_NUM_THREADS says is read at the import, which was the server's
    # A forked rank holds the other end of its own pipe, and would never see it close when the launcher dies.
    os.register_at_fork(after_in_child=_die_with_parent)
    if fault is not None:
        getattr(faults, fault)()
    sys.exit(__main__._guard(lambda: train_local(load_run(config, overrides))))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
