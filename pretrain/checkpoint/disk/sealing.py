"""Sealing: a folder of written files becomes a checkpoint. Its manifest, its seal, its name: each is on the disk before the next.

Imports neither torch nor numpy.
"""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from fanal.errors import PassingError
from fanal.files import sync_path
from fanal.new_files import write_new
from fanal.run_folder import COMPLETE, MANIFEST
from pretrain.checkpoint.disk.manifest import FileEntry, Manifest, manifest_bytes, read_sealed_manifest, seal_text
from pretrain.checkpoint.disk.verify import folders_of, verify_checkpoint


class SaveError(PassingError):
    """A checkpoint could not be written; the message says why."""


def seal(
    part: Path, final: Path, *, step: int, entries: Sequence[FileEntry], synced: Collection[str] = frozenset()
) -> None:
    """Write the manifest, sync all files and folders to the disk, mark the folder complete, and give it its name. If an attempt
    that counts as failed had come so far already, its checkpoint stays, since it is the same to the last byte.

    Args: part: the folder while it is written; final: its name from then on; entries: every file in it; synced: paths of those
        whose bytes are on the disk already. Their names are not, until their folder is synced here.
    Raises: SaveError if a file is not there with the size that its writer has noted, or if another checkpoint has the name;
    OSError.
    """
    content = manifest_bytes(Manifest(step=step, files=tuple(entries)))
    write_new(part / MANIFEST, content)
    paths = [entry.path for entry in entries]
    for path in (*(path for path in paths if path not in synced), MANIFEST):
        sync_path(part / path)
    for inside in (*folders_of(paths), "."):
        sync_path(part / inside)
    write_new(part / COMPLETE, seal_text(content))
    sync_path(part / COMPLETE)
    sync_path(part)
    problems = verify_checkpoint(part, deep=False).problems
    if problems:
        raise SaveError(f"the checkpoint was not written completely: {'; '.join(problems)}")
    if (final / COMPLETE).exists():
        if read_sealed_manifest(final) != content:
            raise SaveError(
                f"{final} exists already, is complete, and is not the checkpoint of this run's step {step}; move it away"
            )
        shutil.rmtree(part)
        return
    part.rename(final)
    sync_path(final.parent)
