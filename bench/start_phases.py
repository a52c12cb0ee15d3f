"""The start of one rank, phase by phase: seconds and CPU seconds of each, as JSON on the last line of standard output.

Run as a file, in the environment of a rank and with the PYTHONPATH of the tree to measure, which may be an older one:
``python start_phases.py CONFIG [KEY=VALUE]...``. It calls what ``fanal train`` calls as a rank, and looks at the clocks in between.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Phases:
    """Seconds by phase, the first of which begins with the process."""

    def __init__(self) -> None:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        self._wall, self._cpu = int(fields[19]) / os.sysconf("SC_CLK_TCK"), 0.0
        self.taken: list[tuple[str, float, float]] = []

    def end(self, phase: str) -> None:
        """Note the end of a phase, which is the beginning of the next."""
        wall, cpu = time.clock_gettime(time.CLOCK_BOOTTIME), time.process_time()
        self.taken.append((phase, wall - self._wall, cpu - self._cpu))
        self._wall, self._cpu = wall, cpu


def main(config: str, overrides: tuple[str, ...]) -> int:
    phases = Phases()
    phases.end("Python")
    from pretrain.config.load import load_run_to_train
    from pretrain.parallel.quick_imports import quick_imports

    run = load_run_to_train(config, overrides)
    phases.end("config")
    with quick_imports():
        import torch

        assert torch.__version__
        phases.end("import torch")
        import megatron.core.distributed
        import megatron.core.models.gpt
        import megatron.core.optimizer

        assert megatron.core.__version__
        phases.end("import megatron.core")
        from pretrain.train import loop
    phases.end("import the trainer")
    for name, phase in (
        ("build_model", "model"),
        ("build_optimizer", "optimizer"),
        ("load_checkpoint", "load"),
        ("_begins_with_validation", "log, saver"),
        ("_ask", "first validation"),
    ):
        _end_after(loop, name, lambda phase=phase: phases.end(phase))
    _end_before(loop, "build_model", lambda: phases.end("data, world"))
    _end_after(loop, "_step", lambda: phases.end("first step"))
    code = int(loop.train(run))
    print(json.dumps(_first_of_each(phases.taken)))
    return code


def _end_after(module: Any, name: str, end: Callable[[], None]) -> None:
    """Have ``end`` called when the function returns."""
    function = getattr(module, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        end()
        return found

    setattr(module, name, timed)


def _end_before(module: Any, name: str, end: Callable[[], None]) -> None:
    """Have ``end`` called when the function is."""
    function = getattr(module, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        end()
        return function(*args, **kwargs)

    setattr(module, name, timed)


def _first_of_each(taken: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Each phase up to the first step, once."""
    last = next(at for at, (phase, _, _) in enumerate(taken) if phase == "first step")
    firsts: dict[str, tuple[float, float]] = {}
    for phase, wall, cpu in taken[: last + 1]:
        firsts.setdefault(phase, (wall, cpu))
    return [(phase, *both) for phase, both in firsts.items()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], tuple(sys.argv[2:])))
