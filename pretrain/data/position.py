"""The position of a run in its data, as a record: what was read, how far, and proof of which tokens those were.

The proof is a sum, modulo 2**64 in each of two lanes, of the hashes of all samples so far. A sum knows no order, so every
layout of the same run has the same one.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fanal.errors import DamageError, error_type
from fanal.reason import reason
from fanal.records import MisfitError, record_of
from pretrain.data.read import TrainData

Lanes = tuple[int, int]
"""Two integers modulo 2**64."""


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
    """Hash of the shard's index if data.document_mask used its document boundaries; else None."""


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
    """Their sum, see ``to_hex``."""


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
    """Sum over all samples so far, see ``to_hex``."""
    last_step: StepPosition
    verified: tuple[VerifiedSource, ...] = field(default=(), compare=False)
    """One for each of ``sources``; none of an earlier version. It says nothing about which data were read."""
    has_other_ids: bool = field(default=False, compare=False)
    """Whether a source holds the ids of another tokenizer than ``tokenizer_sha256``, as its manifest says."""


def samples_hash(numbers: Sequence[int], rows: np.ndarray) -> Lanes:
    """Sum over samples of blake2b(number as uint64 || tokens as int32, all little-endian), 128 bits as two lanes.

    Args: numbers: [n]; rows: integers [n, s + 1].
    """
    digests = []
    for number, row in zip(numbers, rows.astype("<i4"), strict=True):
        digest = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16)
        digest.update(row)
        digests.append(digest.digest())
    low, high = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2).sum(axis=0, dtype=np.uint64).tolist()
    return low, high


def add(left: Lanes, right: Lanes) -> Lanes:
    """The hash of both sets of samples."""
    return (left[0] + right[0]) % 2**64, (left[1] + right[1]) % 2**64


def to_hex(lanes: Lanes) -> str:
    """Both lanes, 16 hexadecimal digits each."""
    return f"{lanes[0]:016x}{lanes[1]:016x}"


def from_hex(text: str) -> Lanes:
    """The inverse of ``to_hex``."""
    return int(text[:16], 16), int(text[16:], 16)


def position_of(
    data: TrainData,
    *,
    consumed_samples: int,
    consumed_hash: Lanes,
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
                idx_sha256=source.shard.manifest.idx_sha256 if data.config.document_mask else None,
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
        consumed_hash=to_hex(consumed_hash),
        last_step=last_step,
        verified=verified,
        has_other_ids=any(source.shard.manifest.has_other_ids for source in sources),
    )


def position_text(position: DataPosition) -> str:
    """The record as JSON."""
    return json.dumps(dataclasses.asdict(position), indent=1) + "\n"


def read_position(path: Path) -> DataPosition:
    """Read a record. Raises: DamageError naming the file if it is not one; PassingError if the disk does not give it now."""
    try:
        position = record_of(DataPosition, json.loads(path.read_text()))
        _check(position)
        return position
    except (OSError, ValueError, RecursionError) as error:
        raise error_type(error, DamageError)(
            f"{path} is not the data position of a checkpoint ({reason(error)}); resume from another checkpoint"
        ) from None


def _check(position: DataPosition) -> None:
    """Check hashes and shares. Raises: MisfitError."""
    for text in (position.consumed_hash, position.last_step.hash):
        if len(text) != 32:
            raise MisfitError(f"hash {text!r} must have 32 hexadecimal digits")
        from_hex(text)
    for phase in position.phases:
        for share in phase.sources:
            if not 0 < share.share < math.inf:
                raise MisfitError(f"share {share.share!r} must be a number above 0")
