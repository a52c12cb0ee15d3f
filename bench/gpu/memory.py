"""The peak of a step as `fanal rehearse` counts it beside what PyTorch's allocator gave on the GPU."""

import gc
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.gpu.found import findings_here
from bench.gpu.model import GIB, lone_rank, shape_here
from bench.gpu.setting import Setting, here
from bench.step.ours import Fanal, run_config
from bench.step.task import Shape, batches
from pretrain.config.load import to_yaml_text
from pretrain.config.schema import ParallelConfig

BOUND = 0.1
STEPS = 3
REHEARSE = (sys.executable, "-W", "ignore", "-m", "fanal", "rehearse")


def rehearsed_peak(shape: Shape, setting: Setting, folder: Path) -> int | None:
    """Return the bytes of the peak that a rehearsal counts; None where there is no such command."""
    if subprocess.run([*REHEARSE, "--help"], capture_output=True, check=False).returncode:
        return None
    run = run_config(shape, "bf16", parallel=ParallelConfig(device=setting.device))
    config = folder / "rehearsed.yaml"
    config.write_text(to_yaml_text(run))
    try:
        done = subprocess.run([*REHEARSE, str(config), "--json"], stdout=subprocess.PIPE, text=True, check=True)
    finally:
        config.unlink()
    return max(values_of("peak_bytes", json.loads(done.stdout)))


def values_of(key: str, tree: Any) -> list[int]:
    """Return every value of a key in a tree of JSON."""
    if isinstance(tree, list):
        return [value for one in tree for value in values_of(key, one)]
    if not isinstance(tree, dict):
        return []
    here_too = [tree[key]] if key in tree else []
    return here_too + [value for one in tree.values() for value in values_of(key, one)]


def measured_peak(shape: Shape, setting: Setting) -> int | None:
    """Train a few steps. Returns: the most bytes that tensors held beyond those of before; None on a CPU, where nothing counts."""
    on_gpu = setting.device == "cuda"
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    with lone_rank(setting) as world:
        fanal = Fanal(shape, "bf16", world)
        for rows in batches(shape, STEPS):
            fanal.step(rows)
        return torch.cuda.max_memory_allocated() - before if on_gpu else None


def main() -> int:
    logging.disable(logging.WARNING)
    setting, findings = here(), findings_here()
    shape = shape_here(setting)
    for rows in sorted({1, shape.batch_size}):
        sized = replace(shape, batch_size=rows)
        counted = rehearsed_peak(sized, setting, setting.folder)
        if counted is None:
            findings.note("nothing was compared: this version has no `fanal rehearse`")
            return findings.exit_code()
        measured = measured_peak(sized, setting)
        row = {
            "rows": rows,
            "rehearsed, GiB": f"{counted / GIB:.3f}",
            "measured, GiB": "-",
            "rehearsed / measured": "-",
        }
        if measured is not None:
            ratio = counted / measured
            row |= {"measured, GiB": f"{measured / GIB:.3f}", "rehearsed / measured": f"{ratio:.3f}"}
            if not abs(ratio - 1) <= BOUND:
                findings.fault(
                    f"{rows} rows: the rehearsed peak is {ratio:.3f} of the measured one; {BOUND:.0%} are allowed"
                )
        findings.row("peak memory of a step", row)
    return findings.exit_code()


if __name__ == "__main__":
    sys.exit(main())
