"""The choice of the checkpoint that a run resumes from, the newest that is intact to the last byte; or of the one of another run
that it starts from.

All ranks verify it together, each its share of the files. Its numbers may be read before that is proved, since nothing in it can
be executed, but not used. What is trusted: manifest.py.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fanal.errors import UserError
from fanal.run_folder import checkpoints_dir, shard_number
from pretrain.checkpoint.disk.manifest import (
    DamagedCheckpointError,
    FileEntry,
    Take,
    entries_from_text,
    entries_to_text,
)
from pretrain.checkpoint.disk.retention import bad_in, checkpoints_in, remove_leftovers, set_aside
from pretrain.checkpoint.disk.verify import hash_problem, refuse_gone, verify_checkpoint
from pretrain.checkpoint.loading.init_from import damage, find_origin
from pretrain.config.schema import RunConfig
from pretrain.parallel.environment import cores_of_rank
from pretrain.parallel.texts import gather_texts, share_text
from pretrain.parallel.world import World

MAX_THREADS, THREADS_PER_CORE = 16, 2
"""Threads that hash files: a core that waits for the disk has another file to hash, and no disk gives a rank more than 16
threads can take."""


@dataclass(frozen=True, kw_only=True)
class Early:
    """The work that is done with the files of a checkpoint before it is known whether they are intact."""

    takes: Mapping[str, Take] = field(default_factory=dict)
    """Functions by path: each is called with the bytes of a file as they are hashed, in a thread of its own."""
    meanwhile: Callable[[], None] = lambda: None
    """Function that is called once, while threads hash."""


def choose_checkpoint(
    run_dir: str | Path,
    world: World,
    *,
    begin: Callable[[Path, Collection[str]], Early] = lambda candidate, hashed: Early(),
) -> Path | None:
    """Return the newest checkpoint that passes the deep verification; None if the run has not written any yet.

    A damaged one is set aside as ``step-N.bad``, with an error in the log, and the one before is tried.

    ``begin`` is called with each candidate and the files of it that this rank is going to hash (``hash_problems``). It must
    stand damage of any kind, and what it does counts only for the candidate that is returned.

    Collective: every rank calls it. Rank 0 decides and renames, and holds the run folder's lock.
    Raises: DamagedCheckpointError on every rank if there were checkpoints and none is intact; RuntimeError if rank 0 reads
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
    """Return the checkpoint that checkpoint.init_from names, and its step, after the deep verification. Nothing there is changed,
    and no other one is taken in its place.

    Collective: every rank calls it; rank 0 finds it.
    Raises: on every rank as ``find_origin``; DamagedCheckpointError if it is damaged, GoneError if it was deleted meanwhile;
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
    """Return name and files of the newest checkpoint that passes the quick verification; (None, []) if none was ever written.
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
            f"no checkpoint in {folder} is intact, and a run that had one does not restart from step 0 by itself; damaged and "
            f"set aside: {', '.join(aside)} (a .REASON file beside each says why). Copy an intact one back, or start a new run "
            "in another run_dir"
        )
    return name, entries_from_text(files_text)


def _candidate(folder: Path) -> tuple[Path | None, list[FileEntry]]:
    for checkpoint in checkpoints_in(folder):
        finding = verify_checkpoint(checkpoint, deep=False)
        if finding.manifest is not None and not finding.problems:
            return checkpoint, list(finding.manifest.files)
        set_aside(checkpoint, finding.problems)
    return None, []


def hash_problems(
    checkpoint: Path,
    files: Sequence[FileEntry],
    world: World,
    *,
    begin: Callable[[Collection[str]], Early] = lambda hashed: Early(),
) -> list[str]:
    """Return what is wrong with the content of these files, the same on every rank; empty if every byte is as it was written.

    Rank 0 reads again what another rank finds wrong, so that a host with bad memory or a stale view of the file system does not
    condemn an intact checkpoint.

    Args: files: the same on every rank; begin: told the paths of those that this rank is going to hash.
    Collective. Raises: RuntimeError on every rank if rank 0 reads well what another rank does not.
    """
    mine = _share(files, world)
    early = begin([entry.path for entry in mine])
    with ThreadPoolExecutor(min(MAX_THREADS, THREADS_PER_CORE * cores_of_rank())) as threads:
        hashing = threads.map(lambda entry: hash_problem(checkpoint, entry, early.takes.get(entry.path)), mine)
        early.meanwhile()
        suspects = [entry for entry, problem in zip(mine, hashing, strict=True) if problem is not None]
    gathered = gather_texts(entries_to_text(suspects), world)
    text = None if gathered is None else json.dumps(_second_look(checkpoint, gathered))
    problems, alone = json.loads(share_text(text, world) or "")
    if alone:
        raise RuntimeError(
            f"ranks {sorted(set(alone.values()))} read other bytes than rank 0 in {checkpoint}: {', '.join(alone)}. The checkpoint "
            "was not changed; check the memory and the file system of their hosts"
        )
    return problems


def _share(files: Sequence[FileEntry], world: World) -> list[FileEntry]:
    """Return the files that this rank hashes: those that it wrote, if as many ranks wrote the checkpoint; largest first."""
    numbers = [shard_number(entry.path) for entry in files]
    mine = [
        entry
        for place, (entry, number) in enumerate(zip(files, numbers, strict=True))
        if (place if number is None else number) % world.size == world.rank
    ]
    return sorted(mine, key=lambda entry: -entry.bytes)


def _second_look(checkpoint: Path, gathered: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Return rank 0's verdict: (what is wrong, or else the files that only another rank found wrong, and which rank)."""
    suspects = {entry: rank for rank, text in enumerate(gathered) for entry in entries_from_text(text)}
    found = [hash_problem(checkpoint, entry) for entry in suspects]
    problems = [problem for problem in found if problem is not None]
    return problems, {} if problems else {entry.path: rank for entry, rank in suspects.items()}
