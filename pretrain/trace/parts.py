"""The parts of documents that samples are made of, with what their shards know of each: columns, text."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from fanal.files import HASH_BLOCK_BYTES
from fanal.host_cores import host_cores
from pretrain.data.packing.packed_order import PackedOrder
from pretrain.data.read import TrainData
from pretrain.data.sources import Source
from tokenizer.shards.document_columns import open_columns
from tokenizer.shards.shard import Shard
from tokenizer.shards.verify import check_tokens
from tokenizer.vocabulary.load import load_tokenizer

MAX_THREADS = 8
EXCERPT_CHARACTERS = 160
"""Characters of the text of a part that are shown."""
EXCERPT_TOKENS = EXCERPT_CHARACTERS + 8
"""Tokens that are decoded for them: few tokens have no character."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Tokens of one document that stand in a sample: [start_token, start_token + num_tokens) of its shard."""

    position: int
    """Where the first of them stands in the sample, from 0."""
    document: int
    """Number of the document in its shard, from 0."""
    start_token: int
    """Counted from the shard's first token."""
    num_tokens: int
    offset: int
    """Tokens of the document before the first of them."""
    document_tokens: int
    """Tokens of the complete document."""
    columns: dict[str, str | int | None] | None = None
    """What the shard says of the document, by column; None where it has no columns."""
    text: str | None = None
    """Beginning of the text of these tokens; None unless it was asked for."""


def parts_of(data: TrainData, sources: np.ndarray, places: np.ndarray) -> list[list[Part]]:
    """Return the parts of the samples at these places. Reads indexes, no tokens. Args: int64 [n] each, as ``TrainData.places``."""
    found = []
    for number, place in zip(sources.tolist(), places.tolist(), strict=True):
        source = data.sources.train[number]
        pieces = pieces_at(source, place, data.config.seq_length)
        found.append([part for piece in pieces for part in _parts_of_piece(source.shard, *piece)])
    return found


def pieces_at(source: Source, place: int, seq_length: int) -> list[tuple[int, int, int]]:
    """Return (position in the sample, first token in the shard, number of tokens) of each stretch of a shard that the sample at a
    place is made of."""
    if not isinstance(source.order, PackedOrder):
        return [(0, place, seq_length + 1)]
    pieces, position = [], 0
    for start, length in zip(*source.order.plan.pieces(place), strict=True):
        pieces.append((position, start, length))
        position += length
    return pieces


def _parts_of_piece(shard: Shard, position: int, start_token: int, num_tokens: int) -> list[Part]:
    first_document, edges = shard.document_edges(start_token, num_tokens)
    parts = []
    for document, (begin, finish) in enumerate(pairwise(edges.tolist()), first_document):
        first, end = max(begin, start_token), min(finish, start_token + num_tokens)
        parts.append(
            Part(
                position=position + first - start_token,
                document=document,
                start_token=first,
                num_tokens=end - first,
                offset=first - begin,
                document_tokens=finish - begin,
            )
        )
    return parts


def with_columns(data: TrainData, sources: np.ndarray, parts: Sequence[Sequence[Part]]) -> list[list[Part]]:
    """Return parts with the columns of their documents, where the shard has them. Reads each row group once, on several threads:
    what takes long lets go of the interpreter."""
    found = [list(of_sample) for of_sample in parts]

    def look_up(source: int) -> None:
        shard = data.sources.train[source].shard
        columns = open_columns(shard.prefix, shard.manifest)
        if columns is None:
            return
        samples = np.flatnonzero(sources == source).tolist()
        rows = iter(columns.rows([part.document for sample in samples for part in parts[sample]]))
        for sample in samples:
            found[sample] = [Part(**{**vars(part), "columns": next(rows)}) for part in parts[sample]]

    with ThreadPoolExecutor(min(MAX_THREADS, host_cores())) as threads:
        for _ in threads.map(look_up, np.unique(sources).tolist()):  # raises what a thread has met
            pass
    return found


class Texts:
    """Decodes tokens of a run's shards, after the blocks that hold them were compared with the manifests."""

    def __init__(self, data: TrainData) -> None:
        self._data = data
        self._tokenizer = load_tokenizer(data.config.tokenizer)
        self._compared: set[tuple[int, int]] = set()

    def with_text(self, source: int, part: Part) -> Part:
        """Return a part with the beginning of its text. Raises: DamagedShardError if the tokens are not those of the manifest."""
        shard = self._data.sources.train[source].shard
        num_tokens = min(part.num_tokens, EXCERPT_TOKENS)
        per_block = HASH_BLOCK_BYTES // shard.dtype.itemsize
        for block in range(part.start_token // per_block, (part.start_token + num_tokens - 1) // per_block + 1):
            if (source, block) not in self._compared:
                check_tokens(shard, block * per_block, 1)
                self._compared.add((source, block))
        ids = shard.tokens[part.start_token : part.start_token + num_tokens].tolist()
        text = self._tokenizer.decode(ids)
        is_cut = part.num_tokens > num_tokens or len(text) > EXCERPT_CHARACTERS
        return replace(part, text=text[:EXCERPT_CHARACTERS] + "..." * is_cut)
