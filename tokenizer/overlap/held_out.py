"""The held-out side: shards and files of text, their documents as units, and the index of their n-grams."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fanal.errors import UserError
from fanal.files import InputFile
from tokenizer.documents.parse import DocumentReader, batches
from tokenizer.overlap.ngrams import NgramIndex
from tokenizer.overlap.units import By, Vocabulary, check_decodes, documents_of, text_of_document, words_of
from tokenizer.shards.shard import Shard
from tokenizer.vocabulary.folder import Tokenizer

BATCH_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Side:
    """One shard or file of the held-out side."""

    name: str
    """As the user gave it."""
    sha256: str
    """Of a shard its ``bin_sha256``; of a file the SHA-256 of its bytes, or above 64 MiB that of its blocks' digests."""
    idx_sha256: str | None
    """None for a file."""
    num_documents: int


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """All documents of the held-out side."""

    sides: tuple[Side, ...]
    side_of: np.ndarray
    """int32 [documents]: number of each document's side."""
    places: list[str]
    """Place of each document: FILE:LINE, or its number in the shard."""
    offsets: np.ndarray
    """int64 [documents + 1]: unit at which each begins."""
    index: NgramIndex
    vocabulary: Vocabulary | None
    """Units of words; None where units are tokens."""

    @property
    def num_documents(self) -> int:
        return len(self.places)

    def num_ngrams_of(self) -> np.ndarray:
        """Return how many n-grams begin in each document: int64 [documents]."""
        return np.maximum(np.diff(self.offsets) - self.index.n + 1, 0)


@dataclass
class _Gathered:
    units: list[np.ndarray] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    side_of: list[int] = field(default_factory=list)
    sides: list[Side] = field(default_factory=list)


def read_held_out(
    shards: Sequence[Shard],
    files: Sequence[Path],
    *,
    by: By,
    n: int,
    tokenizer: Tokenizer | None,
    text_field: str,
    num_token_ids: int,
) -> HeldOut:
    """Read all held-out documents and index their n-grams.

    Args: num_token_ids: vocabulary size of the tokenizer of both sides. Raises: UserError where no document has an n-gram.
    """
    gathered = _Gathered()
    vocabulary = Vocabulary() if by == "words" else None
    for shard in shards:
        for number, units in enumerate(_of_shard(shard, tokenizer, vocabulary)):
            _add(gathered, units, str(number))
        manifest = shard.manifest
        _close(gathered, str(shard.prefix), manifest.bin_sha256, manifest.idx_sha256)
    for path in files:
        reader = DocumentReader([path], text_field, labels=())
        for place, units in _of_file(reader, tokenizer, vocabulary):
            _add(gathered, units, place)
        (file,) = reader.input_files
        _close(gathered, str(path), _sha256(file), None)
    lengths = [len(units) for units in gathered.units]
    if max(lengths, default=0) < n:
        raise UserError(
            f"--ngram ({n}) must be at most the {by} of the longest document of --against, {max(lengths, default=0)}; --ngram "
            f"{max(1, min(8, max(lengths, default=1)))} works"
        )
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    index = NgramIndex(
        np.concatenate(gathered.units).astype(np.int32),
        offsets,
        n,
        num_units=num_token_ids if vocabulary is None else vocabulary.num_units,
    )
    return HeldOut(
        sides=tuple(gathered.sides),
        side_of=np.array(gathered.side_of, dtype=np.int32),
        places=gathered.places,
        offsets=offsets,
        index=index,
        vocabulary=vocabulary,
    )


def _add(gathered: _Gathered, units: np.ndarray, place: str) -> None:
    gathered.units.append(units)
    gathered.places.append(place)
    gathered.side_of.append(len(gathered.sides))


def _close(gathered: _Gathered, name: str, sha256: str, idx_sha256: str | None) -> None:
    """Note the side whose documents were added since the last one."""
    num_documents = len(gathered.places) - sum(side.num_documents for side in gathered.sides)
    gathered.sides.append(Side(name=name, sha256=sha256, idx_sha256=idx_sha256, num_documents=num_documents))


def _of_shard(shard: Shard, tokenizer: Tokenizer | None, vocabulary: Vocabulary | None) -> Iterator[np.ndarray]:
    if vocabulary is None:
        for tokens in documents_of(shard):
            yield text_of_document(shard, tokens)
        return
    assert tokenizer is not None, "words are of decoded text"
    check_decodes(shard, tokenizer)
    for tokens in documents_of(shard):
        yield vocabulary.learn(words_of(tokenizer.decode(tokens.tolist())))


def _of_file(
    reader: DocumentReader, tokenizer: Tokenizer | None, vocabulary: Vocabulary | None
) -> Iterator[tuple[str, np.ndarray]]:
    for batch in batches(reader, BATCH_BYTES):
        texts = [document.text for document in batch]
        if vocabulary is not None:
            found = [vocabulary.learn(words_of(text)) for text in texts]
        else:
            assert tokenizer is not None, "a text has tokens by a tokenizer"
            found = tokenizer.encode_batch(texts, num_threads=1)
        for document, units in zip(batch, found, strict=True):
            yield document.place, units


def _sha256(file: InputFile) -> str:
    if len(file.block_sha256) == 1:
        return file.block_sha256[0]
    return hashlib.sha256(b"".join(map(bytes.fromhex, file.block_sha256))).hexdigest()
