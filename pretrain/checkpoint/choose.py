"""Which checkpoint a run goes on from: the newest whose every byte is the one that was written.

Its numbers may be read before that is proved, since nothing in it can act, but not used. What is trusted: manifest.py.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pretrain.checkpoint.manifest import DamagedCheckpointError, FileEntry, entries_from_text, entries_to_text
from pretrain.checkpoint.paths import checkpoints_dir
from pretrain.checkpoint.retention import bad_in, checkpoints_in, remove_leftovers, set_aside
from pretrain.checkpoint.verify import hash_problem, verify_checkpoint
from pretrain.parallel.reduce import gather_texts, share_text
from pretrain.parallel.world import World


def choose_checkpoint(
    run_dir: str | Path, world: World, *, meanwhile: Callable[[Path], None] = lambda candidate: None
) -> Path | None:
    """The newest checkpoint that passes the deep verification; None if the run has not written any yet.

    A damaged one is set aside as ``step-N.bad``, loudly, and the one before is tried. Every rank hashes a share of the
    files. What a rank finds wrong rank 0 reads again, so that a host with bad memory or a stale view of the file system
    does not condemn a good checkpoint.

    ``meanwhile`` is called with each candidate while a thread hashes this rank's share. It must stand damage of any kind, and
    what it does counts only for the candidate that is returned.

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
        with ThreadPoolExecutor(1) as thread:
            hashing = thread.submit(_damaged, folder / name, files[world.rank :: world.size])
            meanwhile(folder / name)
            suspects = hashing.result()
        gathered = gather_texts(entries_to_text(suspects), world)
        verdict = None if gathered is None else _second_look(folder / name, gathered)
        if share_text(verdict, world) == "whole":
            return folder / name


def _damaged(checkpoint: Path, entries: list[FileEntry]) -> list[FileEntry]:
    return [entry for entry in entries if hash_problem(checkpoint, entry) is not None]


def _share_candidate(folder: Path, world: World) -> tuple[str | None, list[FileEntry]]:
    """Name and files, largest first, of the newest checkpoint that passes the quick verification; (None, []) if none was
    ever written. Collective.

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
    return name, sorted(entries_from_text(files_text), key=lambda entry: (-entry.bytes, entry.path))


def _candidate(folder: Path) -> tuple[Path | None, list[FileEntry]]:
    for checkpoint in checkpoints_in(folder):
        finding = verify_checkpoint(checkpoint, deep=False)
        if finding.manifest is not None and not finding.problems:
            return checkpoint, list(finding.manifest.files)
        set_aside(checkpoint, finding.problems)
    return None, []


def _second_look(checkpoint: Path, gathered: list[str]) -> str:
    """Rank 0's verdict: "whole", or "damaged" once the checkpoint is set aside."""
    suspects = {rank: entries_from_text(text) for rank, text in enumerate(gathered)}
    problems = {entry.path: hash_problem(checkpoint, entry) for entries in suspects.values() for entry in entries}
    if not problems:
        return "whole"
    damage = [problem for problem in problems.values() if problem is not None]
    if not damage:
        ranks = sorted(rank for rank, entries in suspects.items() if entries)
        raise RuntimeError(
            f"ranks {ranks} read other bytes than rank 0 in {checkpoint}: {', '.join(problems)}. The checkpoint is left as it is; "
            "look at the memory and the file system of their hosts"
        )
    set_aside(checkpoint, damage)
    return "damaged"
