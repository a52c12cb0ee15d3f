"""Measure one case at every size, each in a process of its own."""

import gc
import importlib
import json
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from bench.growth.case import Figures, Growth

ROUNDS = 3


def figures_of(case: Growth) -> list[Figures]:
    """Every size of a case, smallest first. A case whose process dies ends the benchmark with its traceback."""
    context, figures = multiprocessing.get_context("spawn"), []
    for size in case.sizes:
        ours, theirs = context.Pipe()
        process = context.Process(target=_measure, args=(case.prepare.__module__, case.name, size, theirs))
        process.start()
        theirs.close()
        time_s, memory_bytes, counted = ours.recv()
        process.join()
        figures.append(Figures(size=size, time_s=time_s, memory_bytes=memory_bytes, counted=counted))
        line = {"case": case.name, case.grows_with: size, "time_s": time_s, "memory_bytes": memory_bytes, **counted}
        print(json.dumps(line), flush=True)
    return figures


def _measure(module: str, name: str, size: int, answer: Connection) -> None:
    case = next(case for case in importlib.import_module(module).CASES if case.name == name)
    with tempfile.TemporaryDirectory(prefix="fanal-growth-") as folder:
        act = case.prepare(size, Path(folder))
        # What was imported is no part of a case: without this, each full collection of garbage goes through all of torch and
        # megatron, more often the more the case allocates, and what is linear takes the power 1.3.
        gc.collect()
        gc.freeze()
        before = _peak_memory_bytes()
        times, counted = [], {}
        for _ in range(ROUNDS):
            started = time.perf_counter()
            returned = act()
            times.append(time.perf_counter() - started)
            counted = returned if isinstance(returned, dict) else {}
        answer.send((min(times), _peak_memory_bytes() - before, counted))


def _peak_memory_bytes() -> int:
    """Peak resident memory of this process. VmHWM, since ru_maxrss starts at the peak of whoever started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
