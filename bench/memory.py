"""Peak memory of a training step, by parameter and by token, beside plain PyTorch's, and of the loss at Lucie's shape:
`make bench-memory`.

Every figure comes from a process of its own, whose allocator gives every larger block back to the system at once: with glibc's own
settings a peak holds what was freed before it. What the process held after its imports is taken off.
"""

import argparse
import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench.compare import append_result, table
from bench.rehearsed import rehearsed_peak
from bench.step.ours import Fanal, Precision, one_rank, run_config
from bench.step.plain import Plain
from bench.step.task import Contestant, Shape, batches
from pretrain.model.families.tensors import tensors_of
from pretrain.model.gpt import build_model, unwrap

RESULTS = Path(__file__).parent / "results" / "memory.md"
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
CONTESTANTS = {"fanal": "Fanal", "plain": "plain PyTorch"}
BATCH_SIZES = (4, 8)
"""The peaks of both tell what a token takes, and with it what a parameter takes."""
STEPS = 3
LOSS_SHAPE = Shape(
    num_layers=1, hidden_size=256, num_heads=4, num_groups=4, ffn_hidden_size=256, vocab_size=16_256, seq_length=4096, batch_size=1
)  # fmt: skip
"""One sample of Lucie with the columns of a rank of its 4-fold tensor parallelism; hidden states too small to count."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory", description="Peak memory of a step and of the loss."
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "PRECISION", "BATCH"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.measure:
        what, precision, batch_size = given.measure
        act = loss_peaks if what == "loss" else step_peak
        print(json.dumps(act(what, precision, int(batch_size))))
        return 0
    append_result(given.results, "Peak memory of a step", step_table())
    append_result(given.results, "Memory of the loss, 4,096 tokens x 16,256 columns", loss_table())
    return 0


def step_table() -> str:
    """Measure the steps. Returns: a Markdown table and what its columns are."""
    rows = []
    for precision in PRECISIONS:
        for name, title in CONTESTANTS.items():
            small, large = (measured(name, precision, size) for size in BATCH_SIZES)
            tokens = (BATCH_SIZES[1] - BATCH_SIZES[0]) * Shape().seq_length
            per_token = (large["peak"] - small["peak"]) / tokens
            fixed = small["peak"] - per_token * BATCH_SIZES[0] * Shape().seq_length
            counted = [rehearsed(precision, size) if name == "fanal" else None for size in BATCH_SIZES]
            rows.append(
                [f"{title}, {precision}", mib(small["peak"]), mib(large["peak"]), f"{fixed / small['parameters']:.1f}",
                 f"{per_token / 1024:.1f}", " / ".join(mib(one) for one in counted if one is not None)]
            )  # fmt: skip
    peaks = [f"peak, {size * Shape().seq_length:,} tokens, MiB" for size in BATCH_SIZES]
    header = ["step", *peaks, "bytes per parameter", "KiB per token", "rehearsed, MiB"]
    columns = (
        "Bytes per parameter: the peak without what grows with the tokens. Rehearsed: both peaks as `fanal rehearse` counts them; "
        "empty where there is no such command."
    )
    return f"{table(header, rows)}\n\n{columns}"


def loss_table() -> str:
    """Measure the loss. Returns: a Markdown table and what its columns are."""
    rows, logits = [], LOSS_SHAPE.tokens * LOSS_SHAPE.vocab_size
    for precision in PRECISIONS:
        peaks = measured("loss", precision, LOSS_SHAPE.batch_size)
        per_logit = [f"{peaks[name] / logits:.2f}" for name in ("forward", "kept", "backward")]
        highest = max(peaks["forward"], peaks["backward"])
        rows.append([precision, *per_logit, mib(highest), f"{highest / LOSS_SHAPE.tokens / 1024:.1f}"])
    header = ["precision", "forward", "kept", "backward", "peak, MiB", "peak, KiB per token"]
    columns = (
        "Bytes per logit above the hidden states: at the peak of the forward, kept until the backward, and at the peak of the "
        "backward, the gradient of the output layer's weight included."
    )
    return f"{table(header, rows)}\n\n{columns}"


def measured(what: str, precision: Precision, batch_size: int) -> dict[str, int]:
    """Measure one figure in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.memory", "--measure", what, precision, str(batch_size)]
    done = subprocess.run(command, env={**os.environ, **ALLOCATOR}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def step_peak(name: str, precision: Precision, batch_size: int) -> dict[str, int]:
    """Train a few steps in this process; return the bytes of their peak above the imports, and the number of parameters."""
    shape = replace(Shape(), batch_size=batch_size)
    with one_rank() as world:
        use_libraries()
        imported = resident("VmRSS")
        specs = tensors_of(run_config(shape, precision).model)
        parameters = sum(math.prod(spec.shape) for spec in specs.values())
        contestant: Contestant
        if name == "fanal":
            contestant = Fanal(shape, precision, world)
        else:
            contestant = Plain(shape, precision, {key: 0.02 * torch.randn(spec.shape) for key, spec in specs.items()})
        gc.collect()
        peak = peak_of(lambda: [contestant.step(rows) for rows in batches(shape, STEPS)])
    return {"peak": peak - imported, "parameters": parameters}


def loss_peaks(_: str, precision: Precision, batch_size: int) -> dict[str, int]:
    """Compute the output layer and the loss of hidden states, forward and backward; return bytes above what was there before."""
    shape = replace(LOSS_SHAPE, batch_size=batch_size)
    with one_rank() as world:
        (chunk,) = unwrap(build_model(run_config(shape, precision), world))
        dtype = chunk.config.params_dtype
        labels = torch.randint(shape.vocab_size, (shape.batch_size, shape.seq_length))

        def loss(length: int) -> torch.Tensor:
            hidden = torch.randn(length, shape.batch_size, shape.hidden_size, dtype=dtype, requires_grad=True)
            # The part of megatron's forward behind the last layer, whatever of it is ours.
            figures = chunk._postprocess(hidden, None, None, labels[:, :length], None, None, None)
            return figures[0].sum()

        loss(8).backward()
        use_libraries()
        before = resident("VmRSS")
        found: list[torch.Tensor] = []
        forward = peak_of(lambda: found.append(loss(shape.seq_length)))
        kept = resident("VmRSS")
        backward = peak_of(lambda: found[0].backward())
    return {"forward": forward - before, "kept": kept - before, "backward": backward - before}


def rehearsed(precision: Precision, batch_size: int) -> int | None:
    """Return the bytes of the peak of Fanal's step as `fanal rehearse` counts them; None where there is no such command."""
    return rehearsed_peak(run_config(replace(Shape(), batch_size=batch_size), precision))


def use_libraries() -> None:
    """Have the libraries of matrix products take the memory that they keep, in both precisions."""
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.randn(64, 64, dtype=dtype, requires_grad=True)
        (left @ left).sum().backward()
    gc.collect()


def peak_of(act: Callable[[], object]) -> int:
    """Return the largest resident memory of this process during an act, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    act()
    return resident("VmHWM")


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def mib(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
