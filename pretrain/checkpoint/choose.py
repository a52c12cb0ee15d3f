"""Which checkpoint a run goes on from: the newest whose every byte is the one that was written.

Nothing in it is used before that is proved. What is trusted: manifest.py.
"""

import json
from pathlib import Path

from pretrain.checkpoint.manifest import DamagedCheckpointError, FileEntry, entries_from_text, entries_to_text
from pretrain.checkpoint.paths import checkpoints_dir
from pretrain.checkpoint.retention import bad_in, checkpoints_in, remove_leftovers, set_aside
from pretrain.checkpoint.verify import verify_checkpoint
from pretrain.checkpoint.verify_together import hash_problems
from pretrain.parallel.reduce import share_text
from pretrain.parallel.world import World


def choose_checkpoint(run_dir: str | Path, world: World) -> Path | None:
    """The newest checkpoint that passes the deep verification; None if the run has not written any yet.

    A damaged one is set aside as ``step-N.bad``, loudly, and the one before is tried.

    Collective: every rank calls it. Rank 0 decides and renames, and holds the run folder's lock.
    Raises: DamagedCheckpointError on every rank if there were checkpoints and none is whole; RuntimeError if rank 0 reads
    well what another rank does not.
    """
    folder = checkpoints_dir(run_dir)
    if world.rank == 0:
        remove_leftovers(folder)
    while True:
        name, files = _share_candidate(folder, world)
        if name is None:
            return None
        problems = hash_problems(folder / name, files, world)
        if not problems:
            return folder / name
        if world.rank == 0:
            set_aside(folder / name, problems)


def _share_candidate(folder: Path, world: World) -> tuple[str | None, list[FileEntry]]:
    """Name and files of the newest checkpoint that passes the quick verification; (None, []) if none was ever written.
    Collective.

    Raises: DamagedCheckpointError if all that there was is set aside.
    """
    text = None
    if world.rank == 0:
        checkpoint, files = _candidate(folder)
        aside = [] if checkpoint else [str(path) for path in bad_in(folder)]
        text = json.dumps([checkpoint.name if checkpoint else None, entries_to_text(files), aside])
    name, files_text, aside = json.loads(share_text(text, world) or "")
    if aside:
        raise DamagedCheckpointError(
            f"no checkpoint of {folder} is whole, and a run that had one does not start over by itself; damaged and set aside: "
            f"{', '.join(aside)} (a .REASON beside each says why). Copy a whole one back, or start a new run in another run_dir"
        )
    return name, entries_from_text(files_text)


def _candidate(folder: Path) -> tuple[Path | None, list[FileEntry]]:
    for checkpoint in checkpoints_in(folder):
        finding = verify_checkpoint(checkpoint, deep=False)
        if finding.manifest is not None and not finding.problems:
            return checkpoint, list(finding.manifest.files)
        set_aside(checkpoint, finding.problems)
    return None, []
