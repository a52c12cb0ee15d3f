"""``fanal verify EXPORT --run RUN_DIR``: from an export's certificate to its checkpoint, to what that has read, to the shards.

Each link is a hash: the certificate holds that of the checkpoint's manifest, the manifest that of ``data.json``, and that the
identity of each shard, which is the hash of its tokens. That the weights of the export are those of the checkpoint is what the
certificate states, and its signature vouches for.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import FanalError, UserError
from fanal.host_cores import host_cores
from fanal.run_folder import DATA, checkpoints_dir, step_of
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.checkpoint.disk.origin import sealed_hash
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.checkpoint.disk.verify import is_checkpoint, real_path, verify_checkpoint
from pretrain.convert.ours.trained_on import ReadShard, TrainedOn, trained_on_in
from pretrain.convert.theirs.certified import CERTIFICATE, Certified
from pretrain.data.sources import shard_identity
from tokenizer.shards.manifest import ShardManifest, read_manifest, shard_paths
from tokenizer.verify_shards import verify as verify_shards

MAX_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Link:
    """One link of the chain from an export to its data."""

    what: str
    where: str
    finding: str
    problems: tuple[str, ...] = ()
    """What is wrong; empty if the link holds."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the other ends of the links are looked for."""

    run: Path
    """Folder of a run or of a checkpoint."""
    shards: tuple[Path, ...] = ()
    """Folders of shards, beside the places that the run read them from."""
    with_shards: bool = True


def lineage(certified: Certified, places: Places, *, deep: bool) -> Iterator[Link]:
    """Yield the links of an export, from its checkpoint to the shards that it and the runs before it have read.

    Args: deep: read every byte of the checkpoint and of the shards, not those of manifests and small files alone.
    Raises: UserError if an end of a link is not there to be compared; DamageError if it cannot be read as what it is.
    """
    checkpoint = _checkpoint(certified, places.run)
    problems = verify_checkpoint(checkpoint, deep=deep, num_threads=min(MAX_THREADS, host_cores())).problems
    how = "every byte as written" if deep else "all but its tensors as written"
    yield Link(
        what="checkpoint", where=str(checkpoint), finding=f"the one that was exported, {how}", problems=tuple(problems)
    )
    if problems:
        return
    parts, prefixes = trained_on_in(checkpoint)
    found = _shards_in(places.shards) if places.with_shards else {}
    if not parts:
        yield Link(what="data", where=str(checkpoint), finding="none of a run: the weights were imported")
    for number, part in enumerate(parts):
        stated = certified.content["checkpoint"].get("tokenizer_sha256")
        yield Link(
            what="data" if number == 0 else "data before",
            where=f"{DATA} of manifest {part.manifest_sha256[:12]}",
            finding=f"{part.consumed_samples:,} samples of {part.seq_length:,} tokens, {part.consumed_hash}",
            problems=tuple(_data_problems(certified, checkpoint, parts, stated)) if number == 0 else (),
        )
        for shard in part.shards:
            if places.with_shards and shard.cursor:
                prefix = found.get(shard.identity, Path(prefixes[shard.identity]))
                yield _shard_link(part, shard, prefix, deep=deep)


def _checkpoint(certified: Certified, path: Path) -> Path:
    """Return the checkpoint of the certificate's hash. Raises: UserError, DamagedCheckpointError."""
    stated, certificate = certified.content["checkpoint"], certified.folder / CERTIFICATE
    is_one = is_checkpoint(path)
    candidates = [real_path(path)] if is_one else checkpoints_in(checkpoints_dir(path))
    for folder in candidates:
        if _sealed(folder) == stated["manifest_sha256"]:
            return folder
    for folder in candidates if is_one else (c for c in candidates if step_of(c.name) == stated["step"]):
        raise DamagedCheckpointError(
            f"{folder} has the manifest {_sealed(folder)[:12]}, and {certificate} was made of {stated['manifest_sha256'][:12]}: "
            "it is not the checkpoint that was exported, or it changed since"
        )
    where = f"an average or an import ({stated['name']})" if step_of(stated["name"]) is None else stated["name"]
    raise UserError(
        f"--run ({path}) must be a run's folder that holds {where}, of which {certificate} was made, or that checkpoint's own "
        "folder; runs/tiny and runs/tiny/checkpoints/step-00000200 work while they have it (a run deletes old ones: "
        "checkpoint.keep_last)"
    )


def _sealed(folder: Path) -> str:
    try:
        return sealed_hash(folder)
    except DamagedCheckpointError:
        return ""


def _data_problems(
    certified: Certified, checkpoint: Path, parts: Sequence[TrainedOn], tokenizer_sha256: str | None
) -> Iterator[str]:
    """Yield where the certificate states other data than the checkpoint. One of an earlier version states none."""
    stated: Any = certified.content.get("data")
    certificate = certified.folder / CERTIFICATE
    if stated is not None and stated != json.loads(json.dumps([dataclasses.asdict(part) for part in parts])):
        yield f"{certificate} states other data than {checkpoint / DATA} and the origins beside it"
    if tokenizer_sha256 not in (None, parts[0].tokenizer_sha256):
        yield (
            f"{certificate} states the tokenizer {tokenizer_sha256}, and {checkpoint / DATA} {parts[0].tokenizer_sha256}"
        )


def _shard_link(part: TrainedOn, shard: ReadShard, prefix: Path, *, deep: bool) -> Link:
    manifest = shard_paths(prefix)[2]
    if not os.path.lexists(manifest):
        raise UserError(
            f"--run needs the shard {prefix} (identity {shard.identity[:12]}), which the checkpoint has read, and {manifest} does "
            "not exist; --shards FOLDER names the folder that it is in now, --without-shards leaves the shards out"
        )
    (result,) = verify_shards([prefix], deep)
    problems = list(result.problems)
    if not problems:
        problems += _differences(read_manifest(prefix, with_inputs=False), shard, prefix)
    how = "every byte as encoded" if deep else "its manifest and sizes as encoded"
    drawn = f"{shard.cursor:,} samples of {part.consumed_samples:,}"
    return Link(
        what="shard",
        where=f"{prefix}, identity {shard.identity[:12]}",
        finding=f"{drawn}, {how}",
        problems=tuple(problems),
    )


def _differences(manifest: ShardManifest, shard: ReadShard, prefix: Path) -> Iterator[str]:
    if shard_identity(manifest) != shard.identity:
        yield (
            f"{prefix} holds the tokens {shard_identity(manifest)[:12]}, and the checkpoint has read {shard.identity[:12]} there: "
            "--shards FOLDER names a folder that has them"
        )
    elif shard.idx_sha256 not in (None, manifest.idx_sha256):
        yield f"{prefix} has other documents than the checkpoint has read (its index has another hash)"


def _shards_in(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the shards in folders and below them, by identity. Raises: UserError if one of these is not a folder."""
    found = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"--shards ({folder}) must be a folder with shards in it; data/shards works where it is one"
            )
        for path in sorted(folder.rglob("*.json")):
            prefix = path.with_suffix("")
            if shard_paths(prefix)[0].is_file():
                try:
                    found.setdefault(shard_identity(read_manifest(prefix, with_inputs=False)), prefix)
                except FanalError:  # it is not a shard, or one that is not the one that is looked for
                    continue
    return found
