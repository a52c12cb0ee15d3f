"""What the ranks of a machine reach, all at work at once: rates of products, of attention and of elementwise kernels, bandwidth and
latency between ranks, and the host's time for a layer.

Every figure is the best of a few repetitions on each rank, and then the mean of the ranks: what disturbs one only makes it slower.
The products, the attention and the elementwise kernels are the ones that a run has, forward and backward, and their operations and
bytes are counted as the plan counts them (pretrain/plan/work.py), so that a plan with these rates repeats these times.
On GPUs this is not yet run.
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from fanal.errors import PassingError
from fanal.host_cores import host_cores
from fanal.host_memory import host_memory
from fanal.kernels.activations import swiglu
from fanal.kernels.attention import causal_attention
from fanal.kernels.attention_choice import select_attention_backend, situation_here
from fanal.kernels.rms_norm import rms_norm
from pretrain.config.load import typed
from pretrain.config.schema import RunConfig
from pretrain.model.gpt import build_model
from pretrain.optim.optimizer import build_optimizer, set_learning_rate
from pretrain.parallel.device import device_name
from pretrain.parallel.local import run_local_ranks
from pretrain.parallel.world import World, open_world
from pretrain.plan.measured_machine import Measured
from pretrain.plan.work import ATTENTION_BACKWARD
from pretrain.rehearse.batches import forget_positions, micro_batches
from pretrain.state import TrainState
from pretrain.train.step import train_step

REPEATS = 7
SMALL_CALLS = 20
"""Collectives of no bytes that are timed together."""
LARGE_CALLS = 4
"""Large ones that are timed together on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured with, of one rank."""

    square: int
    """Rows and columns of the product that gives the peak."""
    tokens: int
    hidden: int
    ffn: int
    heads: int
    head_size: int
    seq_length: int
    copy_bytes: int
    message_bytes: int


ON_GPU = Sizes(
    square=8192, tokens=8192, hidden=4096, ffn=11008, heads=32, head_size=128, seq_length=4096, copy_bytes=1 << 30,
    message_bytes=128 << 20,
)  # fmt: skip
ON_CPU = Sizes(
    square=1024,
    tokens=512,
    hidden=384,
    ffn=1024,
    heads=6,
    head_size=64,
    seq_length=256,
    copy_bytes=64 << 20,
    message_bytes=16 << 20,
)
TINY = Sizes(
    square=128, tokens=64, hidden=64, ffn=128, heads=2, head_size=32, seq_length=32, copy_bytes=1 << 20, message_bytes=1 << 20,
)  # fmt: skip
"""For a rehearsal of the measurement: its figures say nothing."""
LAYERS = (1, 5)
"""Layers of the two small models whose times differ by the host's time for layers."""


def measure(
    *, device: Literal["cuda", "cpu"], precision: Literal["bf16", "fp32"], sizes: Sizes | None = None
) -> Measured:
    """Measure this node with a rank on every GPU, or on every core; a minute.

    Raises: PassingError if a rank fails, with its traceback.
    """
    ranks = torch.cuda.device_count() if device == "cuda" else host_cores()
    sizes = sizes or (ON_GPU if device == "cuda" else ON_CPU)
    with tempfile.TemporaryDirectory(prefix="fanal-measure-") as folder:
        target = Path(folder) / "measured"
        _, failure = run_local_ranks(
            measure_rank, device, precision, sizes, str(target), num_ranks=ranks, device_type=device, log_dir=Path(folder),
            preload=["pretrain.plan.measure"],
        )  # fmt: skip
        if failure is not None:
            raise PassingError(f"rank {failure.rank} of the measurement failed: {failure.text.strip()}")
        return Measured(**json.loads(target.read_text()))


def measure_rank(device: Literal["cuda", "cpu"], precision: Literal["bf16", "fp32"], sizes: Sizes, target: str) -> int:
    """Measure as one of the ranks, all at once; rank 0 writes the means. Collective."""
    threads = 1 if device == "cpu" else torch.get_num_threads()
    torch.set_num_threads(threads)
    run = small_run(device, precision, layers=LAYERS[0])
    with open_world(run.parallel, seed=0) as world:
        found = {
            "bf16_tflops": square_tflops(world, sizes, torch.bfloat16),
            "fp32_tflops": square_tflops(world, sizes, torch.float32),
            **{
                f"{name}_{what}": rate(world, sizes, dtype)
                for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
                for what, rate in RATES.items()
            },
            "copy_gb_per_s": copy_gb_per_s(world, sizes),
            **messages(world, sizes),
            "host_ms_per_layer": host_ms_per_layer(world, device, precision),
        }
        means = torch.tensor(list(found.values()), dtype=torch.float64, device=world.device)
        dist.all_reduce(means)
        if world.rank == 0:
            measured = Measured(
                device=device, device_name=device_name(world.device), precision=precision, ranks=world.size, threads=threads,
                memory_gib=_memory_bytes(world) / 2**30, **dict(zip(found, (means / world.size).tolist(), strict=True)),
            )  # fmt: skip
            Path(target).write_text(json.dumps(dataclasses.asdict(measured)))
        dist.barrier()
    return 0


