"""The bytes that bench.kernels counts from shapes are those that the kernels load and store, counted as the interpreter does it."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from bench.kernels.cases import differentiate
from bench.kernels.recorded import Launch
from bench.kernels.table import moved_bytes
from fanal.kernels.triton import launch
from fanal.kernels.triton.activations import geglu, squared_relu, swiglu
from fanal.kernels.triton.adamw import adamw_step
from fanal.kernels.triton.cross_entropy import TRITON
from fanal.kernels.triton.rms_norm import add_rms_norm, rms_norm
from fanal.kernels.triton.rotary import rotary_qkv
from tests.unit.triton_kernels.against import random

SHARED_BELOW = 1024
"""Elements of what several programs read, which comes from memory once and from a cache then: weights, cosines, the clip factor."""


def leaf(*size: int) -> Tensor:
    return random(*size).requires_grad_()


def adamw() -> None:
    shard = [torch.rand(3000) for _ in range(5)]
    adamw_step(
        *shard[:4],
        learning_rate=0.1,
        betas=(0.9, 0.9),
        eps=1.0,
        weight_decay=0.1,
        update=1,
        clip=torch.ones(1),
        copy=shard[4],
    )


OPERATIONS: dict[str, Callable[[], Any]] = {
    "rms_norm": lambda: rms_norm(leaf(8, 250), leaf(250), 1e-5),
    "add_rms_norm": lambda: add_rms_norm(leaf(8, 250), leaf(8, 250), leaf(250), 1e-5),
    "swiglu": lambda: swiglu(leaf(2, 2200)),
    "geglu": lambda: geglu(leaf(2, 2200)),
    "squared_relu": lambda: squared_relu(leaf(2, 1100)),
    "cross_entropy": lambda: TRITON(leaf(5, 1, 700) + 0, torch.arange(5)[:, None], None),
    "rotary": lambda: rotary_qkv(leaf(6, 1, 2, 4 * 64), random(6, 24), random(6, 24), 64),
    "adamw": adamw,
}


@contextmanager
def counted() -> Iterator[list[tuple[Launch, Counter[int]]]]:
    """Each launch with the bytes at every address that it loads or stores, both counted."""
    from triton.runtime.interpreter import InterpreterBuilder  # pyright: ignore[reportMissingImports]

    seen: list[tuple[Launch, Counter[int]]] = []
    load, store, start = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store, launch.start

    def note(pointers: Any, mask: Any) -> None:
        size = pointers.get_element_ty().primitive_bitwidth // 8
        for address in pointers.data[mask.data.astype(bool)].tolist():
            seen[-1][1][address] += size

    def noting_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        note(pointers, mask)
        return load(self, pointers, mask, *rest)

    def noting_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def noting_start(kernel: str, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        seen.append((Launch(kernel, grid, arguments, 1, 1, ()), Counter()))
        start(kernel, grid, *arguments, **constants)

    with (
        mock.patch.object(InterpreterBuilder, "create_masked_load", noting_load),
        mock.patch.object(InterpreterBuilder, "create_masked_store", noting_store),
        mock.patch.object(launch, "start", noting_start),
    ):
        yield seen


def from_memory(started: Launch, by_address: Counter[int]) -> int:
    """The bytes that a launch moved, what is shared once."""
    total = 0
    for tensor in (argument for argument in started.arguments if isinstance(argument, Tensor)):
        inside = range(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)
        found = {address: count for address, count in by_address.items() if address in inside}
        shared = tensor.numel() < SHARED_BELOW
        total += len(found) * tensor.element_size() if shared else sum(found.values())
    return total


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_kernel_moves_the_bytes_that_are_counted_from_its_shapes(name: str) -> None:
    with counted() as launches:
        differentiate(OPERATIONS[name]())
    assert launches
    for started, by_address in launches:
        # The label's logit is read once more; its neighbours in the pass over the row have brought it into the cache.
        again = 4 * started.grid[0] if started.kernel == "cross_entropy.forward" else 0
        assert from_memory(started, by_address) == moved_bytes(started) + again, started.kernel


def test_a_tensor_that_is_read_twice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with counted() as launches:
        squared_relu(leaf(2, 1100))
        squared_relu(leaf(2, 1100))
    (first, addresses), (_, again) = launches
    twice = Counter(addresses)
    twice.update(addresses)
    assert from_memory(first, addresses) == moved_bytes(first) and from_memory(first, twice) == 2 * moved_bytes(first)
    assert sum(again.values()) == sum(addresses.values())
