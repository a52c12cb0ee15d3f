"""The folder of an export appears complete or not at all: it is written as DIR.part, synced and renamed at the end."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fanal.errors import UserError
from fanal.files import sync
from fanal.free_space import shortage
from fanal.new_files import create_file
from fanal.part_folder import part_folder, publish
from pretrain.convert.ours.target import harm_of

SMALL_FILES_BYTES = 32 << 20
"""Bytes set aside for the files that hold no weights: tokenizer, config, card, certificate."""


class ExportTargetError(UserError):
    """Error: the folder cannot be written at the requested path; the message names the reason."""


_OUR_FILES = re.compile(
    r"model[-0-9of]*\.safetensors|README\.md|[a-z_.]+\.json|tokenizer\.model|merges\.txt|chat_template\.jinja"
)
"""Names of the files that an export writes: nothing else in a DIR.part is removed."""


def check_target(final: Path, *, weight_bytes: int) -> None:
    """Check, before anything is written, that the target is free and the disk has room. Raises: ExportTargetError."""
    if not _is_text(final):
        raise ExportTargetError(f"--to ({str(final)!r}) must be UTF-8, since its files name it; my-export works")
    harm = harm_of(final)
    if harm is not None:
        raise ExportTargetError(f"--to ({final}) {harm}")
    if os.path.lexists(final) and (final.is_symlink() or not final.is_dir() or any(final.iterdir())):
        raise ExportTargetError(
            f"--to ({final}) must not exist, or be an empty folder; {final}-2 works, or remove what is there"
        )
    parent = final.absolute().parent
    if not parent.is_dir():
        above = next(folder for folder in (parent, *parent.parents) if os.path.lexists(folder))
        if above.is_dir():
            raise ExportTargetError(
                f"--to ({final}) must be in an existing folder, and {parent} does not exist; `mkdir -p {parent}` creates it"
            )
        raise ExportTargetError(
            f"--to ({final}) must be in an existing folder, and {above} is not a folder; {above.parent / final.name} works"
        )
    needed = weight_bytes + SMALL_FILES_BYTES
    lack = shortage(parent, "the export", needed_bytes=needed, instead="export to another disk")
    if lack is not None:
        raise ExportTargetError(lack)


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def part_of(final: Path) -> Iterator[Path]:
    """Create the empty folder DIR.part, locked by this process; at the block's end rename it to DIR, on an exception remove it.

    Raises: ExportTargetError if another export is writing it, or if the disk refuses the write.
    """
    with part_folder(final, name=f"--to ({final})", act="export", error=ExportTargetError, is_ours=_is_ours) as part:
        yield part
        publish(part, final)


def _is_ours(path: Path) -> bool:
    return _OUR_FILES.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def write_small(folder: Path, name: str, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file, synced to the disk. Args: mode: as ``create_file``."""
    with create_file(folder / name, mode=mode) as stream:
        stream.write(content)
        sync(stream)