def square_tflops(world: World, sizes: Sizes, dtype: torch.dtype) -> float:
    """Return the rate of a square product, in TFLOP/s."""
    left, right = (torch.randn(sizes.square, sizes.square, device=world.device, dtype=dtype) for _ in range(2))
    times = 20 if world.device.type == "cuda" else 1
    seconds = best_s(world, lambda: [torch.mm(left, right) for _ in range(times)])
    return 2 * sizes.square**3 * times / seconds / 1e12


def product_tflops(world: World, sizes: Sizes, dtype: torch.dtype) -> float:
    """Return the rate of the two products of a feed-forward, forward and backward, in TFLOP/s."""
    shapes = ((2 * sizes.ffn, sizes.hidden), (sizes.hidden, sizes.ffn))
    weights = [torch.randn(*shape, device=world.device, dtype=dtype, requires_grad=True) for shape in shapes]
    inputs = [
        torch.randn(sizes.tokens, shape[1], device=world.device, dtype=dtype, requires_grad=True) for shape in shapes
    ]
    gradients = [torch.ones(sizes.tokens, shape[0], device=world.device, dtype=dtype) for shape in shapes]

    def once() -> None:
        for given, weight, gradient in zip(inputs, weights, gradients, strict=True):
            torch.autograd.grad(torch.nn.functional.linear(given, weight), (given, weight), gradient)

    operations = 6 * sizes.tokens * sum(rows * columns for rows, columns in shapes)
    return operations / best_s(world, once) / 1e12


