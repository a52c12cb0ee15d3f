"""The peak of a step as `fanal rehearse` counts it beside what PyTorch's allocator gave on the GPU."""

import gc
import logging
import sys

import torch

from bench.gpu.found import findings_here
from bench.gpu.model import GIB, lone_rank, shape_here
from bench.gpu.setting import Setting, here
from bench.rehearsed import rehearsed_peak
from bench.step.ours import Fanal, run_config
from bench.step.task import Shape, batches
from pretrain.config.schema import ParallelConfig

BOUND = 0.1
STEPS = 3


def rehearsed(shape: Shape, setting: Setting) -> int | None:
    """Return the bytes of the peak that a rehearsal counts; None where there is no such command."""
    return rehearsed_peak(run_config(shape, "bf16", parallel=ParallelConfig(device=setting.device)))


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
    counted = rehearsed(shape, setting)
    if counted is None:
        findings.left_out("this version has no `fanal rehearse`")
        return findings.exit_code()
    findings.note(
        f"rehearsed: {counted / GIB:.3f} GiB at the peak of a step of {shape.batch_size} x {shape.seq_length:,} tokens"
    )
    measured = measured_peak(shape, setting)
    if measured is not None:
        ratio = counted / measured
        findings.note(
            f"measured: {measured / GIB:.3f} GiB, by torch.cuda.max_memory_allocated; rehearsed / measured: {ratio:.3f}"
        )
        if not abs(ratio - 1) <= BOUND:
            findings.fault(f"the rehearsed peak is {ratio:.3f} of the measured one; {BOUND:.0%} off is allowed")
    return findings.exit_code()


if __name__ == "__main__":
    sys.exit(main())
