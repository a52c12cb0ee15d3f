"""Which checkpoint a run goes on from: the newest whose every byte is the one that was written. And which of another run it
begins with.

Its numbers may be read before that is proved, since nothing in it can act, but not used. What is trusted: manifest.py.
"""

import json
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from fanal.errors import UserError
from fanal.run_folder import checkpoints_dir
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, FileEntry, entries_from_text, entries_to_text
from pretrain.checkpoint.disk.retention import bad_in, checkpoints_in, remove_leftovers, set_aside
from pretrain.checkpoint.disk.verify import refuse_gone, verify_checkpoint
from pretrain.checkpoint.loading.init_from import damage, find_origin
from pretrain.checkpoint.loading.verify_together import Early, hash_problems
from pretrain.config.schema import RunConfig
from pretrain.parallel.reduce import share_text
from pretrain.parallel.world import World


def choose_checkpoint(
    run_dir: str | Path,
    world: World,
    *,
    begin: Callable[[Path, Collection[str]], Early] = lambda candidate, hashed: Early(),
) -> Path | None:
    """The newest checkpoint that passes the deep verification; None if the run has not written any yet.

    A damaged one is set aside as ``step-N.bad``, loudly, and the one before is tried.

    ``begin`` is called with each candidate and the files of it that this rank is going to hash (verify_together.py). It must
    stand damage of any kind, and what it does counts only for the candidate that is returned.

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
        candidate = folder / name
        problems = hash_problems(candidate, files, world, begin=partial(begin, candidate))
        if not problems:
            return candidate
        if world.rank == 0:
            set_aside(candidate, problems)


def choose_origin(run: RunConfig, world: World) -> tuple[Path, int]:
    """The checkpoint that checkpoint.init_from names, and its step, after the deep verification. Nothing there is changed, and
    no other one is taken in its place.

    Collective: every rank calls it; rank 0 finds it.
    Raises: on every rank as ``find_origin``; DamagedCheckpointError if it is not whole, GoneError if it was deleted meanwhile;
    RuntimeError as ``choose_checkpoint``.
    """
    text = None
    if world.rank == 0:
        try:
            folder, manifest = find_origin(run)
            text = json.dumps([None, str(folder), manifest.step, entries_to_text(manifest.files)])
        except DamagedCheckpointError as error:
            text = json.dumps([str(error), "damaged", 0, ""])
        except UserError as error:
            text = json.dumps([str(error), "wrong", 0, ""])
    refusal, found, step, files = json.loads(share_text(text, world) or "")
    if refusal is not None:
        raise DamagedCheckpointError(refusal) if found == "damaged" else UserError(refusal)
    problems = hash_problems(Path(found), entries_from_text(files), world)
    if problems:
        refuse_gone(Path(found))
        raise DamagedCheckpointError(damage(Path(found), problems))
    return Path(found), step


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
