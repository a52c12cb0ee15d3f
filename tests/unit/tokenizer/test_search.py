"""A search in a shard finds what brute force finds in the text of its documents: every occurrence, and nothing else."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tokenizer.searched import (
    by_brute_force,
    by_finditer,
    check_tokens,
    places_of,
    small_sizes,
    texts_of,
    write_shard,
)
from tokenizer.encoding.encode import encode
from tokenizer.search import anchor, build, candidates, decode, hits, scan
from tokenizer.search.build import build_index
from tokenizer.search.find import Search, find_text
from tokenizer.shards.shard import open_shard
from tokenizer.vocabulary.folder import Tokenizer
from tokenizer.vocabulary.load import load_tokenizer

FEW_BYTES = set(b" etas\n\xc3\xa9")
"""Bytes of which a few tokens give many occurrences."""


@pytest.fixture(scope="module")
def small(tokenizer_dir: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_dir)


def common_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids of few bytes, of tokens of single bytes, and of tokens without any."""
    return [token for token, piece in enumerate(tokenizer.token_bytes().pieces) if set(piece) <= FEW_BYTES]


documents = st.lists(st.lists(st.integers(0, 10_000), min_size=1, max_size=40), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(
    numbers=documents,
    spots=st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 60)), min_size=6, max_size=6
    ),
    text=st.text("etas \n", min_size=1, max_size=6),
    is_large=st.booleans(),
    pattern=st.sampled_from(["t+e", "sat|eat", "(?:es)+t", "a.{0,3}s", r"\bte", "t(?=e)", "eat[^s]*s", "é", "(?i)SE"]),
)
def test_every_occurrence_is_found_and_nothing_else(
    small: Tokenizer,
    numbers: list[list[int]],
    spots: list[tuple[int, int, int]],
    text: str,
    is_large: bool,
    pattern: str,
) -> None:
    ids = common_ids(small)
    with tempfile.TemporaryDirectory() as folder, small_sizes():
        prefix = write_shard(
            Path(folder) / "shard",
            small,
            [[ids[number % len(ids)] for number in document] for document in numbers],
            vocab_size=70_000 if is_large else None,
        )
        texts = texts_of(prefix, small)
        wanted = [text]
        for document, start, size in spots:
            found = texts[document % len(texts)]
            wanted.append(found[(at := start % (len(found) + 1)) : at + size].decode("utf-8", "ignore"))
        for indexed in (False, True):
            if indexed:
                build_index(prefix, small)
            for each in filter(None, wanted):
                found_hits = list(find_text(prefix, small, text=each))
                assert places_of(iter(found_hits)) == by_brute_force(texts, each)
                check_tokens(prefix, small, found_hits)
            assert places_of(find_text(prefix, small, regex=pattern)) == by_finditer(texts, pattern)


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "tokens that begin before a text or end behind it are forgotten": lambda patch: patch.setattr(
        anchor, "_beyond", lambda piece, text: iter(())
    ),
    "only the commonest neighbours are let pass": lambda patch: patch.setattr(
        anchor.Placements, "_flags", lambda self, chosen, _flags=anchor.Placements._flags: _flags(self, chosen & (self._begins % 2 == 0))
    ),
    "a text that goes on in the next block is forgotten": lambda patch: patch.setattr(
        candidates, "_reaching", lambda tables, num_bytes: iter(())
    ),
    "runs of bytes over the border of two blocks are forgotten": lambda patch: patch.setattr(
        build, "_tail", lambda content: b""
    ),
    "nothing beyond a piece is decoded": lambda patch: patch.setattr(
        scan, "reach", lambda text, document, tokens, before, behind: tokens
    ),
    "tokens without bytes end what is decoded": lambda patch: patch.setattr(
        scan,
        "reach",
        lambda text, document, tokens, before, behind: (
            max(document[0], tokens[0] - before),
            min(document[1], tokens[1] + behind),
        ),
    ),
    "overlapping occurrences are passed over": lambda patch: patch.setattr(
        scan,
        "occurrences",
        lambda content, text: np.array([at.start() for at in re.finditer(re.escape(text), content)], dtype=np.int64),
    ),
    "all documents are one": lambda patch: patch.setattr(
        "tokenizer.shards.shard.Shard.document_edges",
        lambda shard, start, count: (0, np.array([0, shard.num_tokens])),
    ),
    "ids are one off": lambda patch: patch.setattr(
        decode.Decoder, "decode", lambda self, tokens, _decode=decode.Decoder.decode: _decode(self, tokens // 2 * 2)
    ),
}  # fmt: skip


