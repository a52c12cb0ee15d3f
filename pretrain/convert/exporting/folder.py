"""A folder that is there whole or not at all: written as DIR.part, synced, renamed at the end."""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from fanal.errors import UserError, error_type
from pretrain.convert.ours.target import NO_WRITING, harm_of

SMALL_FILES_BYTES = 32 << 20
"""Room for what is no weight: tokenizer, config, card, certificate."""


class ExportTargetError(UserError):
    """The folder cannot be written where it was asked for; the message says why."""


_OUR_FILES = re.compile(r"model[-0-9of]*\.safetensors|README\.md|[a-z_.]+\.json|tokenizer\.model|chat_template\.jinja")
"""What an export writes, by name: nothing else in a DIR.part is wiped."""


def check_target(final: Path, *, weight_bytes: int) -> None:
    """Refuse, before anything is written, a target that is taken or a disk that is too small. Raises: ExportTargetError."""
    harm = harm_of(final)
    if harm is not None:
        raise ExportTargetError(f"--to ({final}) {harm}")
    if os.path.lexists(final) and (final.is_symlink() or not final.is_dir() or any(final.iterdir())):
        raise ExportTargetError(
            f"--to ({final}) must not be there yet, or be an empty folder; {final}-2 works, or remove what is there"
        )
    parent = final.absolute().parent
    if not parent.is_dir():
        above = next(folder for folder in (parent, *parent.parents) if os.path.lexists(folder))
        mend = f"mkdir -p {parent}" if above.is_dir() else f"{above} is no folder; {above.parent / final.name} works"
        raise ExportTargetError(f"--to ({final}) must lie in a folder that is there, and {parent} is none; {mend}")
    needed = weight_bytes + SMALL_FILES_BYTES
    found = os.statvfs(parent)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise ExportTargetError(
            f"the export needs {needed:,} bytes and the disk of {parent} has {free:,} left; free {needed - free:,} bytes, or "
            "export to another disk"
        )


@contextlib.contextmanager
def part_of(final: Path) -> Iterator[Path]:
    """The empty folder DIR.part, held by this process alone; at the block's end it becomes DIR, on an exception it is removed.

    A killed process leaves DIR.part, which the next export to DIR wipes, and nothing under DIR.
    Raises: ExportTargetError if another export is at it or the disk does not take it.
    """
    part = final.with_name(f"{final.name}.part")
    try:
        part.mkdir(exist_ok=True)
        descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise error_type(error, ExportTargetError)(
            f"--to ({final}) cannot be written: {error.strerror} ({part})"
        ) from None
    try:
        _hold(part, descriptor, final)
        try:
            yield part
            _publish(part, descriptor, final)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        if error.errno not in NO_WRITING:
            raise
        raise error_type(error, ExportTargetError)(
            f"--to ({final}) could not be written, and nothing is left of it: {error.strerror} ({error.filename or part})"
        ) from None
    finally:
        os.close(descriptor)


def write_small(folder: Path, name: str, content: bytes) -> None:
    """Write a file, synced to the disk."""
    with (folder / name).open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _hold(part: Path, descriptor: int, final: Path) -> None:
    """Lock the folder and empty it of what a killed export has left. The lock ends with the process."""
    busy = f"{part} is being written by another export; wait for it, or choose another name than {final}"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ExportTargetError(busy) from None
    except OSError:
        pass  # a file system without locks: nothing keeps a second export out
    if not part.exists() or part.stat().st_ino != os.fstat(descriptor).st_ino:  # it was renamed a moment ago
        raise ExportTargetError(busy)
    found = sorted(part.iterdir())
    for path in found:
        if not _OUR_FILES.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            raise ExportTargetError(f"{part} is in the way, with {path.name} that no export wrote; remove it")
    for path in found:
        path.unlink()


def _publish(part: Path, descriptor: int, final: Path) -> None:
    os.fsync(descriptor)
    part.rename(final)  # over an empty folder too; onto a full one it fails
    parent = os.open(final.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
