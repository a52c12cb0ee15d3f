"""Worker side of encoding: one block of input becomes the tokens of its documents."""

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NoReturn

import numpy as np

from fanal.errors import UserError
from tokenizer.documents.blocks import OR_SKIP, RawBlock
from tokenizer.documents.column_fields import ColumnFields, column_values
from tokenizer.documents.parse import LABELS, Document, Fields, Place, parse_block, repeated_fields, stop
from tokenizer.shards.document_rows import DocumentRows, pack_rows
from tokenizer.shards.manifest import DTYPES, dtype_for
from tokenizer.shards.shuffle import document_keys
from tokenizer.vocabulary.engine import EngineError, OracleEngine, RequestedEngine, open_engine
from tokenizer.vocabulary.load import load_tokenizer

CHECKED_CHARACTERS = 1 << 14
"""Characters of one document per block that are checked: about 0.4% of all text is encoded twice."""


@dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """Settings that are the same for all blocks of a run."""

    tokenizer_dir: str
    append_bos: bool | None
    """Whether documents start with BOS; None does what the tokenizer does with a text."""
    append_eos: bool
    fields: Fields
    skip_bad_documents: bool
    engine: RequestedEngine
    shuffle_seed: int | None
    labels: tuple[str, ...] = LABELS
    """Labels to read from the documents: those that were not given for all documents."""
    columns: ColumnFields | None = None
    """Fields whose values the shard keeps for each document; None for a shard without columns."""


@dataclass(frozen=True, kw_only=True)
class EncodedBlock:
    """Tokens of the documents of one block."""

    lengths: np.ndarray
    """Tokens in each document, BOS and EOS included: int32 [documents]."""
    tokens: np.ndarray
    """Ids of all documents, one after the other: [sum of lengths], of the shard's dtype."""
    keys: np.ndarray
    """Shuffle keys: uint64 [documents]; empty without a shuffle."""
    labels: dict[str, dict[str | None, Place]]
    """Values of each label to read, with the place of the first document of each value."""
    skipped: tuple[str, ...]
    repeated: tuple[tuple[Place, str], ...]
    """Documents that give a field more than once, and which."""
    num_checked: int
    rows: DocumentRows | None
    """Rows of the documents' columns; None for a shard without."""
    too_long: dict[str, int]
    """Columns of which values are left out for their length, and how many."""


def encode_block(job: EncodeJob, block: RawBlock) -> EncodedBlock:
    """Parse and tokenize one block. Raises: UserError for a bad document, EngineError where the engines differ."""
    return open_encoder(job).encode(block)


@cache
def open_encoder(job: EncodeJob) -> "BlockEncoder":
    """Return the encoder of this process: opening a tokenizer takes as long as a block. One opened before a fork is
    open after it."""
    return BlockEncoder(job)


