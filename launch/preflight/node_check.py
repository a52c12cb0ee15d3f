"""Check of one node of a job and its links to its neighbours: ``srun --ntasks-per-node=1 python -m
launch.preflight.node_check ...``.

What it found is a line on standard output, printed anew at each stage, so that a node which falls silent has said how far it came.
nodes.py starts this and reads the lines; outliers.py judges them. The only file of launch that imports torch.
"""

import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import click
import torch
import torch.distributed as dist

from fanal.errors import run_guarded
from fanal.exit_codes import FINISHED
from fanal.files import sync
from fanal.host_name import host_name
from fanal.listener import listen_at
from launch.preflight.outliers import MARK, MEETING_POINT, NodeReport

REPEATS = 5
"""Repetitions of a measurement, of which the best counts: what disturbs one only makes it slower."""
REACH_S = 120.0
"""Seconds to reach the first node, which may still be importing torch from a busy file system."""
MEET_S = 180.0
"""Seconds until all nodes are connected, late ones included."""
COLLECTIVE_S = 60.0
"""Seconds that nodes wait for each other in one act; each takes about one."""
CPU_MATRIX, GPU_MATRIX = 1024, 8192
CPU_COPY_BYTES, GPU_COPY_BYTES = 64 << 20, 1 << 30
CPU_EXCHANGE_BYTES, GPU_EXCHANGE_BYTES = 16 << 20, 256 << 20
WRITE_BYTES = 1 << 20


@click.command()
@click.option("--meet-at", required=True, envvar=MEETING_POINT, metavar="HOST:PORT", help="On the first node.")
@click.option("--folder", required=True, type=Path, help="To write to.")
@click.option("--gpus", required=True, type=int, help="To use; 0 measures the CPUs.")
@click.option("--bf16/--fp32", required=True, help="Of the matrix product on GPUs.")
def main(meet_at: str, folder: Path, gpus: int, bf16: bool) -> None:
    """Measure this node, in a job step with one task a node."""
    code = check(meet_at, folder, gpus=gpus, bf16=bf16)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of a communicator that lost its peers would wait for them


def check(meet_at: str, folder: Path, *, gpus: int, bf16: bool) -> int:
    """Measure, reporting each stage. Returns the exit code."""
    rank, num_nodes = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    report = NodeReport(node=host_name(), stage="started")
    tell(report)

    def act() -> int:
        nonlocal report
        report = measure_alone(report, folder, gpus=gpus, bf16=bf16)
        tell(report)
        host, _, port = meet_at.rpartition(":")
        # Without waiting for the others: who cannot reach the first node is known by it.
        listener = listen_at(host, int(port), alone=num_nodes == 1)[0].detach() if rank == 0 else None
        store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]: documented, yet not listed by torch
            host, int(port), None, is_master=rank == 0, timeout=timedelta(seconds=REACH_S), wait_for_workers=False,
            master_listen_fd=listener,
        )  # fmt: skip
        report = dataclasses.replace(report, stage="reached")
        tell(report)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=num_nodes, timeout=timedelta(seconds=MEET_S))
        report = dataclasses.replace(report, stage="met")
        tell(report)
        report = measure_together(report, rank, num_nodes)
        tell(report)
        dist.barrier()  # the first node holds the store, which the others may still need
        return FINISHED

    def name_node(error: Exception) -> None:
        said = " ".join(str(error).split())[:300]
        tell(dataclasses.replace(report, error=f"{type(error).__name__}: {said}"))

    return run_guarded(act, then=name_node)


def tell(report: NodeReport) -> None:
    """Print one line, in one write: the nodes of a step speak at the same moment, into the same pipe."""
    sys.stdout.write(MARK + json.dumps(dataclasses.asdict(report)) + "\n")
    sys.stdout.flush()


def measure_alone(report: NodeReport, folder: Path, *, gpus: int, bf16: bool) -> NodeReport:
    """Measure memory, compute, copies and a write."""
    memory = [
        torch.cuda.get_device_properties(number).total_memory / 2**30
        for number in range(torch.cuda.device_count() if gpus else 0)
    ]
    # A GPU more than was asked for is another job's.
    devices = [torch.device("cuda", number) for number in range(min(gpus, len(memory)))]
    devices = devices if gpus else [torch.device("cpu")]
    write_s, write_error = measure_write(folder)
    return dataclasses.replace(
        report,
        stage="measured",
        gpu_memory_gib=memory,
        gemm_tflops=[measure_gemm(device, bf16=bf16) for device in devices],
        copy_gb_per_s=[measure_copy(device) for device in devices],
        write_s=write_s,
        write_error=write_error,
    )


def measure_gemm(device: torch.device, *, bf16: bool) -> float:
    """Measure a square matrix product, in TFLOP/s."""
    on_gpu = device.type == "cuda"
    size = GPU_MATRIX if on_gpu else CPU_MATRIX
    dtype = torch.bfloat16 if on_gpu and bf16 else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    # Long enough that the clock of the GPU settles; fp32 takes ten times as long.
    times = 1 if not on_gpu else 50 if bf16 else 5
    seconds = best_s(device, lambda: [torch.mm(left, right) for _ in range(times)])
    return 2 * size**3 * times / seconds / 1e12


