"""Host memory that a save copies this rank's state to: made once, used by every save, shared with the writer process.

Training is paused while it is filled, and no longer. It is anonymous shared memory (memfd): nothing in /dev/shm, nothing
left behind when a process is killed. Its pages are touched when it is made, since the first touch costs more than the copy.
"""

import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pretrain.checkpoint.content import LocalBox
from pretrain.checkpoint.disk.direct import PAGE_BYTES
from pretrain.checkpoint.disk.shard_file import ITEM_BYTES

NOTE_BYTES = 1 << 20
"""Bytes behind the numbers for what else a save tells its writer; they grow where that is longer."""


class Staging:
    """The copy of what a rank writes, in the order of its files: of each, all of the first state, then all of the next.

    ``ranges`` are the places of the files, each from a border of pages on. To be closed."""

    def __init__(self, files: Sequence[Sequence[LocalBox]], states: Sequence[str], device: torch.device) -> None:
        self._files, self._states, self._device = files, states, device
        self.ranges: list[tuple[int, int]] = []
        self.num_bytes = 0
        for boxes in files:
            start = self.num_bytes + -self.num_bytes % PAGE_BYTES
            self.num_bytes = start + sum(local.box.num_elements * len(local.states) for local in boxes) * ITEM_BYTES
            self.ranges.append((start, self.num_bytes))
        self.descriptor = os.memfd_create("fanal-checkpoint")
        os.ftruncate(self.descriptor, self.num_bytes + NOTE_BYTES)
        self._memory = mmap.mmap(self.descriptor, max(self.num_bytes, 1), flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        # Through numpy: torch.frombuffer refuses a buffer without elements.
        count = self.num_bytes // ITEM_BYTES
        self._flat = torch.from_numpy(np.frombuffer(self._memory, np.float32, count)) if count else torch.empty(0)
        if device.type == "cuda" and count:
            # Pinned, a copy from the GPU runs at the speed of the bus, and the copies need not wait for each other.
            runtime: Any = torch.cuda.cudart()
            error = runtime.cudaHostRegister(self._flat.data_ptr(), self.num_bytes, 0)
            assert int(error) == 0, f"the host memory of checkpoints cannot be pinned (CUDA error {int(error)})"

    @torch.no_grad()
    def fill(self) -> None:
        """Copy the state as it is now to the memory. One device sync."""
        for boxes, (start, _) in zip(self._files, self.ranges, strict=True):
            place = start // ITEM_BYTES
            for state in self._states:
                for local in boxes:
                    if (values := local.states.get(state)) is None:
                        continue
                    self._flat[place : place + values.numel()].copy_(values, non_blocking=True)
                    place += values.numel()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def note(self, text: bytes) -> tuple[int, int]:
        """Put a text behind the numbers; return where it begins in the shared memory, and its length."""
        os.ftruncate(self.descriptor, self.num_bytes + max(NOTE_BYTES, len(text)))
        os.pwrite(self.descriptor, text, self.num_bytes)
        return self.num_bytes, len(text)

    def close(self) -> None:
        """Free the memory."""
        if self._device.type == "cuda" and self.num_bytes:
            runtime: Any = torch.cuda.cudart()
            runtime.cudaHostUnregister(self._flat.data_ptr())
        del self._flat
        self._memory.close()
        os.close(self.descriptor)