def attention_tflops(world: World, sizes: Sizes, dtype: torch.dtype) -> float:
    """Return the rate of causal attention, forward and backward, in TFLOP/s of what is seen."""
    rows = max(1, sizes.tokens // sizes.seq_length)
    shape = (sizes.seq_length, rows, sizes.heads, sizes.head_size)
    tensors = [torch.randn(*shape, device=world.device, dtype=dtype, requires_grad=True) for _ in range(3)]
    query, key, value = tensors
    situation = situation_here(
        device=world.device, dtype=dtype, head_size=sizes.head_size, num_heads=sizes.heads, num_groups=sizes.heads
    )
    backend = select_attention_backend("auto", situation, world.device).name
    gradient = torch.ones(sizes.seq_length, rows, sizes.heads * sizes.head_size, device=world.device, dtype=dtype)
    seconds = best_s(
        world, lambda: torch.autograd.grad(causal_attention(query, key, value, backend), tensors, gradient)
    )
    seen = sizes.seq_length / 2
    return (
        4 * sizes.seq_length * rows * sizes.heads * sizes.head_size * seen * (1 + ATTENTION_BACKWARD) / seconds / 1e12
    )


def copy_gb_per_s(world: World, sizes: Sizes) -> float:
    """Return the rate of a copy, in GB/s, each byte counted when it is read and when it is written."""
    source = torch.zeros(sizes.copy_bytes, dtype=torch.uint8, device=world.device)
    target = torch.empty_like(source)
    return 2 * sizes.copy_bytes / best_s(world, lambda: target.copy_(source)) / 1e9


def elementwise_gb_per_s(world: World, sizes: Sizes, dtype: torch.dtype) -> float:
    """Return the rate of two norms, two residuals and an activation, forward and backward, in the bytes that a plan counts."""
    device = world.device
    rows = torch.randn(sizes.tokens, sizes.hidden, device=device, dtype=dtype, requires_grad=True)
    wide = torch.randn(sizes.tokens, 2 * sizes.ffn, device=device, dtype=dtype, requires_grad=True)
    weight = torch.ones(sizes.hidden, device=device, dtype=dtype, requires_grad=True)

    def once() -> None:
        first = rows + rms_norm(rows, weight, 1e-5)
        second: Tensor = (first + rms_norm(first, weight, 1e-5)).sum() + swiglu(wide).sum()
        torch.autograd.grad(second, (rows, wide, weight))

    size = rows.element_size()
    counted = 3 * (4 + 6) * rows.numel() * size + 3 * sizes.tokens * 3 * sizes.ffn * size
    return counted / best_s(world, once) / 1e9


RATES: dict[str, Callable[[World, Sizes, torch.dtype], float]] = {
    "product_tflops": product_tflops,
    "attention_tflops": attention_tflops,
    "elementwise_gb_per_s": elementwise_gb_per_s,
}
"""What is measured in each precision."""


def messages(world: World, sizes: Sizes) -> dict[str, float]:
    """Return the rates of a gather and of a sum, GB/s as a ring counts them, and the times of those of no bytes, us. Collective.

    A sum is a reduce-scatter: sequence, context and data parallelism have no other. A rank alone has nobody to send to: a copy
    stands for its messages.
    """
    if world.size == 1:
        copied = copy_gb_per_s(world, sizes)
        return {"message_gb_per_s": copied, "latency_us": 1.0, "sum_gb_per_s": copied, "sum_latency_us": 1.0}
    count = sizes.message_bytes // 4 // world.size

    def of(act: Callable[[Tensor, Tensor], object]) -> tuple[float, float]:
        """Return (GB/s, us) of a collective of what all ranks have and what one has."""
        few, small = torch.zeros(world.size, device=world.device), torch.zeros(1, device=world.device)
        all_, one = torch.zeros(count * world.size, device=world.device), torch.zeros(count, device=world.device)
        latency = max(1e-6, _call_s(world, sizes, lambda: act(few, small), SMALL_CALLS))
        seconds = max(2e-6, _call_s(world, sizes, lambda: act(all_, one), LARGE_CALLS))
        return 4 * count * (world.size - 1) / max(seconds - latency, seconds / 2) / 1e9, latency * 1e6

    gathers = of(lambda whole, mine: dist.all_gather_into_tensor(whole, mine))
    sums = of(lambda whole, mine: dist.reduce_scatter_tensor(mine, whole))
    return dict(zip(("message_gb_per_s", "latency_us", "sum_gb_per_s", "sum_latency_us"), gathers + sums, strict=True))


def _call_s(world: World, sizes: Sizes, call: Callable[[], object], times: int) -> float:
    """Return the seconds that a collective adds to a rank's work. Collective.

    On a CPU the thread that sends and the one that computes share a core, and a rank that computes is not at once there to receive:
    a collective alone says little of it. It is timed behind a product, as a step has it, and the product taken off.
    """
    if world.device.type != "cpu":
        return best_s(world, lambda: [call() for _ in range(times)]) / times
    left, right = torch.randn(sizes.tokens, sizes.hidden), torch.randn(sizes.ffn, sizes.hidden)

    def product() -> None:
        torch.nn.functional.linear(left, right)

    alone = best_s(world, lambda: [product() for _ in range(times)])
    return (best_s(world, lambda: [(product(), call()) for _ in range(times)]) - alone) / times


def host_ms_per_layer(world: World, device: Literal["cuda", "cpu"], precision: Literal["bf16", "fp32"]) -> float:
    """Return the time of a layer so small that only starting its kernels takes time, forward and backward, in ms. Collective."""
    seconds = [_small_step_s(small_run(device, precision, layers=layers), world) for layers in LAYERS]
    return max(1e-3, (seconds[1] - seconds[0]) / (LAYERS[1] - LAYERS[0]) * 1e3)


def _small_step_s(run: RunConfig, world: World) -> float:
    model = build_model(run, world)
    optimizer = build_optimizer(run, model)
    set_learning_rate(optimizer, run.optim.lr)
    forget_positions()

    def once() -> None:
        train_step(
            model, optimizer, micro_batches(run, world, 1), run, world, state=TrainState(),
            global_batch_size=run.train.global_batch_size * world.size, domains=["all"],
        )  # fmt: skip

    return best_s(world, once)


def small_run(device: Literal["cuda", "cpu"], precision: Literal["bf16", "fp32"], *, layers: int) -> RunConfig:
    """Return a run of so few tokens and channels that what its kernels compute takes no time beside their start."""
    tree = {
        "run_dir": "none",
        "model": {
            "num_layers": layers, "hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 2, "num_query_groups": 2,
            "vocab_size": 128,
        },
        "data": {"tokenizer": "none", "seq_length": 8, "train": [{"prefix": "none"}]},
        "optim": {"lr": 1e-4},
        "train": {"train_steps": 1, "global_batch_size": 1, "micro_batch_size": 1, "precision": precision},
        "parallel": {"device": device},
    }  # fmt: skip
    return typed([tree], RunConfig, where="the measured model")


def best_s(world: World, act: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few, after one that warms up; all ranks begin each together. Collective."""
    best = float("inf")
    for repeat in range(REPEATS + 1):
        dist.barrier()
        _settle(world)
        began = time.perf_counter()
        act()
        _settle(world)
        if repeat:
            best = min(best, time.perf_counter() - began)
    return best


def _settle(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)


def _memory_bytes(world: World) -> float:
    """Return the memory of a rank's device; on a CPU an equal part of the host's."""
    if world.device.type == "cuda":
        return torch.cuda.get_device_properties(world.device).total_memory
    return host_memory().total_bytes / world.size
