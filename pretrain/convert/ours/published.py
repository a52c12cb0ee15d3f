"""Files of a Hugging Face folder, by the hash that its readers check: SHA-256, as coreutils and the hub do."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fanal.hashing import STANDARD, digits_of
from pretrain.checkpoint.disk.manifest import describe, read_blocks


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file of a folder that was exported, or is imported."""

    path: str
    """Path from the folder, with forward slashes."""
    bytes: int
    sha256: str
    """Hash in 64 hexadecimal digits."""


def describe_published(
    folder: Path, path: str, *, blocks: Callable[[Path], Iterable[bytes]] = read_blocks
) -> PublishedFile:
    """Return size and hash of one file as it reads now. Args: blocks: what reads it, by default without following a link.

    Raises: as ``describe``.
    """
    found = describe(folder, path, algorithm=STANDARD, blocks=blocks)
    return PublishedFile(path=path, bytes=found.bytes, sha256=digits_of(found.hash))
