"""Copies of layers' inputs to the host and back, as late as a GPU may make them, and faults planted in them. Called in every rank
before the run starts."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch


class LateStream:
    """A side stream whose copies are made when something waits for them, or for a later one, and not before."""

    def __init__(self, _device: torch.device) -> None:
        self._begun, self._queue = 0, deque[Callable[[], object]]()

    def start(self, copy: Callable[[], object]) -> int:
        self._queue.append(copy)
        self._begun += 1
        return self._begun

    def wait(self, mark: int) -> None:
        while self._queue and self._begun - len(self._queue) < mark:
            self._queue.popleft()()


def copies_are_late() -> None:
    """No fault: a copy is made when it is waited for. Until then memory that was fetched holds ones; memory that was let go of,
    NaN."""
    from pretrain.model import offload

    offload.side_stream = LateStream  # type: ignore[assignment]
    fetch, pack = offload.Kept.fetch, offload.Kept._pack

    def fetch_late(self: Any) -> None:
        fetch(self)
        if self._on_device is not None and not hasattr(self, "begun"):
            self._on_device.fill_(1.0)
            self.begun = True

    def pack_and_reuse(self: Any, saved: torch.Tensor) -> Any:
        packed = pack(self, saved)
        if packed is self:
            saved.data.fill_(torch.nan)  # whose writes autograd does not count
        return packed

    offload.Kept.fetch = fetch_late  # type: ignore[method-assign]
    offload.Kept._pack = pack_and_reuse  # type: ignore[method-assign]


def fetches_are_not_waited_for() -> None:
    """The backward of a layer begins before its input has arrived."""
    from pretrain.model import offload

    copies_are_late()
    arrived = offload.Kept.arrived

    def broken(self: Any) -> torch.Tensor:
        stream = self._buffers.stream
        wait, stream.wait = stream.wait, lambda mark: None
        try:
            return arrived(self)
        finally:
            stream.wait = wait

    offload.Kept.arrived = broken  # type: ignore[method-assign]


def memory_is_reused_before_it_is_copied() -> None:
    """The main stream goes on with the memory of a layer's input while it is copied to the host."""
    from pretrain.model import offload

    copies_are_late()
    pack = offload.Kept._pack

    def broken(self: Any, saved: torch.Tensor) -> Any:
        stream = self._buffers.stream
        wait, stream.wait = stream.wait, lambda mark: None
        try:
            return pack(self, saved)
        finally:
            stream.wait = wait

    offload.Kept._pack = broken  # type: ignore[method-assign]


def buffers_of_two_layers_are_swapped() -> None:
    """A layer is given the input of the one before it, and that one gets its."""
    from pretrain.model import offload

    fetch = offload.Kept.fetch

    def broken(self: Any) -> None:
        other = self.before
        if other is not None and self._on_host is not None and other._on_host is not None:
            self._on_host, other._on_host = other._on_host, self._on_host
        fetch(self)

    offload.Kept.fetch = broken  # type: ignore[method-assign]
