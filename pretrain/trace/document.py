"""From a document to the steps that train on it, past and to come, over all phases of a chain of runs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow.compute import call_function

from fanal.errors import UserError
from fanal.shown import shown
from pretrain.data.read import TrainData
from pretrain.data.sources import Source
from pretrain.data.whereabouts import samples_over
from pretrain.history.data import open_history_data
from pretrain.history.history import History
from pretrain.trace.parts import pieces_at
from tokenizer.shards.document_columns import open_columns

ID = "id"
"""Column by which a document is found."""
MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document of a run's shards."""

    prefix: str
    """Prefix of its shard."""
    identity: str
    """Identity of the shard's tokens."""
    number: int
    """Counted from 0 in the shard."""
    first_token: int
    """Counted from the shard's first token."""
    num_tokens: int
    columns: dict[str, str | int | None] | None
    """What the shard says of it, by column; None where it has no columns."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A sample that holds tokens of a document."""

    sample: int
    step: int | None
    """Step that reads it; None where no file tells."""
    pass_number: int
    """Which pass over the source it belongs to, from 1."""
    offset: int
    """Tokens of the document before the first one that the sample holds."""
    num_tokens: int
    """Tokens of the document in the sample."""
    is_trained: bool
    """Whether the run is known to have come so far; else it will."""
    is_saved: bool
    """Whether the newest checkpoint was trained on it."""


@dataclass(frozen=True, kw_only=True)
class PhaseTrace:
    """What one run of the chain does with a document."""

    run_dir: str
    saved_to: int
    """Step of its newest checkpoint; 0 if it has none."""
    trained_to: int
    """Last step that it is known to have trained."""
    planned_to: int
    """Last step that the run trains; of an earlier run, that the next one went on from."""
    held_out: bool
    """Whether the document is held out for validation there."""
    readings: tuple[Reading, ...]
    """By rising sample."""


@dataclass(frozen=True, kw_only=True)
class DocumentTrace:
    """A document, and all that is known of when it was and will be trained on."""

    document: Document
    phases: tuple[PhaseTrace, ...]
    """Of the chain, oldest first."""
    unknown_before: str | None
    """The checkpoint that the oldest of them started from, if its run is not there any more; None if nothing was before."""


def trace_document(history: History, name: str, *, deep: bool = False) -> list[DocumentTrace]:
    """Find a document by PREFIX:NUMBER or by its id, and work out which samples of which steps hold it. More than one have the
    same id where several shards say so.

    Raises: UserError if no shard of the chain has it; as ``open_history_data``.
    """
    opened = [(phase, open_history_data(phase, deep=deep)) for phase in history.phases]
    documents: dict[tuple[str, int], Document] = {}
    for _, data in reversed(opened):  # named as the last run names its shard
        for document in find_documents(data, name):
            documents.setdefault((document.identity, document.number), document)
    if not documents:
        raise UserError(_not_found(opened[-1][1], name))
    unknown = None if history.missing is None else history.missing.checkpoint
    return [
        DocumentTrace(
            document=document,
            phases=tuple(_in_phase(phase, data, document) for phase, data in opened),
            unknown_before=unknown,
        )
        for document in documents.values()
    ]


def find_documents(data: TrainData, name: str) -> list[Document]:
    """Return the documents with this name: PREFIX:NUMBER, or the value of column id. Training and validation shards are searched.

    Raises: UserError for a number that the shard does not have.
    """
    sources = {source.identity: source for source in [*data.sources.train, *data.sources.validation]}
    prefix, colon, number = name.rpartition(":")
    if colon and number.isdecimal():
        named = [source for source in sources.values() if _is_named(source, prefix)]
        if named:
            return [_document(source, int(number), name) for source in named]
    return [
        _document(source, document, name) for source in sources.values() for document in _with_id(source, name).tolist()
    ]


def _is_named(source: Source, prefix: str) -> bool:
    own = str(source.shard.prefix)
    return prefix in (own, Path(own).name) or os.path.realpath(prefix) == os.path.realpath(own)


