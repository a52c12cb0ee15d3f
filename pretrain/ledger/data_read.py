"""What a chain of runs read, by source, language, licence and host, in each of its mixtures and in all; what was held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from pretrain.data.read import TrainData
from pretrain.data.sources import Source
from pretrain.history.data import open_history_data
from pretrain.history.history import History
from pretrain.ledger.document_dates import Dates, DocumentDates
from pretrain.ledger.documents_read import Use, count_documents
from pretrain.ledger.labels_of_documents import DIMENSIONS, DocumentLabels, Values
from pretrain.ledger.tally import Amount, Tally
from tokenizer.overlap.report import OverlapCheck, read_note
from tokenizer.shards.document_columns import open_columns
from tokenizer.shards.manifest import Exclusion
from tokenizer.shards.shard import Shard

SOURCE = "source"
Amounts = dict[str, dict[str | None, Amount]]
"""By dimension (SOURCE, and those of DIMENSIONS that were asked for), by label; None where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class PartRead:
    """The samples of one mixture that one run trained on."""

    run_dir: str
    mixture: str
    """Key of the configuration: data.train, or data.phases[i].train."""
    first_sample: int
    end_sample: int
    first_step: int | None
    """Step that reads the first of its samples; None where no file tells. A step may read samples of two mixtures."""
    last_step: int | None
    tokens: int
    """Tokens that the steps consumed: seq_length of each sample."""
    padding_tokens: int
    """Those of them that fill packed rows, or begin a piece there, and so are no predicted token of a document."""
    amounts: Amounts


@dataclass(frozen=True, kw_only=True)
class TrainedSource:
    """A shard that a mixture names."""

    prefix: str
    identity: str
    domain: str
    num_tokens: int
    num_documents: int
    train_tokens: int
    """Tokens that training may read; the others are held out (data.validation_fraction)."""
    licence: str | None
    """Label of all of its documents, as are the next two."""
    language: str | None
    origin: str | None
    known_by_document: tuple[str, ...]
    """Of DIMENSIONS, those that each document says for itself."""
    documents_sha256: str | None
    """Hash of the file of its columns."""
    exclusions: tuple[Exclusion, ...]
    """Documents that were removed from the shards that it was made from, the first removal first."""
    overlap: tuple[OverlapCheck, ...]
    """What of held-out text it was found to hold (`fanal tokenizer check-overlap`), the newest check last."""
    dates: Dates
    """Dates that the documents that were read state."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Text that a run validates on and never trains on."""

    run_dir: str
    prefix: str
    identity: str
    by: str
    """Key of the configuration that holds it out."""
    tokens: int
    documents: int
    licence: str | None
    language: str | None
    trained_by: tuple[str, ...]
    """Runs of the chain that trained on some of it all the same."""


@dataclass(frozen=True, kw_only=True)
class DataRead:
    """Everything that a chain of runs read."""

    parts: tuple[PartRead, ...]
    in_all: Amounts
    sources: tuple[TrainedSource, ...]
    held_out: tuple[HeldOut, ...]

    @property
    def dates(self) -> Dates:
        """Dates of all documents that were read."""
        return reduce(Dates.and_of, (source.dates for source in self.sources), Dates())


@dataclass(frozen=True, kw_only=True)
class _Part:
    run: int
    """Its run's place in the chain."""
    number: int
    """Of the mixture, in its run."""
    first_sample: int
    end_sample: int


def data_read(histories: Sequence[History], *, deep: bool = False, dimensions: Sequence[str] = DIMENSIONS) -> DataRead:
    """Count what these runs read, oldest first. Reads indexes and columns, no token.

    Args: deep: whether every byte of shards and columns is compared with the manifests first; dimensions: what documents are
        grouped by, beside their source: without hosts, memory does not grow with them.
    Raises: UserError for a shard that is gone or another one, DamageError for one that changed.
    """
    opened = [open_history_data(history, deep=deep) for history in histories]
    parts = [
        part
        for run, (history, data) in enumerate(zip(histories, opened, strict=True))
        for part in _parts(run, data, trained_samples(history))
    ]
    uses: dict[tuple[str, str], list[Use]] = {}
    shards: dict[tuple[str, str], Source] = {}
    for number, part in enumerate(parts):
        data = opened[part.run]
        first, end = (data.mixture.drawn(sample).tolist() for sample in (part.first_sample, part.end_sample))
        for member in data.sources.phases[part.number].members:
            source = data.sources.train[member]
            key = source.identity, source.shard.manifest.idx_sha256
            shards[key] = source  # the youngest path of the same tokens
            use = Use(part=number, order=source.order, first_draw=first[member], end_draw=end[member])
            uses.setdefault(key, []).append(use)
    tallies = {name: Tally(len(parts)) for name in (SOURCE, *dimensions)}
    sources = [_count(shards[key], uses[key], tallies, len(parts), deep=deep) for key in shards]
    return DataRead(
        parts=tuple(
            _part_read(part, histories[part.run], opened[part.run], {n: t.amounts(i) for n, t in tallies.items()})
            for i, part in enumerate(parts)
        ),
        in_all={name: tally.amounts(None) for name, tally in tallies.items()},
        sources=tuple(sources),
        held_out=tuple(_held_out(histories, opened)),
    )


