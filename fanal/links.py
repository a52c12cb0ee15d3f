"""Links in a folder from elsewhere, such as a model to import: one counts only if it ends in the folder, or in its download cache.

Whoever made the folder chose where its links lead, and may have chosen a file that only its reader can read: a private key would
be copied, and published. A download cache of Hugging Face's hub consists of links, ``models--ORG--NAME/snapshots/REV/FILE`` to
``models--ORG--NAME/blobs/HASH``, and they stay in its own ``models--ORG--NAME``.

A hard link cannot be told from a file. To make one, its maker needs the right to read and write the file where Linux protects
hard links (``fs.protected_hardlinks``, on by default), and then needs no reader.
"""

import os
import re
import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from fanal.errors import UserError
from fanal.files import READ_BLOCK_BYTES
from fanal.plain_files import MAX_WHOLE_BYTES, open_plain, read_descriptor

_CACHED = re.compile(r"(?P<repository>.*/(?:models|datasets|spaces)--[^/]+)/snapshots/[^/]+(?:/.*)?")
"""A folder in a download cache."""


def open_inside(folder: Path, name: str) -> int:
    """Open a file of a folder from elsewhere for reading and return its descriptor. The folder itself may be a link: its reader
    named it.

    Raises: UserError for a link that leads out of it; OSError as ``open_plain``.
    """
    root = os.path.realpath(folder)  # once, and opened by it: a link could be put in the folder's own place meanwhile
    descriptor = open_plain(Path(root, name))
    try:
        # Of what was opened: between a look at the path and its opening another link could be put there.
        _refuse_outside(folder, root, name, str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_inside(folder: Path, name: str, *, max_bytes: int = MAX_WHOLE_BYTES) -> bytes:
    """Read a whole file of a folder from elsewhere. Raises: as ``open_inside``; OSError if it has more than ``max_bytes``."""
    return read_descriptor(open_inside(folder, name), folder / name, max_bytes=max_bytes)


def blocks_inside(folder: Path, name: str) -> Iterator[bytes]:
    """Read the bytes of a file of a folder from elsewhere in order, in blocks. Raises: as ``open_inside``."""
    with os.fdopen(open_inside(folder, name), "rb", buffering=0) as stream:
        while block := stream.read(READ_BLOCK_BYTES):
            yield block


def mode_of_copies(folder: Path, names: Iterable[str]) -> int:
    """Return the mode, as ``open`` takes it, of a file made from these files of a folder.

    Nobody but its owner may do with it what he may not do with each of them, in that folder.
    """
    mode = 0o666
    for path in (folder, *(folder / name for name in names)):
        found = path.stat().st_mode
        if stat.S_ISDIR(found):  # whoever may not enter it reads nothing in it
            found = sum(who for who in (0o070, 0o007) if found & who & 0o011)
        mode &= found | 0o600
    return mode


def _refuse_outside(folder: Path, root: str, name: str, real: str) -> None:
    if real.startswith(f"{root.rstrip('/')}/"):
        return
    cached = _CACHED.fullmatch(root)
    if cached and str(Path(real).parent) == f"{cached['repository']}/blobs":
        return
    path = folder / name
    instead = shlex.join(["cp", "--remove-destination", real, str(path)])
    raise UserError(
        f"{path} is a link to {real}, outside of {folder}, and a link counts only if it ends in "
        "the folder, or in the blobs of the download cache that the folder is in: it could bring in any file that you may read. If "
        f"that file belongs there, `{instead}` puts a copy in the link's place"
    )
