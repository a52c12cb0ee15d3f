"""The manifest of a checkpoint folder, file by file, and the seal on it.

``manifest.json`` names every file with its size and hash: BLAKE3, which does not set the pace of a load. ``COMPLETE`` holds the
SHA-256 of the manifest, in the form that ``sha256sum --check COMPLETE`` reads. So one line of text proves the whole folder.

What is trusted: ``COMPLETE``. The hashes find every accident, and every change by someone who cannot write ``COMPLETE``
and does not write while a run starts. Whoever can write it can forge the rest, and have other numbers loaded; no code is run,
since a checkpoint is JSON, YAML without objects, and safetensors. Keep run folders writable for their owner alone, and for a
checkpoint that travels keep the line in ``COMPLETE`` elsewhere.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from fanal.errors import DamageError
from fanal.hashing import FAST, STANDARD, hash_text, is_hash_text, new_hash
from fanal.reason import reason
from fanal.records import MAX_RECORD_BYTES, record_of
from fanal.run_folder import COMPLETE, MANIFEST
from fanal.shown import shown

Record = TypeVar("Record")

FORMAT_VERSION = 2
"""Version that is written. In version 1 an entry has ``sha256``, 64 hexadecimal digits, in place of ``hash``."""
READ_BLOCK_BYTES = 1 << 20
SEAL_BYTES = 256
"""Upper limit of a seal's length, so that a large file under its name is not read to its end."""
LOST = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EIO, None}
"""Errors that mean damage: the file is gone, is a link or not a file by now, or its disk cannot read it. Any other error of
reading, such as missing permission, is not damage: the bytes may be intact."""
Buffer = bytes | memoryview
Take = Callable[[int, Buffer], None]
"""A function that is given a place in a file and the bytes from there on, which are valid until it returns."""


class DamagedCheckpointError(DamageError):
    """A checkpoint's bytes are not those that were written. Exit code 76: starting again reads the same bytes."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a checkpoint."""

    path: str
    """Path from the checkpoint's folder, with forward slashes."""
    bytes: int
    hash: str
    """Hash with the name of its algorithm (``fanal.hashing.hash_text``)."""


@dataclass(frozen=True, kw_only=True)
class _OldEntry:
    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All files of a checkpoint but the manifest and its seal."""

    step: int
    files: tuple[FileEntry, ...]
    """Entries sorted by path."""


def read_blocks(path: Path) -> Iterator[bytes]:
    """Read the bytes of a file in order, in blocks. Follows no link. Raises: OSError if it cannot be read."""
    with open_plain_file(path) as stream:
        while block := stream.read(READ_BLOCK_BYTES):
            yield block


def describe(
    folder: Path,
    path: str,
    *,
    algorithm: str = FAST,
    blocks: Callable[[Path], Iterable[Buffer]] = read_blocks,
    take: Take | None = None,
) -> FileEntry:
    """Return size and hash of one file as it reads now. Reads it once, follows no link.

    Args: take: called with every block once it is hashed, while it is in the core's cache.
    Raises: OSError if it cannot be read.
    """
    digest, num_bytes = new_hash(algorithm), 0
    for block in blocks(folder / path):
        digest.update(block)
        if take is not None:
            take(num_bytes, block)
        num_bytes += len(block)
    return FileEntry(path=path, bytes=num_bytes, hash=hash_text(algorithm, digest))


def open_plain_file(path: Path) -> Any:
    """Open a file for reading, unbuffered. Raises: OSError if it is a link, a pipe or a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a file")
    return os.fdopen(descriptor, "rb", buffering=0)


def read_small_file(path: Path, max_bytes: int = -1) -> bytes:
    """Read a file, or its first ``max_bytes``.

    Raises: DamagedCheckpointError if it is missing, not a plain file or too large to be one of ours; OSError if it cannot be read
    for a reason that is not damage.
    """
    try:
        with open_plain_file(path) as stream:
            if max_bytes < 0 and (size := os.fstat(stream.fileno()).st_size) > MAX_RECORD_BYTES:
                raise DamagedCheckpointError(f"{path} has {size:,} bytes, and may have {MAX_RECORD_BYTES:,}")
            return stream.read(max_bytes)
    except OSError as error:
        if error.errno not in LOST:
            raise
        raise DamagedCheckpointError(f"{path} cannot be read ({error.strerror or 'not a file'})") from None