def measure_copy(device: torch.device) -> float:
    """Measure a copy, in GB/s, each byte counted when it is read and when it is written."""
    num_bytes = GPU_COPY_BYTES if device.type == "cuda" else CPU_COPY_BYTES
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / best_s(device, lambda: target.copy_(source)) / 1e9


def measure_write(folder: Path) -> tuple[float | None, str]:
    """Return (seconds until a small file is on the disk, the reason if it cannot be written). Nothing stays."""
    block = os.urandom(WRITE_BYTES)
    try:
        seconds = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".node-check-") as stream:
                stream.write(block)
                sync(stream)
                seconds.append(time.perf_counter() - began)
        return min(seconds), ""
    except OSError as error:
        return None, error.strerror or str(error)


def measure_together(report: NodeReport, rank: int, num_nodes: int) -> NodeReport:
    """Measure the clock, exchanges with the neighbours and one all-reduce. Collective."""
    dist.barrier()
    clock_s = time.time()
    # Where a node lacks a GPU, all leave out that number: its peers would wait for it.
    fewest = torch.tensor(len(report.gemm_tflops) if report.gpu_memory_gib else 0)
    dist.all_reduce(fewest, dist.ReduceOp.MIN)
    devices = [torch.device("cuda", number) for number in range(int(fewest))]
    group = None
    if devices and num_nodes > 1:
        group = dist.new_group(backend="nccl", timeout=timedelta(seconds=COLLECTIVE_S))
        assert isinstance(group, dist.ProcessGroup), "every node is in the group"
    exchange, reduce = [], []
    for device in devices or [torch.device("cpu")]:
        if num_nodes == 1:
            break
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # First, since it connects all nodes for this device: exchanges of pairs alone could not.
        reduce.append(measure_all_reduce(device, group, num_nodes))
        exchange.append(measure_exchange(device, group, rank, num_nodes))
    return dataclasses.replace(
        report, stage="done", clock_s=clock_s, exchange_gb_per_s=exchange, all_reduce_gb_per_s=reduce
    )


def measure_all_reduce(device: torch.device, group: dist.ProcessGroup | None, num_nodes: int) -> float:
    """Measure the bus bandwidth, in GB/s: what each link carries, which does not depend on the number of nodes. Collective."""
    num_bytes = GPU_EXCHANGE_BYTES if device.type == "cuda" else CPU_EXCHANGE_BYTES
    numbers = torch.zeros(num_bytes // 4, device=device)
    seconds = best_s(device, lambda: dist.all_reduce(numbers, group=group), before=dist.barrier)
    return 2 * (num_nodes - 1) / num_nodes * num_bytes / seconds / 1e9


def measure_exchange(device: torch.device, group: dist.ProcessGroup | None, rank: int, num_nodes: int) -> float:
    """Measure GB/s each way with the better of the two neighbours in a ring, so that the node beside a slow one is not blamed.
    Collective: all pairs of a round exchange at the same time."""
    num_bytes = GPU_EXCHANGE_BYTES if device.type == "cuda" else CPU_EXCHANGE_BYTES
    mine, other = (torch.zeros(num_bytes, dtype=torch.uint8, device=device) for _ in range(2))
    best = 0.0
    for pairs in ring_rounds(num_nodes):
        peer = next((a + b - rank for a, b in pairs if rank in (a, b)), None)

        def exchange(peer: int | None = peer) -> None:
            if peer is None:
                return
            works = dist.batch_isend_irecv(
                [dist.P2POp(dist.isend, mine, peer, group), dist.P2POp(dist.irecv, other, peer, group)]
            )
            for work in works:
                work.wait()

        seconds = best_s(device, exchange, before=dist.barrier)
        if peer is not None:
            best = max(best, num_bytes / seconds / 1e9)
    return best


def ring_rounds(num_nodes: int) -> list[list[tuple[int, int]]]:
    """Return every pair of neighbours in a ring once, in rounds of pairs that share no node: two, or three if the
    number is odd."""
    if num_nodes < 3:
        return [[(0, 1)]] if num_nodes == 2 else []
    around = [(first, (first + 1) % num_nodes) for first in range(num_nodes)]
    if num_nodes % 2 == 0:
        return [around[0::2], around[1::2]]
    return [around[0:-1:2], around[1:-1:2], around[-1:]]


def best_s(device: torch.device, act: Callable[[], object], *, before: Callable[[], object] | None = None) -> float:
    """Return the seconds of the fastest of REPEATS, after one that warms up.

    Args: before, called before each and not counted.
    """
    best = float("inf")
    for repeat in range(REPEATS + 1):
        if before is not None:
            before()
        _settle(device)
        began = time.perf_counter()
        act()
        _settle(device)
        if repeat:
            best = min(best, time.perf_counter() - began)
    return best


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
