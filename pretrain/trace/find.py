"""Documents of a run's shards: by place, by their id, by a text in them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow.compute import call_function

from fanal.errors import UserError
from fanal.shown import shown
from pretrain.data.read import TrainData
from pretrain.data.sources import Source
from tokenizer.search.find import Search
from tokenizer.search.hits import Hit
from tokenizer.shards.document_columns import open_columns
from tokenizer.vocabulary.load import load_tokenizer

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
class Found:
    """Tokens of a document that are asked for."""

    document: Document
    first_token: int
    """Counted from the shard's first token."""
    end_token: int
    hit: Hit | None = None
    """The text that was found there; None where the complete document is asked for."""


def find_documents(data: TrainData, name: str) -> Iterator[Found]:
    """Yield the documents with this name: PREFIX:NUMBER, or the value of column id. Training and validation shards are searched.

    Raises: UserError for a number that the shard does not have.
    """
    prefix, colon, number = name.rpartition(":")
    named = [source for source in _shards(data) if colon and number.isdecimal() and _is_named(source, prefix)]
    for source in named or _shards(data):
        numbers = [int(number)] if named else _with_id(source, name).tolist()
        _check_number(source, numbers, name)
        for document in _documents(source, numbers):
            end_token = document.first_token + document.num_tokens
            yield Found(document=document, first_token=document.first_token, end_token=end_token)


def find_text(data: TrainData, *, text: str | None, regex: str | None) -> Iterator[Found]:
    """Yield every occurrence of a text, or of a regular expression, in the documents of a run's shards.

    Raises: as ``tokenizer.search.find.Search``.
    """
    search = Search(load_tokenizer(data.config.tokenizer), text=text, regex=regex)
    for source in _shards(data):
        hits = list(search.find(source.shard))
        documents = _documents(source, [hit.document for hit in hits])
        for hit, document in zip(hits, documents, strict=True):
            yield Found(document=document, first_token=hit.start_token, end_token=hit.end_token, hit=hit)


def not_found(data: TrainData, name: str) -> UserError:
    """The error for a name that no document has."""
    manifests = {str(source.shard.prefix): source.shard.manifest for source in _shards(data)}
    prefixes, with_ids = list(manifests), sum(ID in manifest.documents_columns for manifest in manifests.values())
    more = f" and {len(prefixes) - MOST_NAMED:,} more" if len(prefixes) > MOST_NAMED else ""
    return UserError(
        f"--document ({shown(name)}) must be PREFIX:NUMBER of one of the run's shards, {', '.join(prefixes[:MOST_NAMED])}{more}, "
        f"or an id in their columns, which {with_ids} of {len(prefixes)} have; --document {prefixes[0]}:0 works"
    )


def _check_number(source: Source, numbers: Sequence[int], name: str) -> None:
    shard = source.shard
    if any(number >= shard.num_documents for number in numbers):
        raise UserError(
            f"--document ({shown(name)}) must be a document of {shard.prefix}, which has {shard.num_documents}, counted from 0; "
            f"--document {shard.prefix}:{shard.num_documents - 1} works"
        )


def _documents(source: Source, numbers: Sequence[int]) -> list[Document]:
    """Return these documents of a shard; the columns are read at once."""
    shard = source.shard
    columns = open_columns(shard.prefix, shard.manifest) if numbers else None
    rows = columns.rows(numbers) if columns is not None else [None] * len(numbers)
    return [
        Document(
            prefix=str(shard.prefix),
            identity=source.identity,
            number=number,
            first_token=shard.document_span(number)[0],
            num_tokens=shard.document_span(number)[1],
            columns=row,
        )
        for number, row in zip(numbers, rows, strict=True)
    ]


def _shards(data: TrainData) -> list[Source]:
    """Training and validation sources, each shard once."""
    sources = [*data.sources.train, *data.sources.validation]
    return list({source.identity: source for source in reversed(sources)}.values())[::-1]


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
