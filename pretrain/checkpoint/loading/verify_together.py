"""The deep verification of one checkpoint by all ranks, each its share of the files. Changes nothing."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fanal.run_folder import shard_number
from pretrain.checkpoint.disk.manifest import FileEntry, Take, entries_from_text, entries_to_text
from pretrain.checkpoint.disk.verify import hash_problem
from pretrain.parallel.environment import cores_of_rank
from pretrain.parallel.reduce import gather_texts, share_text
from pretrain.parallel.world import World

MAX_THREADS, THREADS_PER_CORE = 16, 2
"""A core that waits for the disk has another file to hash. No disk gives a rank more than 16 threads can take."""


@dataclass(frozen=True, kw_only=True)
class Early:
    """What is done with the files of a checkpoint before it is known whether they are sound."""

    takes: Mapping[str, Take] = field(default_factory=dict)
    """By path: called with the bytes of a file as they are hashed, in a thread of its own."""
    meanwhile: Callable[[], None] = lambda: None
    """Called once, while threads hash."""


def hash_problems(
    checkpoint: Path,
    files: Sequence[FileEntry],
    world: World,
    *,
    begin: Callable[[Collection[str]], Early] = lambda hashed: Early(),
) -> list[str]:
    """What is wrong with the content of these files, the same on every rank; nothing if every byte is as it was written.

    What a rank finds wrong rank 0 reads again, so that a host with bad memory or a stale view of the file system does not
    condemn a good checkpoint.

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
            "is left as it is; look at the memory and the file system of their hosts"
        )
    return problems


def _share(files: Sequence[FileEntry], world: World) -> list[FileEntry]:
    """What this rank hashes: the files that it wrote, if as many ranks wrote the checkpoint; largest first."""
    numbers = [shard_number(entry.path) for entry in files]
    mine = [
        entry
        for place, (entry, number) in enumerate(zip(files, numbers, strict=True))
        if (place if number is None else number) % world.size == world.rank
    ]
    return sorted(mine, key=lambda entry: -entry.bytes)


def _second_look(checkpoint: Path, gathered: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Rank 0's verdict: (what is wrong, or else the files that one rank alone found wrong, and which rank)."""
    suspects = {entry: rank for rank, text in enumerate(gathered) for entry in entries_from_text(text)}
    found = [hash_problem(checkpoint, entry) for entry in suspects]
    problems = [problem for problem in found if problem is not None]
    return problems, {} if problems else {entry.path: rank for entry, rank in suspects.items()}
