"""Rows of a shard's columns on their way to its file: JSON, one after the other, so that a shuffle moves them like tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson


@dataclass(frozen=True, kw_only=True)
class DocumentRows:
    """Rows of some documents, packed."""

    lengths: np.ndarray
    """Bytes of each row: int32 [documents]."""
    data: np.ndarray
    """All rows: uint8 [sum of lengths]."""

    def __len__(self) -> int:
        return len(self.lengths)


def pack_rows(rows: Sequence[Sequence[Any]]) -> DocumentRows:
    """Pack rows: the number of the input file, the position in it, and the values of the columns, texts or None."""
    packed = [_packed(row) for row in rows]
    lengths = np.fromiter(map(len, packed), dtype=np.int32, count=len(packed))
    return DocumentRows(lengths=lengths, data=np.frombuffer(b"".join(packed), np.uint8))


def unpack_rows(data: bytes) -> list[list[Any]]:
    """Return the rows that lie one after the other."""
    return orjson.loads(b"[%b]" % data[:-1])


def _packed(row: Sequence[Any]) -> bytes:
    try:
        return orjson.dumps(row) + b","
    except TypeError:  # half a character, which only the standard library's JSON lets pass
        whole = [value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for value in row]
        return orjson.dumps(whole) + b","
