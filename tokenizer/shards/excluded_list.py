"""PREFIX.excluded.json, beside a shard that documents were removed from: which ones, by removal, the first removal first."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fanal.plain_files import read_plain
from fanal.records import MAX_RECORD_BYTES, read_record, record_bytes
from tokenizer.shards.manifest import DamagedShardError, Exclusion, ShardError, ShardManifest, excluded_path

FORMAT_VERSION = 1
REMEDY = "copy it again from an intact copy, or remove the documents again"


@dataclass(frozen=True, kw_only=True)
class ExcludedDocuments:
    """Documents of one removal, in the order of the shard that they were removed from."""

    exclusion: Exclusion
    """What the manifest says of it too."""
    documents: tuple[int, ...]
    """Their numbers in that shard."""
    tokens: tuple[int, ...]
    """Tokens of each."""
    ids: tuple[str | None, ...] | None = None
    """The id of each, where the shard's columns have them; else None."""


@dataclass(frozen=True, kw_only=True)
class ExcludedList:
    """Content of PREFIX.excluded.json."""

    format_version: int
    """Version of the format: 1."""
    removals: tuple[ExcludedDocuments, ...]


def excluded_bytes(removals: tuple[ExcludedDocuments, ...]) -> bytes:
    """Return the content of the file."""
    return record_bytes(ExcludedList(format_version=FORMAT_VERSION, removals=removals))


def read_excluded(prefix: str | Path, manifest: ShardManifest) -> tuple[ExcludedDocuments, ...]:
    """Return the documents that a shard is made without, by removal; none where none was removed.

    Raises: ShardError if the list is missing; DamagedShardError if it is not the one that the manifest was written with.
    """
    if manifest.excluded_sha256 is None:
        return ()
    path = excluded_path(prefix)
    if (problem := excluded_problem(prefix, manifest)) is not None:
        raise (DamagedShardError if path.exists() else ShardError)(problem)
    return read_record(ExcludedList, path, remedy=REMEDY, error=ShardError).removals


def excluded_problem(prefix: str | Path, manifest: ShardManifest) -> str | None:
    """Return what is wrong with the file itself; None if nothing is, or no document was removed."""
    if manifest.excluded_sha256 is None:
        return None
    path = excluded_path(prefix)
    if not path.exists():
        return f"{path} does not exist, and {path.name} says which documents {prefix} is made without; {REMEDY}"
    found = hashlib.sha256(read_plain(path, max_bytes=MAX_RECORD_BYTES)).hexdigest()
    if found != manifest.excluded_sha256:
        return f"{path} has sha256 {found}, expected {manifest.excluded_sha256}; its bytes changed, {REMEDY}"
    return None


def removal(
    manifest: ShardManifest,
    lengths: np.ndarray,
    leaves: np.ndarray,
    *,
    selected_by: tuple[str, ...],
    reason: str,
    ids: tuple[str | None, ...] | None,
) -> ExcludedDocuments:
    """Return the removal of documents from a shard. Args: lengths: int32 [documents], leaves: bool [documents]."""
    return ExcludedDocuments(
        exclusion=Exclusion(
            from_bin_sha256=manifest.bin_sha256,
            from_idx_sha256=manifest.idx_sha256,
            num_documents=int(leaves.sum()),
            num_tokens=int(lengths[leaves].sum(dtype=np.int64)),
            selected_by=selected_by,
            reason=reason,
        ),
        documents=tuple(np.flatnonzero(leaves).tolist()),
        tokens=tuple(lengths[leaves].tolist()),
        ids=ids,
    )
