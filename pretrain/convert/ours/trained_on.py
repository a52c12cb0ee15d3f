"""What the weights of a checkpoint have read, as a record without paths: an export's certificate carries it, so that the export and
the shards alone show which data a model was trained on, whatever became of the checkpoint.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fanal.records import MisfitError, record_of
from fanal.run_folder import DATA, ORIGIN
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.checkpoint.disk.origin import Origin, chain, read_origin, sealed_hash
from pretrain.data.position import DataPosition, read_position


@dataclass(frozen=True, kw_only=True)
class ReadShard:
    """One training source."""

    identity: str
    """Identity of its tokens (``shard_identity``)."""
    num_tokens: int
    train_tokens: int
    """Tokens before the validation part."""
    cursor: int
    """Chunks drawn so far."""
    idx_sha256: str | None
    """Hash of the shard's index if what is trained on depends on its documents; else None."""


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """What one run had read at a checkpoint; of an average, at the newest of its checkpoints."""

    manifest_sha256: str
    """Hash of the checkpoint's manifest."""
    consumed_samples: int
    seq_length: int
    seed: int
    consumed_hash: str
    """Hash of all samples so far, in their order, as in ``data.json``."""
    tokenizer_sha256: str
    shards: tuple[ReadShard, ...]


def trained_on(manifest_sha256: str, position: DataPosition | None, origin: Origin | None) -> tuple[TrainedOn, ...]:
    """Return what a checkpoint's run has read, and the runs that it started from, the last of them first. A run that has read
    nothing, and an import, have no part.

    Raises: MisfitError if an origin's data are not such a record.
    """
    return tuple(_described(manifest, found) for manifest, found in positions(manifest_sha256, position, origin))


def trained_on_in(checkpoint: Path) -> tuple[tuple[TrainedOn, ...], dict[str, str]]:
    """Return what a checkpoint's weights have read, and where the shard of each identity lay then. Raises: DamageError."""
    position = read_position(checkpoint / DATA) if (checkpoint / DATA).is_file() else None
    try:
        found = list(positions(sealed_hash(checkpoint), position, read_origin(checkpoint)))
    except MisfitError as error:
        raise DamagedCheckpointError(f"{checkpoint / ORIGIN} is not the record of an origin ({error})") from None
    prefixes = {source.identity: source.prefix for _, position in reversed(found) for source in position.sources}
    return tuple(_described(manifest, position) for manifest, position in found), prefixes


def positions(
    manifest_sha256: str, position: DataPosition | None, origin: Origin | None
) -> Iterator[tuple[str, DataPosition]]:
    """Yield the position of each run in its data, with its checkpoint's hash. Raises: MisfitError."""
    if position is not None:
        yield manifest_sha256, position
    for before in chain(origin):
        if before.data is not None:
            yield before.manifest_sha256, record_of(DataPosition, before.data)


def _described(manifest_sha256: str, position: DataPosition) -> TrainedOn:
    return TrainedOn(
        manifest_sha256=manifest_sha256,
        consumed_samples=position.consumed_samples,
        seq_length=position.seq_length,
        seed=position.seed,
        consumed_hash=position.consumed_hash,
        tokenizer_sha256=position.tokenizer_sha256,
        shards=tuple(
            ReadShard(
                identity=source.identity,
                num_tokens=source.num_tokens,
                train_tokens=source.train_tokens,
                cursor=source.cursor,
                idx_sha256=source.idx_sha256,
            )
            for source in position.sources
        ),
    )
