"""The model that is timed, rehearsed and traced: 1.27 B parameters on a GPU, next to nothing in a test."""

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from bench.gpu.setting import Setting
from bench.step.task import Shape

if TYPE_CHECKING:
    from pretrain.parallel.world import World

TINY = Shape(
    num_layers=2, hidden_size=64, num_heads=4, num_groups=2, ffn_hidden_size=96, vocab_size=256, seq_length=32, batch_size=2
)  # fmt: skip
GIB = 2**30
ROWS_BY_MEMORY = ((120, 4), (70, 2), (0, 1))
"""GiB of a GPU, and how many rows of 4,096 tokens a step has there. The peak of the hungriest contestant is an estimate."""


def shape_here(setting: Setting) -> Shape:
    """Return the model and its batch for this GPU."""
    if setting.tiny:
        return TINY
    gib = torch.cuda.get_device_properties(0).total_memory / GIB if setting.device == "cuda" else 0
    return Shape(
        num_layers=24, hidden_size=2048, num_heads=16, num_groups=8, ffn_hidden_size=5632, vocab_size=32_768,
        seq_length=4096, batch_size=next(rows for least, rows in ROWS_BY_MEMORY if gib >= least),
    )  # fmt: skip


def parameters(shape: Shape) -> int:
    """Return the number of weights, embedding and output layer untied."""
    return (
        product_weights(shape) + shape.vocab_size * shape.hidden_size + (2 * shape.num_layers + 1) * shape.hidden_size
    )


def product_weights(shape: Shape) -> int:
    """Return the weights of matrix products, those of the output layer included."""
    heads = 2 * shape.num_heads + 2 * shape.num_groups
    layer = shape.hidden_size * (heads * shape.head_size + 3 * shape.ffn_hidden_size)
    return shape.num_layers * layer + shape.vocab_size * shape.hidden_size


def flops_per_token(shape: Shape, *, causal: bool) -> float:
    """Return what pretrain.model.flops does, which needs packages that are not on every machine."""
    seen = shape.seq_length / 2 if causal else shape.seq_length
    return 6 * product_weights(shape) + 12 * shape.num_layers * shape.num_heads * shape.head_size * seen


@contextlib.contextmanager
def lone_rank(setting: Setting) -> Iterator["World"]:
    """Open the world of this process alone as a run does: over NCCL on a GPU, over gloo on a CPU."""
    from pretrain.config.schema import ParallelConfig
    from pretrain.parallel.world import open_world

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with open_world(ParallelConfig(device=setting.device, timeout_s=60), seed=1234) as world:
        yield world


def synchronize(setting: Setting) -> None:
    """Wait for the device."""
    if setting.device == "cuda":
        torch.cuda.synchronize()
