"""Keys of ``data``: sources, mixtures and their order."""

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One token shard and its part in the mixture."""

    prefix: str = MISSING
    """Path of the shard without .bin / .idx / .json."""
    weight: float | None = None
    """Share of the mixture relative to the other sources' weights; only the ratios matter; null without epochs means 1."""
    epochs: float | None = None
    """The share as passes over the source's training tokens: weight = tokens x epochs. All sources of a mixture, or none."""
    domain: str | None = None
    """Name in logs; null means the domain the shard's manifest states."""


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """Another mixture from some sample on; a source that was read before continues where it stood."""

    start_sample: int = MISSING
    """First sample of the run that this mixture gives."""
    train: list[SourceConfig] = field(default_factory=list)
    """Its sources."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Comparison of the shards' bytes with the hashes in their manifests, while the run trains, once per node and start."""

    bytes_per_s: int = 16_777_216
    """Bytes that a node reads for it per second; more only where the run would otherwise come to its second pass over a source
    before all of it was compared."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data that a run reads, and their order."""

    tokenizer: str = MISSING
    """Folder of the tokenizer that made the shards."""
    seq_length: int = MISSING
    """Tokens a sample predicts; a sample reads seq_length + 1 tokens."""
    train: list[SourceConfig] = field(default_factory=list)
    """Sources of the training mixture, from the first sample on."""
    phases: list[PhaseConfig] = field(default_factory=list)
    """Mixtures that take over later, by rising start_sample."""
    validation: list[SourceConfig] = field(default_factory=list)
    """Sources of the validation loss, one figure per domain; weights are not used."""
    validation_fraction: float = 0.0
    """Last part of every training source, cut at a document, that is never trained on and joins the validation sources."""
    seed: int = 42
    """Seed of the order of samples."""
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """How training samples are cut from a source: every seq_length tokens of its concatenated documents, or as rows of whole
    documents, by a plan (best-fit decreasing). Validation samples are always concatenated."""
    document_mask: bool = False
    """True keeps documents of a sample apart: attention stays inside a document, positions count from its first token, and
    that token is not predicted. mfu_causal still counts attention over whole samples."""
    prefetch_bytes: int = 268_435_456
    """Memory per rank for batches read ahead by a thread, in bytes; 0 reads each batch when it is needed."""
    verify: VerifyConfig | None = field(default_factory=VerifyConfig)
    """Comparison of the shards' bytes with their hashes while the run trains; a difference ends it with code 76. Null compares
    nothing, and every checkpoint says so."""