def differs(prefix: Path, tokenizer: Tokenizer, texts: list[bytes]) -> bool:
    """Whether the search finds something else than brute force for a number of texts, without an index or with one."""
    wanted = ["tete", "se", "e", "ss", "ee", " at", "sset", "taste", "étés", "teatea", "assessat"]
    wanted += [texts[0][at : at + 9].decode("utf-8", "ignore") for at in range(0, 200, 7)]
    for indexed in (False, True):
        if indexed:
            build_index(prefix, tokenizer)
        for each in filter(None, wanted):
            if places_of(find_text(prefix, tokenizer, text=each)) != by_brute_force(texts, each):
                return True
    return False


@pytest.fixture
def awkward(small: Tokenizer, tmp_path: Path) -> Path:
    """A shard whose first document is larger than many blocks, with tokens without bytes everywhere."""
    generator, ids = np.random.default_rng(5), common_ids(small)
    chosen = [generator.choice(ids, size).tolist() for size in (400, 3, 1, 50, 9, 200)]
    silent = list(small.control_ids)
    chosen.append([ids[-1], *silent * 30, ids[-2], *silent * 2, ids[-1]])
    return write_shard(tmp_path / "awkward", small, chosen)


def test_brute_force_agrees_on_the_awkward_shard(small: Tokenizer, awkward: Path) -> None:
    with small_sizes():
        assert not differs(awkward, small, texts_of(awkward, small))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(small: Tokenizer, awkward: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_of(awkward, small)
    with small_sizes():
        FAULTS[fault](monkeypatch)
        try:
            assert differs(awkward, small, texts)
        except ValueError as problem:  # the comparison with the tokenizer's own decoding comes first
            assert "cannot be searched" in str(problem)


def test_a_sentence_of_documents_is_found_in_real_sizes_with_what_is_around_it(
    small: Tokenizer, corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    encode(tokenizer_dir, [corpus / "train" / "code.jsonl"], tmp_path / "code")
    texts = texts_of(tmp_path / "code", small)
    shard = open_shard(tmp_path / "code")
    assert [small.decode(shard.document(number).tolist()).encode() for number in range(5)] == texts[:5]
    build_index(tmp_path / "code", small)
    together = b"".join(texts)
    number, middle = next(
        (number, middle)
        for number, middle in ((number, len(texts[number]) // 2) for number in range(10, len(texts)))
        if together.count(texts[number][middle : middle + 70]) == 1 and texts[number].isascii()
    )
    wanted = texts[number][middle : middle + 70].decode()
    (hit,) = find_text(tmp_path / "code", small, text=wanted)
    assert (hit.document, hit.start_byte) == (number, middle)
    around = texts[number][middle - hits.EXCERPT_BYTES : middle + 70 + hits.EXCERPT_BYTES].decode("utf-8", "ignore")
    assert hit.excerpt.strip() == around.strip()
    assert places_of(find_text(tmp_path / "code", small, text="def ")) == by_brute_force(texts, "def ")


def test_one_search_serves_many_shards(small: Tokenizer, tmp_path: Path) -> None:
    ids = common_ids(small)
    search = Search(small, text=small.decode(ids[-3:]))
    for number in range(3):
        prefix = write_shard(tmp_path / str(number), small, [ids[:5], ids[-3:] * number or ids[:1]])
        assert [hit.document for hit in search.find(open_shard(prefix))] == [1] * number


def test_a_text_is_found_as_the_tokenizer_prepares_documents(
    corpus: Path, tmp_path: Path, write_documents: Any
) -> None:
    from tokenizer.vocabulary.spec import TokenizerSpec
    from tokenizer.vocabulary.train import train_tokenizer

    spec = TokenizerSpec(vocab_size=400, normalization="nfc", remove_characters=["\r"])
    train_tokenizer(spec, [corpus / "train" / "prose.jsonl"], tmp_path / "nfc")
    encode(tmp_path / "nfc", [write_documents(tmp_path / "a.jsonl", ["un e\u0301te\u0301\r\nla"])], tmp_path / "shard")
    nfc = load_tokenizer(tmp_path / "nfc")
    for wanted in ("e\u0301te\u0301", "\u00e9t\u00e9", "\u00e9\r\nla"):
        assert len(list(find_text(tmp_path / "shard", nfc, text=wanted))) == 1
