"""Every bit of a file flipped, one at a time."""

from collections.abc import Callable
from pathlib import Path

from fanal.errors import DamageError, UserError


def unnoticed_bits(path: Path, read: Callable[[], object], *, first: int = 0, every: int = 1) -> list[int]:
    """Bits whose flip the reader of a file does not refuse as damage, or as no record. The file is as it was afterwards.

    Args: every: of so many bits one, where a file is large; 7 takes one or two of each byte.
    """
    sound, found = path.read_bytes(), []
    for bit in range(first, 8 * len(sound), every):
        altered = bytearray(sound)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        try:
            read()
        except (DamageError, UserError) as error:
            assert path.name in str(error)
        else:
            found.append(bit)
    path.write_bytes(sound)
    read()
    return found
