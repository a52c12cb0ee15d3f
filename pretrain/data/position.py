"""The position of a run in its data, as a record: what was read, how far, and proof of which tokens those were: the hash of all
samples so far (sample_hash.py)."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fanal.errors import DamageError, error_type
from fanal.plain_files import read_plain
from fanal.reason import reason
from fanal.records import MisfitError, record_of
from fanal.shown import shown
from pretrain.data.packing.packed_order import PackedOrder
from pretrain.data.sample_hash import algorithm_of, is_text

if TYPE_CHECKING:  # it brings torch, and what starts ranks reads a position without
    from pretrain.data.read import TrainData


@dataclass(frozen=True, kw_only=True)
class SourcePosition:
    """One training source."""

    identity: str
    """Identity of the tokens, whatever their path (``shard_identity``)."""
    prefix: str
    """Path of the shard when it was read; for messages."""
    num_tokens: int
    train_tokens: int
    """Tokens before the validation part."""
    cursor: int
    """Chunks drawn so far."""
    idx_sha256: str | None
    """Hash of the shard's index if what is trained on depends on its documents (data.document_mask, objectives, data.packing); else
    None."""
    plan: str | None = None
    """Algorithm and hash of the plan of its packed rows; None where documents are concatenated, and of an earlier version."""


@dataclass(frozen=True, kw_only=True)
class SharePosition:
    """One source's part in a mixture: as stated, and as it acts."""

    identity: str
    weight: float | None
    epochs: float | None
    share: float
    """Relative to the others of the mixture."""


@dataclass(frozen=True, kw_only=True)
class PhasePosition:
    """One mixture."""

    start_sample: int
    sources: tuple[SharePosition, ...]


@dataclass(frozen=True, kw_only=True)
class StepPosition:
    """The samples of one optimizer step."""

    first_sample: int
    num_samples: int
    hash: str
    """Hash of their numbers and tokens (``to_text``)."""


@dataclass(frozen=True, kw_only=True)
class VerifiedSource:
    """What of a training source was compared with the hashes of its manifest while the run trained, by every node. The rest of
    its identity is the manifest's word alone."""

    identity: str
    num_tokens: int
    """Tokens from the shard's first on."""
    has_index: bool
    """Whether the .idx was compared."""
    bin_mtime_ns: int
    """When the .bin was last written: a later start that finds another time compares all of it anew."""


@dataclass(frozen=True, kw_only=True)
class DataPosition:
    """The content of ``data.json`` in a checkpoint."""

    consumed_samples: int
    tokenizer_sha256: str
    seq_length: int
    seed: int
    sources: tuple[SourcePosition, ...]
    phases: tuple[PhasePosition, ...]
    consumed_hash: str
    """Hash of all samples so far (``to_text``), by the same algorithm as that of the last step."""
    last_step: StepPosition
    verified: tuple[VerifiedSource, ...] = field(default=(), compare=False)
    """One for each of ``sources``; none of an earlier version. It says nothing about which data were read."""
    has_other_ids: bool = field(default=False, compare=False)
    """Whether a source holds the ids of another tokenizer than ``tokenizer_sha256``, as its manifest says."""


def position_of(
    data: "TrainData",
    *,
    consumed_samples: int,
    consumed_hash: str,
    last_step: StepPosition,
    verified: tuple[VerifiedSource, ...] = (),
) -> DataPosition:
    """The record after ``consumed_samples`` samples."""
    sources = data.sources.train
    return DataPosition(
        consumed_samples=consumed_samples,
        tokenizer_sha256=data.sources.tokenizer_sha256,
        seq_length=data.config.seq_length,
        seed=data.config.seed,
        sources=tuple(
            SourcePosition(
                identity=source.identity,
                prefix=str(source.shard.prefix),
                num_tokens=source.shard.num_tokens,
                train_tokens=source.order.num_tokens,
                cursor=cursor,
                idx_sha256=source.shard.manifest.idx_sha256 if data.reads_index else None,
                plan=source.order.plan.hash if isinstance(source.order, PackedOrder) else None,
            )
            for source, cursor in zip(sources, data.mixture.drawn(consumed_samples).tolist(), strict=True)
        ),
        phases=tuple(
            PhasePosition(
                start_sample=phase.start_sample,
                sources=tuple(
                    SharePosition(
                        identity=sources[member].identity, weight=config.weight, epochs=config.epochs, share=share
                    )
                    for member, config, share in zip(phase.members, stated, phase.weights, strict=True)
                ),
            )
            for phase, stated in zip(data.sources.phases, data.sources.stated, strict=True)
        ),
        consumed_hash=consumed_hash,
        last_step=last_step,
        verified=verified,
        has_other_ids=any(source.shard.manifest.has_other_ids for source in sources),
    )


def position_text(position: DataPosition) -> str:
    """The record as JSON. Its records are written as they are, since ``asdict`` copies each of them: 1 s for 20,000 sources."""
    return json.dumps(position, indent=1, default=vars) + "\n"


def read_position(path: Path) -> DataPosition:
    """Read a record. Raises: DamageError naming the file if it is not one; PassingError if the disk does not give it now."""
    try:
        position = record_of(DataPosition, json.loads(read_plain(path)))
        _check(position)
        return position
    except (OSError, ValueError, RecursionError) as error:
        raise error_type(error, DamageError)(
            f"{path} is not the data position of a checkpoint ({reason(error)}); resume from another checkpoint"
        ) from None


def _check(position: DataPosition) -> None:
    """Check hashes and shares. Raises: MisfitError."""
    hashes = (position.consumed_hash, position.last_step.hash)
    for text in hashes:
        if not is_text(text):
            raise MisfitError(f"hash {shown(text)} must be blake3: and 32 hexadecimal digits, or the digits alone")
    if algorithm_of(hashes[0]) != algorithm_of(hashes[1]):
        raise MisfitError(f"hashes {hashes[0]} and {hashes[1]} must be of one algorithm")
    for phase in position.phases:
        for share in phase.sources:
            if not 0 < share.share < math.inf:
                raise MisfitError(f"share {share.share!r} must be a number above 0")
