"""The places that the samples of a step came from, and what they were trained as, by arithmetic: any rank can name those of all."""

from dataclasses import dataclass

import numpy as np

from pretrain.data.documents import predictable
from pretrain.data.packing.packed_order import PackedOrder
from pretrain.data.packing.packed_rows import PackedRowReader
from pretrain.data.read import TrainData


@dataclass(frozen=True, kw_only=True)
class SamplePlace:
    """One sample's tokens, [start_token, start_token + seq_length], and the documents that they are of."""

    sample: int
    """Number in the run."""
    source: str
    """Prefix of the shard."""
    domain: str
    start_token: int
    """Counted from the shard's first token."""
    first_document: int
    """Counted from 0 in the shard; ``Shard.document`` gives its tokens."""
    last_document: int
    """The sample touches this one and all from the first one on."""


@dataclass(frozen=True, kw_only=True)
class PiecePlace:
    """A part of one document: tokens [start_token, start_token + num_tokens)."""

    document: int
    """Counted from 0 in the shard; ``Shard.document`` gives its tokens."""
    start_token: int
    """Counted from the shard's first token."""
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class PackedSamplePlace:
    """One sample that is a packed row: its pieces, one behind the other."""

    sample: int
    """Number in the run."""
    source: str
    """Prefix of the shard."""
    domain: str
    row: int
    """Number in the plan of the source."""
    pieces: tuple[PiecePlace, ...]


def sample_places(
    data: TrainData, *, first_sample: int, num_samples: int
) -> list[SamplePlace] | list[PackedSamplePlace]:
    """The place of each of these samples of a run, in order. Reads indexes, no tokens.

    Cost: two binary searches in a mapped index per sample; of packed rows, one per piece.
    """
    numbers = np.arange(first_sample, first_sample + num_samples, dtype=np.int64)
    sources, starts = data.places(numbers)
    if isinstance(data.rows, PackedRowReader):
        return [
            _packed_place(data, *place)
            for place in zip(numbers.tolist(), sources.tolist(), starts.tolist(), strict=True)
        ]
    places = []
    for number, index, start in zip(numbers.tolist(), sources.tolist(), starts.tolist(), strict=True):
        source = data.sources.train[index]
        documents = source.shard.documents_over(start, data.config.seq_length + 1)
        places.append(
            SamplePlace(
                sample=number,
                source=str(source.shard.prefix),
                domain=source.domain,
                start_token=start,
                first_document=documents.start,
                last_document=documents.stop - 1,
            )
        )
    return places


def _packed_place(data: TrainData, number: int, index: int, row: int) -> PackedSamplePlace:
    source = data.sources.train[index]
    assert isinstance(source.order, PackedOrder), "its rows are packed"
    return PackedSamplePlace(
        sample=number,
        source=str(source.shard.prefix),
        domain=source.domain,
        row=row,
        pieces=tuple(
            PiecePlace(document=source.shard.documents_over(start, length).start, start_token=start, num_tokens=length)
            for start, length in zip(*source.order.plan.pieces(row), strict=True)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class TrainedSample:
    """One sample of a run, before and after its objectives."""

    read: np.ndarray
    """int64 [s + 1]: its tokens as they are read, which its hash is of."""
    tokens: np.ndarray
    """int64 [s + 1]: what it is trained on; the labels are tokens 1 to s."""
    counted: np.ndarray
    """bool [s]: whether the prediction of token p counts in the loss, at p - 1."""


def sample_as_trained(data: TrainData, number: int) -> TrainedSample:
    """What a run trains on at this number, worked out again from its configuration and its shards."""
    numbers = np.array([number], np.int64)
    sources, starts = data.places(numbers)
    read = data.read_places(sources, starts, data.new_rows(1))
    tokens = read.copy()
    documents = data.document_starts(sources, starts) if data.reads_index else None
    counted = data.apply_objectives(numbers, sources, starts, tokens, documents)
    kept = tokens[:, 1:] != data.sources.pad_id
    if counted is not None:
        kept &= counted
    if data.config.document_mask and documents is not None:
        kept &= predictable(documents, data.config.seq_length)
    return TrainedSample(read=read[0], tokens=tokens[0], counted=kept[0])
