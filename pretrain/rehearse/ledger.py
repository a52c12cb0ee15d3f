"""The memory of a device, storage by storage: what lives, what lived at the peak."""

import weakref
from collections import Counter
from collections.abc import Iterable

import torch

BLOCK_BYTES = 512
"""torch's CUDA allocator gives memory out in blocks of so much."""

Label = tuple[str, str, str]
"""Kind in words, place, operation."""


class Ledger:
    """Counts the storages of one type of device from their making to their end."""

    def __init__(self, device_type: str) -> None:
        self._device_type = device_type
        self.live_bytes = 0
        self._known: dict[int, int] = {}  # number of each living storage, by its address
        self._sizes: dict[int, int] = {}  # by number, of storages that live or have lived since ``begin``
        self._labels: dict[int, Label] = {}
        self._count = 0
        self.begin()

    def begin(self) -> None:
        """Look for a new peak from here on."""
        self.peak_bytes = self.live_bytes
        self._at_begin = set(self._known.values())
        self._events: list[int] = []  # number of a storage that was made, or its complement for one that ended
        self._peak_event = 0
        for gone in self._sizes.keys() - self._at_begin:
            del self._sizes[gone], self._labels[gone]

    def see(self, tensor: torch.Tensor, label: Label) -> None:
        """Count a tensor's storage, if it is new."""
        if tensor.device.type != self._device_type or tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._known:
            return
        weakref.finalize(storage, self._end, address).atexit = False
        self._add(address, storage.nbytes(), label)

    def resize(self, storage: torch.UntypedStorage, num_bytes: int) -> None:
        """Count that a storage's memory is given back (0 bytes) or taken again; what it holds has its old name."""
        address = storage._cdata
        if address in self._known:
            label = self._labels[self._known[address]]
            self._end(address)
            self._add(address, num_bytes, label)

    def see_for_a_moment(self, num_bytes: int, label: Label) -> None:
        """Count memory that is given back before the next operation."""
        nowhere = 0  # no storage has this address
        self._add(nowhere, num_bytes, label)
        self._end(nowhere)

    def _add(self, address: int, num_bytes: int, label: Label) -> None:
        number = self._count = self._count + 1
        size = -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES
        self._known[address], self._sizes[number], self._labels[number] = number, size, label
        self.live_bytes += size
        self._events.append(number)
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self._peak_event = self.live_bytes, len(self._events)

    def name(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Say what these tensors are."""
        for tensor in tensors:
            number = self._known.get(tensor.untyped_storage()._cdata)
            if number is not None:
                self._labels[number] = (kind, *self._labels[number][1:])

    def at_peak(self) -> dict[Label, tuple[int, int]]:
        """Return the number of tensors and their bytes at the peak since ``begin``, by label."""
        alive = set(self._at_begin)
        for event in self._events[: self._peak_event]:
            if event > 0:
                alive.add(event)
            else:
                alive.discard(~event)
        tensors, num_bytes = Counter[Label](), Counter[Label]()
        for number in alive:
            tensors[self._labels[number]] += 1
            num_bytes[self._labels[number]] += self._sizes[number]
        assert sum(num_bytes.values()) == self.peak_bytes, "every storage at the peak has a label"
        return {label: (tensors[label], num_bytes[label]) for label in num_bytes}

    def _end(self, address: int) -> None:
        number = self._known.pop(address)
        self.live_bytes -= self._sizes[number]
        self._events.append(~number)
