"""Sums by language, licence and host, against a plain loop over documents."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pretrain.ledger import documents_read as documents_read_module
from pretrain.ledger.documents_read import DocumentCounts, document_blocks
from pretrain.ledger.labels_of_documents import DIMENSIONS, DocumentLabels
from pretrain.ledger.tally import Amount, Tally
from tests.unit.ledger.made_shards import make_shard
from tokenizer.shards.document_columns import open_columns
from tokenizer.shards.shard import Shard

LENGTHS = [3, 8, 5, 13, 2, 7, 9, 4, 6, 11, 1, 12, 5]
HOSTS = ["a.fr", None, "b.org", "a.fr", "c.de", "b.org", "a.fr", None, "c.de", "c.de", "a.fr", "d.eu", "b.org"]
LANGUAGES = ["fr", "en", None, "fr", "de", "en", "fr", None, "de", "de", "fr", "en", "en"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_read_module, "BLOCK_DOCUMENTS", 4)
    monkeypatch.setattr(documents_read_module, "BLOCK_TOKENS", 20)


def with_columns(folder: Path) -> Shard:
    return make_shard(
        folder / "shard", LENGTHS, licence="cc-by-4.0", language="mul", columns={"language": LANGUAGES, "host": HOSTS}
    )


def blocks_of(shard: Shard, tokens: np.ndarray) -> list[DocumentCounts]:
    """Blocks in which each part read so many tokens of each document, and the first of them repeatedly."""
    return [
        DocumentCounts(
            first_document=first,
            bounds=bounds,
            tokens=tokens[:, first : first + len(bounds) - 1],
            distinct=np.minimum(tokens[:, first : first + len(bounds) - 1], np.diff(bounds)),
            distinct_in_all=np.minimum(tokens.max(axis=0)[first : first + len(bounds) - 1], np.diff(bounds)),
        )
        for first, bounds in document_blocks(shard)
    ]


def tallied(shard: Shard, tokens: np.ndarray, available: list[int]) -> dict[str, Tally]:
    labels = DocumentLabels(shard.manifest, open_columns(shard.prefix, shard.manifest))
    found = {name: Tally(len(tokens)) for name in DIMENSIONS}
    for block in blocks_of(shard, tokens):
        for name, values in labels.take(len(block.bounds) - 1).items():
            found[name].add(block, values, available)
    return found


def plainly(names: list[str | None], tokens: list[int], readable: list[bool]) -> dict[str | None, Amount]:
    sums: dict[str | None, Counter[str]] = {}
    for name, length, read, may in zip(names, LENGTHS, tokens, readable, strict=True):
        sums.setdefault(name, Counter()).update(
            tokens=read, distinct_tokens=min(read, length), documents=int(read > 0), available_tokens=length * may,
            available_documents=int(may),
        )  # fmt: skip
    names_of = ("tokens", "distinct_tokens", "documents", "available_tokens", "available_documents")
    return {
        name: Amount(**{field: counts[field] for field in names_of})
        for name, counts in sums.items()
        if any(counts.values())
    }


def test_amounts_are_those_of_a_loop_over_documents(tmp_path: Path) -> None:
    shard = with_columns(tmp_path)
    tokens = np.random.default_rng(1).integers(0, 30, (2, len(LENGTHS))) * np.array([[1], [3]])
    tokens[:, 2], tokens[1, 11:] = 0, 0
    trained = int(shard.document_offsets[11])
    found = tallied(shard, tokens, [shard.num_tokens, trained])
    stated = {
        "host": HOSTS, "language": [name or "mul" for name in LANGUAGES], "licence": ["cc-by-4.0"] * len(LENGTHS),
    }  # fmt: skip
    for name, names in stated.items():
        assert found[name].amounts(0) == plainly(names, tokens[0].tolist(), [True] * len(LENGTHS)), name
        of_second = plainly(names, tokens[1].tolist(), [number < 11 for number in range(len(LENGTHS))])
        assert found[name].amounts(1) == of_second, name
        both = found[name].amounts(None)
        assert sum(amount.tokens for amount in both.values()) == tokens.sum()
        distinct = np.minimum(tokens.max(axis=0), LENGTHS)
        assert sum(amount.distinct_tokens for amount in both.values()) == distinct.sum()
        assert sum(amount.documents for amount in both.values()) == (distinct > 0).sum()
        assert sum(amount.available_tokens for amount in both.values()) == sum(LENGTHS)


def test_the_largest_label_comes_first_and_a_part_without_a_shard_has_none_of_it(tmp_path: Path) -> None:
    shard = with_columns(tmp_path)
    tokens = np.array([[1] * len(LENGTHS), [0] * len(LENGTHS)])
    found = tallied(shard, tokens, [shard.num_tokens, 0])["host"]
    assert list(found.amounts(0)) == ["a.fr", "c.de", "b.org", None, "d.eu"]
    counts = [amount.tokens for amount in found.amounts(0).values()]
    assert counts == sorted(counts, reverse=True)
    assert found.amounts(1) == {}


def test_a_shard_without_columns_has_the_labels_of_its_manifest(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "shard", LENGTHS, licence="mit")
    found = tallied(shard, np.ones((1, len(LENGTHS)), np.int64), [shard.num_tokens])
    assert list(found["licence"].amounts(0)) == ["mit"]
    assert list(found["language"].amounts(0)) == list(found["host"].amounts(0)) == [None]


def test_many_labels_are_all_kept(tmp_path: Path) -> None:
    lengths = [2] * 200
    shard = make_shard(tmp_path / "shard", lengths, columns={"host": [f"h{number % 150}.org" for number in range(200)]})
    labels = DocumentLabels(shard.manifest, open_columns(shard.prefix, shard.manifest))
    tally = Tally(1)
    for block in blocks_of(shard, np.full((1, 200), 3)):
        tally.add(block, labels.take(len(block.bounds) - 1)["host"], [shard.num_tokens])
    amounts = tally.amounts(None)
    assert len(amounts) == 150
    assert {amount.tokens for amount in amounts.values()} == {3, 6}
