"""What `check-overlap` found, as records: the whole report, and the note beside each training shard, PREFIX.overlap.json.

A manifest is sealed by its own hash when the shard is written, so findings of later lie beside it, in a file with hashes of both
sides and of itself.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fanal.errors import DamageError, UserError
from fanal.files import write_bytes_durably
from fanal.records import read_sealed, record_bytes, record_in, sealed
from tokenizer.overlap.held_out import HeldOut, Side
from tokenizer.overlap.scan import NO_PLACE, Findings, ShardFindings
from tokenizer.overlap.units import By
from tokenizer.shards.manifest import OVERLAP_END, ShardManifest, fanal_version

FORMAT_VERSION = 1
OWN_HASH = "overlap_sha256"
REMEDY = "remove it, and run `fanal tokenizer check-overlap` again"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much of the held-out side was found."""

    num_ngrams: int
    """N-grams of the held-out documents, by place: one that occurs twice counts twice."""
    found_ngrams: int
    num_documents: int
    too_short: int
    """Held-out documents without an n-gram, of which nothing is known."""
    found_documents: int
    """Those of which an n-gram was found."""
    found_20_percent: int
    """Those of which at least 20 % of the n-grams were found."""
    found_80_percent: int


@dataclass(frozen=True, kw_only=True)
class OverlapCheck:
    """One check of one training shard."""

    by: str
    """Units: tokens or words."""
    ngram: int
    """Units in an n-gram."""
    min_ngrams: int
    """Distinct n-grams from which on a training document counts as overlapping."""
    against: tuple[Side, ...]
    overlapping_documents: int
    """Training documents of this shard that share so many n-grams with the held-out side."""
    counts: Counts
    """What of the held-out side this shard holds."""
    fanal_version: str


@dataclass(frozen=True, kw_only=True)
class OverlapNote:
    """Content of PREFIX.overlap.json."""

    format_version: int
    """Version of the format: 1."""
    bin_sha256: str
    """Identity of the shard: its manifest's."""
    idx_sha256: str
    checks: tuple[OverlapCheck, ...]
    """One for each n-gram and held-out side, the newest last."""
    overlap_sha256: str | None = None
    """SHA-256 of everything else in this file (``own_hash``)."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A training document that shares n-grams with a held-out one."""

    shard: str
    """Prefix of its shard."""
    document: int
    shared_ngrams: int
    """Distinct n-grams that both hold."""


@dataclass(frozen=True, kw_only=True)
class DocumentOverlap:
    """One held-out document of which something was found."""

    against: str
    """Shard or file that holds it."""
    place: str
    """Its number in the shard, or FILE:LINE."""
    num_ngrams: int
    found_ngrams: int
    share: float
    """Of its n-grams, those that were found."""
    training_documents: int
    """Number of training documents that share an n-gram with it."""
    most: tuple[Place, ...]
    """Those that share most, the most first."""


@dataclass(frozen=True, kw_only=True)
class TrainingShard:
    """One training shard of a report."""

    prefix: str
    bin_sha256: str
    idx_sha256: str
    num_documents: int
    num_tokens: int
    check: OverlapCheck


@dataclass(frozen=True, kw_only=True)
class OverlapReport:
    """What was found in all training shards."""

    format_version: int
    by: str
    ngram: int
    min_ngrams: int
    against: tuple[Side, ...]
    training: tuple[TrainingShard, ...]
    counts: Counts
    documents: tuple[DocumentOverlap, ...]
    """Held-out documents of which an n-gram was found, the largest share first."""
    fanal_version: str


def report_of(held_out: HeldOut, findings: Findings, *, by: By, min_ngrams: int) -> OverlapReport:
    """Return the report of finished findings."""
    version, n = fanal_version(), held_out.index.n
    found = np.zeros(held_out.index.num_ngrams, dtype=bool)
    for one in findings.shards:
        found |= one.found
    training = []
    for one in findings.shards:
        check = OverlapCheck(
            by=by, ngram=n, min_ngrams=min_ngrams, against=held_out.sides, overlapping_documents=one.num_documents,
            counts=_counts(held_out, one.found), fanal_version=version,
        )  # fmt: skip
        training.append(_training(one, check))
    return OverlapReport(
        format_version=FORMAT_VERSION,
        by=by,
        ngram=n,
        min_ngrams=min_ngrams,
        against=held_out.sides,
        training=tuple(training),
        counts=_counts(held_out, found),
        documents=tuple(_documents(held_out, findings, found)),
        fanal_version=version,
    )