class BlockEncoder:
    """Tokenizer and engine of one job, opened."""

    def __init__(self, job: EncodeJob) -> None:
        self.job = job
        self.tokenizer = load_tokenizer(job.tokenizer_dir)
        self.engine = open_engine(self.tokenizer, job.engine)
        self.append_bos = self._resolved_bos()
        self._lowest_control_id = min(self.tokenizer.control_ids)
        self._highest_control_id = max(self.tokenizer.control_ids)
        self._is_control = np.zeros(self.tokenizer.vocab_size, dtype=bool)
        self._is_control[list(self.tokenizer.control_ids)] = True
        self.dtype = DTYPES[dtype_for(self.tokenizer.vocab_size)]

    def _resolved_bos(self) -> bool:
        """Return whether documents start with BOS. Raises: UserError if the tokenizer has none to start them with."""
        if self.job.append_bos and self.tokenizer.bos_id is None:
            raise UserError(
                f"--bos needs a BOS, and the tokenizer in {self.tokenizer.directory} has none; --no-bos works"
            )
        return self.tokenizer.adds_bos if self.job.append_bos is None else self.job.append_bos

    def encode(self, block: RawBlock) -> EncodedBlock:
        with without_garbage_collection():
            return self._encode(block)

    def _encode(self, block: RawBlock) -> EncodedBlock:
        skipped: list[str] = []
        report = skipped.append if self.job.skip_bad_documents else stop_or_skip
        documents = list(parse_block(block, self.job.fields, report))
        ids = self.engine.encode([document.text for document in documents])
        lengths, tokens = self._joined(ids)
        keys = np.empty(0, np.uint64)
        if self.job.shuffle_seed is not None:
            positions = np.array([document.position for document in documents], dtype=np.int64)
            keys = document_keys(self.job.shuffle_seed, block.file_number, positions)
        rows, too_long = self._rows(block, documents)
        return EncodedBlock(
            lengths=lengths,
            tokens=tokens,
            keys=keys,
            labels={name: _values(documents, name) for name in self.job.labels},
            skipped=tuple(skipped),
            repeated=repeated_fields(block, self.job.fields, documents),
            num_checked=self._check(block, documents),
            rows=rows,
            too_long=too_long,
        )

    def _rows(self, block: RawBlock, documents: list[Document]) -> tuple[DocumentRows | None, dict[str, int]]:
        """Return the rows of the documents' columns, and how many values are left out of each."""
        if self.job.columns is None:
            return None, {}
        names = self.job.columns.columns
        no_fields, too_long = (None,) * len(names), [0] * len(names)
        rows = [
            (block.file_number, document.position_in_file, *column_values(document.also or no_fields, too_long))
            for document in documents
        ]
        return pack_rows(rows), {name: count for name, count in zip(names, too_long, strict=True) if count}

    def _joined(self, ids: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the lengths and the tokens of all documents: BOS + ids + EOS each."""
        bos = [np.array([self.tokenizer.bos_id])] if self.append_bos else []
        eos = [np.array([self.tokenizer.eos_id])] if self.job.append_eos else []
        lengths = np.fromiter((len(some) for some in ids), dtype=np.int64, count=len(ids)) + len(bos) + len(eos)
        tokens = np.empty(int(lengths.sum()), dtype=self.dtype)
        if ids:
            for some in ids:
                self._refuse_control_tokens(some)
            pieces = [piece for some in ids for piece in (*bos, some, *eos)]
            np.concatenate(pieces, out=tokens, casting="unsafe")  # the writer holds every id against the vocabulary
        return lengths.astype(np.int32), tokens

    def _refuse_control_tokens(self, ids: np.ndarray) -> None:
        """Refuse ids of control tokens. A "<s>" written in a text is three characters to us; taken for BOS it would cut
        documents."""
        # Control tokens have the lowest ids, or the highest ones, so nearly every text passes the first, cheap look.
        if len(ids) and ids.min() <= self._highest_control_id and ids.max() >= self._lowest_control_id:
            assert not self._is_control[ids].any(), "text became a control token"

    def _check(self, block: RawBlock, documents: list[Document]) -> int:
        """Compare one document, another one in each block, with the oracle, and return how many were compared."""
        if not documents or isinstance(self.engine, OracleEngine) or (block.file_number % 16 and not block.first):
            return 0  # of many small files, each a block, some
        document = documents[block.first // 4096 % len(documents)]
        if problem := self.engine.check([document.text[:CHECKED_CHARACTERS]]):
            raise EngineError(
                f"{document.place}: {problem}; the shard would be wrong, encode with --engine {self.tokenizer.oracle} and report "
                "this text"
            )
        return 1


def stop_or_skip(problem: str) -> NoReturn:
    """Raise UserError with the problem, and with the option that passes over it."""
    stop(problem + OR_SKIP)


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Switch the garbage collector off: documents and ids hold no cycles, and each of its rounds would visit all objects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _values(documents: list[Document], name: str) -> dict[str | None, Place]:
    """Return a label's values, in order, with the place where each occurs first."""
    first: dict[str | None, Document] = {}
    for document in documents:
        first.setdefault(getattr(document, name), document)
    return {value: document.where for value, document in first.items()}
