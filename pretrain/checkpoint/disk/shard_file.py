"""A file of one rank: a header in JSON and the numbers behind it, in the safetensors format. No torch here.

Nothing in it can be executed. Format: https://github.com/huggingface/safetensors (8 bytes of length, JSON, data without gaps).
"""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fanal.errors import DamageError
from fanal.reason import reason
from pretrain.checkpoint.disk.direct import PAGE_BYTES
from pretrain.checkpoint.disk.manifest import LOST, DamagedCheckpointError, open_plain_file

ITEM_BYTES = 4
"""Bytes of a number; all are float32."""
MAX_HEADER_BYTES = 100_000_000
"""Limit of the safetensors format."""


def header_bytes(entries: Iterable[tuple[str, tuple[int, ...]]]) -> bytes:
    """Return the header of a file with these (name, shape), whose data follow in the same order; padded as the format allows, so
    that the data begin at a border of pages."""
    fields: dict[str, object] = {}
    place = 0
    for name, shape in entries:
        assert name not in fields, f"{name} is written twice"
        end = place + math.prod(shape) * ITEM_BYTES
        fields[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % PAGE_BYTES)
    return len(text).to_bytes(8, "little") + text


class ShardFile:
    """A file of a checkpoint, open for reading until it is closed."""

    def __init__(self, path: Path) -> None:
        """Open the file and read its header.

        Raises: DamagedCheckpointError if it is not there, or if its header does not fit the format or the bytes behind it;
        OSError if it cannot be read for a reason that is not damage."""
        self.path = path
        try:
            self._stream = open_plain_file(path)
        except OSError as error:
            if error.errno not in LOST:
                raise
            raise DamagedCheckpointError(f"{path} cannot be read ({error.strerror or error})") from None
        try:
            size = os.fstat(self._stream.fileno()).st_size
            length = int.from_bytes(self._stream.read(8), "little")
            if length > min(MAX_HEADER_BYTES, size - 8):  # before as much memory is asked for
                raise DamageError(f"the header has {length:,} bytes in a file of {size:,}")
            fields = json.loads(self._stream.read(length))
            fields.pop("__metadata__", None)
            self._numbers_start = 8 + length
            self._entries = _parse_entries(fields, size - self._numbers_start)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._stream.close()
            raise DamagedCheckpointError(f"{path} is not a valid safetensors file ({reason(error)})") from None

    def place(self, name: str, shape: tuple[int, ...], first_element: int) -> int:
        """Return the byte of the file where an entry's elements from ``first_element`` on begin, in row-major order.

        Raises: DamagedCheckpointError if there is no such entry of this shape.
        """
        found = self._entries.get(name)
        if found is None or found[1] != shape:
            raise DamagedCheckpointError(f"{self.path} has no entry {name} of shape {shape} (found {found})")
        return self._numbers_start + found[0] + first_element * ITEM_BYTES

    def read(self, name: str, shape: tuple[int, ...], first_element: int, out: np.ndarray) -> None:
        """Fill ``out`` (float32, contiguous) with the elements of an entry from ``first_element`` on, in row-major order.

        Raises: DamagedCheckpointError as ``place``, or if the file ends before the entry does.
        """
        place = self.place(name, shape, first_element)
        left = memoryview(out.reshape(-1).view(np.uint8).data)
        while left:
            count = os.preadv(self._stream.fileno(), [left], place)
            if count == 0:
                raise DamagedCheckpointError(f"{self.path} ends inside {name}")
            left, place = left[count:], place + count

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _parse_entries(fields: dict[str, Any], num_bytes: int) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Return place and shape of every entry by its name. Raises: DamageError if there is a gap or an overlap."""
    found, place = {}, 0
    for name, entry in sorted(fields.items(), key=lambda item: item[1]["data_offsets"]):
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        if entry["dtype"] != "F32" or any(type(number) is not int or number < 0 for number in (*shape, start, end)):
            raise DamageError(f"{name} must be F32, its shape and data_offsets integers from 0; found {entry}")
        if start != place or end != start + math.prod(shape) * ITEM_BYTES:
            raise DamageError(
                f"{name} of shape {shape} must start at byte {place:,}; found data_offsets {start:,} to {end:,}"
            )
        found[name], place = (start, shape), end
    if place != num_bytes:
        raise DamageError(f"the header describes {place:,} bytes of data, and {num_bytes:,} follow it")
    return found