def _with_id(source: Source, name: str) -> np.ndarray:
    """Return the documents of a shard with this id: int64 [documents]."""
    columns = open_columns(source.shard.prefix, source.shard.manifest)
    found, first = [np.empty(0, np.int64)], 0
    if columns is None or ID not in columns.names:
        return found[0]
    for batch in columns.batches([ID]):
        same = call_function("equal", [batch.column(0), pyarrow.scalar(name, batch.column(0).type)])
        found.append(np.flatnonzero(same.fill_null(False).to_numpy(zero_copy_only=False)) + first)
        first += batch.num_rows
    return np.concatenate(found)


def _document(source: Source, number: int, name: str) -> Document:
    shard = source.shard
    if number >= shard.num_documents:
        raise UserError(
            f"--document ({shown(name)}) must be a document of {shard.prefix}, which has {shard.num_documents}, counted from 0; "
            f"--document {shard.prefix}:{shard.num_documents - 1} works"
        )
    starts, lengths = shard.document_spans(range(number, number + 1))
    columns = open_columns(shard.prefix, shard.manifest)
    return Document(
        prefix=str(shard.prefix),
        identity=source.identity,
        number=number,
        first_token=int(starts[0]),
        num_tokens=int(lengths[0]),
        columns=None if columns is None else columns.rows([number])[0],
    )


def _not_found(data: TrainData, name: str) -> str:
    manifests = {
        str(source.shard.prefix): source.shard.manifest for source in [*data.sources.train, *data.sources.validation]
    }
    prefixes, with_ids = list(manifests), sum(ID in manifest.documents_columns for manifest in manifests.values())
    more = f" and {len(prefixes) - MOST_NAMED:,} more" if len(prefixes) > MOST_NAMED else ""
    return (
        f"--document ({shown(name)}) must be PREFIX:NUMBER of one of the run's shards, {', '.join(prefixes[:MOST_NAMED])}{more}, "
        f"or an id in their columns, which {with_ids} of {len(prefixes)} have; --document {prefixes[0]}:0 works"
    )


def _in_phase(history: History, data: TrainData, document: Document) -> PhaseTrace:
    number = next((at for at, source in enumerate(data.sources.train) if source.identity == document.identity), None)
    readings: Sequence[Reading] = ()
    if number is not None:
        # What lies behind the tokens to train on is its validation part.
        end = min(document.first_token + document.num_tokens, data.sources.train[number].order.num_tokens)
        if end > document.first_token:
            readings = _readings(history, data, number, document, end)
    held_out = any(
        source.identity == document.identity and source.first_token < document.first_token + document.num_tokens
        for source in data.sources.validation
    )
    return PhaseTrace(
        run_dir=str(history.run_dir),
        saved_to=min(history.saved_to, history.planned_to),
        trained_to=history.trained_to,
        planned_to=history.planned_to,
        held_out=held_out,
        readings=tuple(readings),
    )


def _readings(history: History, data: TrainData, source: int, document: Document, end_token: int) -> list[Reading]:
    samples = samples_over(
        data, source, first_token=document.first_token, end_token=end_token, end_sample=history.end_sample
    )
    sources, draws = data.mixture.locate(samples)
    passes = data.orders.epochs(sources, draws) + 1
    places = data.orders.start_tokens(sources, draws)
    trained, saved = _trained_samples(history), _saved_samples(history)
    found = []
    for sample, place, pass_number in zip(samples.tolist(), places.tolist(), passes.tolist(), strict=True):
        step = history.step_of_sample(sample)
        for _, start, length in pieces_at(data.sources.train[source], place, data.config.seq_length):
            first, end = max(start, document.first_token), min(start + length, end_token)
            if first < end:
                found.append(
                    Reading(
                        sample=sample,
                        step=step,
                        pass_number=pass_number,
                        offset=first - document.first_token,
                        num_tokens=end - first,
                        is_trained=sample < trained,
                        is_saved=sample < saved,
                    )
                )
    return found


def _trained_samples(history: History) -> int:
    segment = history.segment_of_step(history.trained_to) if history.trained_to else None
    if segment is None:
        return 0
    return segment.samples_of_step(history.trained_to).stop if segment.has_steps else segment.end_sample


def _saved_samples(history: History) -> int:
    if history.newest is None:
        return 0
    return min(history.newest.standing.consumed_samples, history.end_sample)
