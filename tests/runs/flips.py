"""Bits that are flipped in a file, one at a time, and flipped back."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def flipped(path: Path, place: int, bit: int) -> Iterator[None]:
    """A bit of a file is another one for the duration of a block."""
    with path.open("r+b", buffering=0) as stream:
        (byte,) = os.pread(stream.fileno(), 1, place)
        os.pwrite(stream.fileno(), bytes([byte ^ 1 << bit]), place)
        try:
            yield
        finally:
            os.pwrite(stream.fileno(), bytes([byte]), place)
