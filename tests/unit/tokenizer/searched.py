"""Shards to be searched, and their occurrences by brute force."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tokenizer.search import build, candidates, index_file, scan
from tokenizer.search.find import Hit
from tokenizer.shards.shard import EncodeOptions, ShardWriter, open_shard
from tokenizer.vocabulary.folder import Tokenizer

Place = tuple[int, int, int]
"""Document, first byte and one past the last."""


@contextmanager
def small_sizes() -> Iterator[None]:
    """Blocks, groups, pages and pieces so small that a small shard has many, and texts lie over their borders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "BLOCK_TOKENS", 4)
        for module in (build, index_file):
            patch.setattr(module, "BLOCKS_PER_GROUP", 16)
            patch.setattr(module, "PAGE_BYTES", 64)
        patch.setattr(scan, "PIECE_TOKENS", 7)
        patch.setattr(scan, "TOKENS_PER_WINDOW", 2)
        patch.setattr(candidates, "MAX_ROWS", 5)
        yield


def write_shard(
    prefix: Path, tokenizer: Tokenizer, documents: Sequence[Sequence[int]], *, vocab_size: int | None = None
) -> Path:
    """Write documents of these ids."""
    with ShardWriter(
        prefix, vocab_size=vocab_size or tokenizer.vocab_size, tokenizer_sha256=tokenizer.model_sha256
    ) as writer:
        for ids in documents:
            writer.add_document(ids)
        options = EncodeOptions(append_bos=False, append_eos=False, text_field="text")
        writer.finish(domain=None, licence=None, source=None, input_files=(), options=options)
    return prefix


def texts_of(prefix: Path, tokenizer: Tokenizer) -> list[bytes]:
    """Return the text of every document, token by token."""
    shard, vocabulary = open_shard(prefix), tokenizer.token_bytes()
    texts = []
    for number in range(shard.num_documents):
        ids = [token for token in shard.document(number).tolist() if vocabulary.pieces[token]]
        dropped = int(vocabulary.dropped_in_front[ids[0]]) if ids else 0
        texts.append(b"".join(vocabulary.pieces[token] for token in ids)[dropped:])
    return texts


def by_brute_force(texts: Sequence[bytes], wanted: str) -> list[Place]:
    """Return every occurrence of a text, looked for at every byte."""
    found = wanted.encode()
    return [
        (document, at, at + len(found))
        for document, text in enumerate(texts)
        for at in range(len(text))
        if text.startswith(found, at)
    ]


def by_finditer(texts: Sequence[bytes], pattern: str) -> list[Place]:
    """Return every match of a regular expression that is not empty."""
    found = []
    for document, content in enumerate(texts):
        text = content.decode("utf-8", "surrogateescape")
        for match in re.finditer(pattern, text):
            start, end = (len(text[:at].encode("utf-8", "surrogateescape")) for at in match.span())
            found += [(document, start, end)] if start < end else []
    return found


def places_of(hits: Iterator[Hit]) -> list[Place]:
    """Return where hits lie."""
    return [(hit.document, hit.start_byte, hit.end_byte) for hit in hits]


def check_tokens(prefix: Path, tokenizer: Tokenizer, hits: Sequence[Hit]) -> None:
    """Check that the tokens of each hit are those that hold its bytes, and no more."""
    shard, pieces = open_shard(prefix), tokenizer.token_bytes().pieces
    for hit in hits:
        first = int(shard.document_offsets[hit.document])
        before = sum(len(pieces[token]) for token in shard.tokens[first : hit.start_token].tolist())
        held = [len(pieces[token]) for token in shard.tokens[hit.start_token : hit.end_token].tolist()]
        dropped = len(b"".join(pieces[token] for token in shard.document(hit.document).tolist())) - len(
            texts_of(prefix, tokenizer)[hit.document]
        )
        start, end = hit.start_byte + dropped, hit.end_byte + dropped
        assert before <= start < before + held[0]
        assert before + sum(held[:-1]) < end <= before + sum(held)
