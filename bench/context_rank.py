"""One rank of ``bench.context``: the trainer's own step on long rows, its CPU seconds, and the bytes that it sends."""

import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from bench.step.ours import NO_PADDING, run_config
from bench.step.task import LEARNING_RATE, Shape, batches
from pretrain.config.schema import ParallelConfig
from pretrain.data.batch import micro_batch, part_of_rank
from pretrain.model.gpt import build_model
from pretrain.optim.optimizer import build_optimizer, set_learning_rate
from pretrain.parallel.world import open_world
from pretrain.state import TrainState
from pretrain.train.step import train_step

BYTES_SENT_AT = 200
"""Where the kernel's struct tcp_info (linux/tcp.h) has tcpi_bytes_sent, 64 bits: payload, with what is sent again."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layout, a length of rows, and how much is measured."""

    num_ranks: int
    parallel: Mapping[str, Any]
    """Keys of the section parallel."""
    shape: Shape
    samples: int
    """Of a step."""
    steps: int


def measure(case: Case, folder: Path) -> int:
    """Train as one rank with one thread, and write what was found to folder/rank-N.json. Returns: the exit code."""
    torch.set_num_threads(1)
    exchanged = Exchanged()
    run = run_config(
        case.shape, "fp32", parallel=ParallelConfig(device="cpu", **case.parallel), global_batch_size=case.samples
    )
    with open_world(run.parallel, seed=1) as world:
        exchanged.watch(parallel_state.get_context_parallel_group())
        model = build_model(run, world)
        optimizer = build_optimizer(run, model)
        set_learning_rate(optimizer, LEARNING_RATE)
        whole = [
            micro_batch(rows, world.device, seq_length=case.shape.seq_length, pad_id=NO_PADDING, has_padding=False)
            for rows in batches(case.shape, case.samples)
        ]
        data = [part_of_rank(batch, world) for batch in whole]

        def step() -> float:
            result = train_step(
                model,
                optimizer,
                iter(data),
                run,
                world,
                state=TrainState(),
                domains=("text",),
                global_batch_size=case.samples,
            )
            return result.loss

        step()  # it makes what later ones find
        dist.barrier()
        exchanged.num_bytes, sent, cpu_s, wall_s = 0, bytes_sent(), time.process_time(), time.perf_counter()
        losses = [step() for _ in range(case.steps)]
        found = {
            "loss": losses[-1],
            "cpu_s": (time.process_time() - cpu_s) / case.steps,
            "wall_s": (time.perf_counter() - wall_s) / case.steps,
            "bytes_sent": (bytes_sent() - sent) / case.steps,
            "exchanged_bytes": exchanged.num_bytes / case.steps,
        }
        dist.barrier()
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))
    return 0


class Exchanged:
    """Bytes that the exchange of keys, values and their gradients asks this rank to send, by the sizes of its messages."""

    def __init__(self) -> None:
        self.num_bytes = 0

    def watch(self, group: Any) -> None:
        """Count what goes through these two functions with this group: a gather's own part and a sum's others go to every peer."""
        gather, scatter = dist.all_gather_into_tensor, dist.reduce_scatter_tensor

        def all_gather_into_tensor(output: Any, local: torch.Tensor, **options: Any) -> Any:
            if options.get("async_op") and local.dim() > 2:  # the optimizer's messages, on the same ranks, are flat
                self.num_bytes += local.nbytes * (group.size() - 1)
            return gather(output, local, **options)

        def reduce_scatter_tensor(local: torch.Tensor, *rest: Any, **options: Any) -> Any:
            if options.get("async_op") and local.dim() > 2:
                self.num_bytes += local.nbytes * (group.size() - 1)
            return scatter(local, *rest, **options)

        dist.all_gather_into_tensor, dist.reduce_scatter_tensor = all_gather_into_tensor, reduce_scatter_tensor


def bytes_sent() -> int:
    """Return what the kernel counts as sent through this process's TCP connections, gloo's among them."""
    return sum(_bytes_sent(connection) for connection in _connections())


def _connections() -> Iterator[socket.socket]:
    for path in list(Path("/proc/self/fd").iterdir()):
        try:
            connection = socket.socket(fileno=os.dup(int(path.name)))
        except OSError:  # no socket, or the folder's own number
            continue
        with connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                yield connection


def _bytes_sent(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return struct.unpack_from("=Q", info, BYTES_SENT_AT)[0] if len(info) >= BYTES_SENT_AT + 8 else 0
