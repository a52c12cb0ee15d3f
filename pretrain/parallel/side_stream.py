"""A GPU's second queue of work, for copies that go on beside the kernels. A device without queues does everything at once."""

from collections.abc import Callable
from typing import Any

import torch


class SideStream:
    """Copies beside the main stream of a CUDA device, one after the other. Not yet run on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def start(self, copy: Callable[[], object]) -> Any:
        """Begin a copy once the main stream has done what it was given so far; return a mark of its end. The host does not wait."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            copy()
        return self._stream.record_event()

    def wait(self, mark: Any) -> None:
        """Let what the main stream is given from here on begin after a mark. The host does not wait."""
        torch.cuda.current_stream().wait_event(mark)


class InOrder:
    """What stands in for it on a device that does one thing after the other: each copy is done when ``start`` returns."""

    def start(self, copy: Callable[[], object]) -> Any:
        copy()

    def wait(self, mark: Any) -> None: ...


def side_stream(device: torch.device) -> SideStream | InOrder:
    """Return a new side stream of a device."""
    return SideStream(device) if device.type == "cuda" else InOrder()