def _training(findings: ShardFindings, check: OverlapCheck) -> TrainingShard:
    manifest = findings.shard.manifest
    return TrainingShard(
        prefix=str(findings.shard.prefix),
        bin_sha256=manifest.bin_sha256,
        idx_sha256=manifest.idx_sha256,
        num_documents=manifest.num_documents,
        num_tokens=manifest.num_tokens,
        check=check,
    )


def _found_of(held_out: HeldOut, found: np.ndarray) -> np.ndarray:
    """Return how many n-grams of each held-out document were found, by place: int64 [documents]."""
    ngram_of = held_out.index.ngram_of
    is_found = np.zeros(len(ngram_of) + 1, dtype=np.int64)
    is_found[1:] = np.cumsum((ngram_of >= 0) & found[ngram_of])
    return is_found[held_out.offsets[1:]] - is_found[held_out.offsets[:-1]]


def _counts(held_out: HeldOut, found: np.ndarray) -> Counts:
    of_document, found_of = held_out.num_ngrams_of(), _found_of(held_out, found)

    def at_least(percent: int) -> int:
        return int(((100 * found_of >= percent * of_document) & (found_of > 0)).sum())

    return Counts(
        num_ngrams=int(of_document.sum()),
        found_ngrams=int(found_of.sum()),
        num_documents=held_out.num_documents,
        too_short=int((of_document == 0).sum()),
        found_documents=at_least(0),
        found_20_percent=at_least(20),
        found_80_percent=at_least(80),
    )


def _documents(held_out: HeldOut, findings: Findings, found: np.ndarray) -> list[DocumentOverlap]:
    of_document, found_of = held_out.num_ngrams_of(), _found_of(held_out, found)
    numbers = np.flatnonzero(found_of)
    numbers = numbers[np.argsort(-found_of[numbers] / of_document[numbers], kind="stable")]
    return [
        DocumentOverlap(
            against=held_out.sides[held_out.side_of[number]].name,
            place=held_out.places[number],
            num_ngrams=int(of_document[number]),
            found_ngrams=int(found_of[number]),
            share=float(found_of[number] / of_document[number]),
            training_documents=int(findings.num_sharing[number]),
            most=tuple(
                Place(shard=str(findings.shards[shard].shard.prefix), document=document, shared_ngrams=shared)
                for shared, shard, document in findings.best[number].tolist()
                if shard != NO_PLACE
            ),
        )
        for number in numbers.tolist()
    ]


def overlap_path(prefix: str | Path) -> Path:
    """Return the path of the note beside a training shard."""
    return Path(f"{prefix}{OVERLAP_END}")


def read_note(prefix: str | Path, manifest: ShardManifest) -> OverlapNote | None:
    """Read the note beside a shard; None if there is none, or if it is of another shard that had this prefix.

    Raises: DamageError if its content is not what its own hash says; UserError if it is no such note.
    """
    path = overlap_path(prefix)
    if not path.exists():
        return None
    altered = f"is not what its {OWN_HASH} says: it changed after it was written"
    content = read_sealed(path, OWN_HASH, altered=altered, remedy=REMEDY, error=UserError)
    note = record_in(OverlapNote, content, path, remedy=REMEDY)
    return note if (note.bin_sha256, note.idx_sha256) == (manifest.bin_sha256, manifest.idx_sha256) else None


def write_note(prefix: str | Path, manifest: ShardManifest, check: OverlapCheck) -> None:
    """Add a check to the note beside a shard; one with the same n-grams and held-out hashes is replaced."""
    note = None
    with contextlib.suppress(UserError, DamageError):  # a bad note is made anew, as its remedy says
        note = read_note(prefix, manifest)
    kept = [one for one in (note.checks if note else ()) if _question(one) != _question(check)]
    unsealed = OverlapNote(
        format_version=FORMAT_VERSION,
        bin_sha256=manifest.bin_sha256,
        idx_sha256=manifest.idx_sha256,
        checks=(*kept, check),
    )
    write_bytes_durably(overlap_path(prefix), record_bytes(sealed(unsealed, OWN_HASH)))


def _question(check: OverlapCheck) -> tuple[object, ...]:
    sides: Sequence[tuple[str, str | None]] = [(side.sha256, side.idx_sha256) for side in check.against]
    return check.by, check.ngram, check.min_ngrams, tuple(sides)
