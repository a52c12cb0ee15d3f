"""A folder that is there whole or not at all: written as DIR.part, synced, renamed at the end."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fanal.errors import UserError
from fanal.files import sync
from fanal.free_space import shortage
from fanal.part_folder import part_folder, publish
from pretrain.convert.ours.target import harm_of

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
    lack = shortage(parent, "the export", needed_bytes=needed, instead="export to another disk")
    if lack is not None:
        raise ExportTargetError(lack)


@contextlib.contextmanager
def part_of(final: Path) -> Iterator[Path]:
    """The empty folder DIR.part, held by this process alone; at the block's end it becomes DIR, on an exception it is removed.

    Raises: ExportTargetError if another export is at it or the disk does not take it.
    """
    with part_folder(final, name=f"--to ({final})", act="export", error=ExportTargetError, is_ours=_is_ours) as part:
        yield part
        publish(part, final)


def _is_ours(path: Path) -> bool:
    return _OUR_FILES.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def write_small(folder: Path, name: str, content: bytes) -> None:
    """Write a file, synced to the disk."""
    with (folder / name).open("xb") as stream:
        stream.write(content)
        sync(stream)