def trained_samples(history: History) -> int:
    """Samples of the steps that a run has trained, those that were lost not among them."""
    if not history.trained_to:
        return 0
    segment = history.segment_of_step(history.trained_to)
    if history.trained_to == segment.end_step - 1:
        return segment.end_sample
    return history.samples_of_step(history.trained_to).stop


def _parts(run: int, data: TrainData, num_samples: int) -> list[_Part]:
    starts = [phase.start_sample for phase in data.sources.phases]
    ends = [*starts[1:], num_samples]
    return [
        _Part(run=run, number=number, first_sample=first, end_sample=min(end, num_samples))
        for number, (first, end) in enumerate(zip(starts, ends, strict=True))
        if first < num_samples
    ]


def _count(
    source: Source, uses: Sequence[Use], tallies: dict[str, Tally], num_parts: int, *, deep: bool
) -> TrainedSource:
    """Add the documents of a shard to the sums."""
    shard, manifest = source.shard, source.shard.manifest
    columns, note = open_columns(shard.prefix, manifest), read_note(shard.prefix, manifest)
    if columns is not None and deep:
        columns.check_hash()
    labels = DocumentLabels(manifest, columns, [name for name in tallies if name != SOURCE])
    date_column, dates = DocumentDates(columns), Dates()
    available = [0] * num_parts
    for use in uses:
        available[use.part] = use.order.num_tokens
    for block in count_documents(shard, uses, num_parts=num_parts):
        count = len(block.bounds) - 1
        tallies[SOURCE].add(block, Values(np.zeros(count, np.int64), [str(shard.prefix)]), available)
        for name, values in labels.take(count).items():
            tallies[name].add(block, values, available)
        dates = dates.and_of(date_column.take(block.distinct_in_all > 0))
    return TrainedSource(
        prefix=str(shard.prefix),
        identity=source.identity,
        domain=source.domain,
        num_tokens=shard.num_tokens,
        num_documents=shard.num_documents,
        train_tokens=source.order.num_tokens,
        licence=manifest.licence,
        language=manifest.language,
        origin=manifest.source,
        known_by_document=labels.from_columns,
        documents_sha256=manifest.documents_sha256,
        exclusions=manifest.exclusions,
        overlap=note.checks if note is not None else (),
        dates=dates,
    )


def _part_read(part: _Part, history: History, data: TrainData, amounts: Amounts) -> PartRead:
    tokens = (part.end_sample - part.first_sample) * data.config.seq_length
    return PartRead(
        run_dir=str(history.run_dir),
        mixture="data.train" if part.number == 0 else f"data.phases[{part.number - 1}].train",
        first_sample=part.first_sample,
        end_sample=part.end_sample,
        first_step=history.step_of_sample(part.first_sample),
        last_step=history.step_of_sample(part.end_sample - 1),
        tokens=tokens,
        padding_tokens=tokens - sum(amount.tokens for amount in amounts[SOURCE].values()),
        amounts=amounts,
    )


def _held_out(histories: Sequence[History], opened: Sequence[TrainData]) -> list[HeldOut]:
    trained: dict[str, list[tuple[str, int]]] = {}
    for history, data in zip(histories, opened, strict=True):
        drawn = data.mixture.drawn(trained_samples(history)).tolist()
        for source, draws in zip(data.sources.train, drawn, strict=True):
            if draws:
                trained.setdefault(source.identity, []).append((str(history.run_dir), source.order.num_tokens))
    found = []
    for history, data in zip(histories, opened, strict=True):
        for source in data.sources.validation:
            shard, first = source.shard, source.first_token
            found.append(
                HeldOut(
                    run_dir=str(history.run_dir),
                    prefix=str(shard.prefix),
                    identity=source.identity,
                    by="data.validation_fraction" if first else "data.validation",
                    tokens=shard.num_tokens - first,
                    documents=_documents_from(shard, first),
                    licence=shard.manifest.licence,
                    language=shard.manifest.language,
                    trained_by=tuple(run for run, end in trained.get(source.identity, ()) if end > first),
                )
            )
    return found


def _documents_from(shard: Shard, token: int) -> int:
    return shard.num_documents - shard.documents_over(token, 1).start
