"""The deep verification of one checkpoint by all ranks, each its share of the files. Changes nothing."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pretrain.checkpoint.manifest import FileEntry, entries_from_text, entries_to_text
from pretrain.checkpoint.verify import hash_problem
from pretrain.parallel.reduce import gather_texts, share_text
from pretrain.parallel.world import World


def hash_problems(
    checkpoint: Path, files: Sequence[FileEntry], world: World, *, meanwhile: Callable[[], None] = lambda: None
) -> list[str]:
    """What is wrong with the content of these files, the same on every rank; nothing if every byte is as it was written.

    What a rank finds wrong rank 0 reads again, so that a host with bad memory or a stale view of the file system does not
    condemn a good checkpoint.

    Args: files: the same on every rank; meanwhile: called while a thread hashes this rank's share.
    Collective. Raises: RuntimeError on every rank if rank 0 reads well what another rank does not.
    """
    largest_first = sorted(files, key=lambda entry: (-entry.bytes, entry.path))
    mine = largest_first[world.rank :: world.size]
    with ThreadPoolExecutor(1) as thread:
        hashing = thread.submit(lambda: [entry for entry in mine if hash_problem(checkpoint, entry) is not None])
        meanwhile()
        suspects = hashing.result()
    gathered = gather_texts(entries_to_text(suspects), world)
    text = None if gathered is None else json.dumps(_second_look(checkpoint, gathered))
    problems, alone = json.loads(share_text(text, world) or "")
    if alone:
        raise RuntimeError(
            f"ranks {sorted(set(alone.values()))} read other bytes than rank 0 in {checkpoint}: {', '.join(alone)}. The checkpoint "
            "is left as it is; look at the memory and the file system of their hosts"
        )
    return problems


def _second_look(checkpoint: Path, gathered: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Rank 0's verdict: (what is wrong, or else the files that one rank alone found wrong, and which rank)."""
    suspects = {entry: rank for rank, text in enumerate(gathered) for entry in entries_from_text(text)}
    found = [hash_problem(checkpoint, entry) for entry in suspects]
    problems = [problem for problem in found if problem is not None]
    return problems, {} if problems else {entry.path: rank for entry, rank in suspects.items()}