def read_record(path: Path, parse: Callable[[Any], Record], *, what: str) -> Record | None:
    """Read a JSON file that not every checkpoint has; None where there is none.

    Args: parse, which raises ValueError on content that is not such a record; what: of what it is the record, for the message.
    Raises: DamagedCheckpointError naming the file if it is not such a record.
    """
    if not os.path.lexists(path):
        return None
    content = read_small_file(path)
    try:
        return parse(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} is not the record of {what}: {error}") from None


def entries_to_text(entries: Iterable[FileEntry]) -> str:
    """Return entries as JSON, for another rank."""
    return json.dumps([asdict(entry) for entry in entries])


def entries_from_text(text: str) -> list[FileEntry]:
    """Return the entries in a text from ``entries_to_text``."""
    return [FileEntry(**fields) for fields in json.loads(text)]


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the content of ``manifest.json``: the same for the same files, whichever rank hashed them."""
    files = sorted(manifest.files, key=lambda entry: entry.path)
    content = {"format_version": FORMAT_VERSION, "step": manifest.step, "files": [asdict(entry) for entry in files]}
    return (json.dumps(content, indent=1) + "\n").encode()


def seal_text(manifest: bytes) -> str:
    """Return the content of ``COMPLETE`` for this ``manifest.json``."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n"


def read_sealed_manifest(folder: Path) -> bytes:
    """Read ``manifest.json``, and check its hash against ``COMPLETE``.

    Raises: DamagedCheckpointError if one of the two is missing or not a file, or if they do not belong together; OSError as
    ``read_small_file``.
    """
    seal = read_small_file(folder / COMPLETE, SEAL_BYTES)
    content = read_small_file(folder / MANIFEST)
    expected = seal_text(content).encode()
    if seal != expected:
        raise DamagedCheckpointError(
            f"{folder / COMPLETE} holds {shown(seal)}, expected {shown(expected)} for {folder / MANIFEST}: one of them changed, "
            "or a version without manifests wrote it"
        )
    return content


def parse_manifest(content: bytes, where: Path) -> Manifest:
    """Parse the bytes of ``manifest.json``; every key must be known, present and of its type.

    Raises: DamagedCheckpointError naming the file and the first thing that is wrong.
    """
    try:
        fields = json.loads(content)
        if not isinstance(fields, dict) or set(fields) != {"format_version", "step", "files"}:
            raise DamageError("it must hold format_version, step and files")
        if fields["format_version"] not in (1, FORMAT_VERSION):
            raise DamageError(f"format_version ({shown(fields['format_version'])}) must be 1 or {FORMAT_VERSION}")
        if type(fields["step"]) is not int or fields["step"] < 0:
            raise DamageError(f"step ({shown(fields['step'])}) must be an integer from 0")
        parse = _parse_old_entry if fields["format_version"] == 1 else _parse_entry
        files = tuple(parse(entry) for entry in fields["files"])
        paths = [entry.path for entry in files]
        if paths != sorted(set(paths)):
            raise DamageError("its paths must be sorted and different")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedCheckpointError(f"{where / MANIFEST} is not a manifest ({reason(error)})") from None
    return Manifest(step=fields["step"], files=files)


def _parse_entry(fields: Any) -> FileEntry:
    entry = record_of(FileEntry, fields)
    inside = PurePosixPath(entry.path)
    if (
        inside.is_absolute()
        or ".." in inside.parts
        or str(inside) != entry.path
        or entry.path in (".", MANIFEST, COMPLETE)
    ):
        raise DamageError(f"path ({shown(entry.path)}) must be that of a file inside the checkpoint")
    if entry.bytes < 0:
        raise DamageError(f"bytes of {entry.path} ({shown(entry.bytes)}) must be an integer from 0")
    if not is_hash_text(entry.hash):
        raise DamageError(
            f"hash of {entry.path} ({shown(entry.hash)}) must be {FAST}: or {STANDARD}: and 64 hexadecimal digits"
        )
    return entry


def _parse_old_entry(fields: Any) -> FileEntry:
    old = record_of(_OldEntry, fields)
    return _parse_entry({"path": old.path, "bytes": old.bytes, "hash": f"{STANDARD}:{old.sha256}"})
