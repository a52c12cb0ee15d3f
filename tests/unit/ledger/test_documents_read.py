"""Tokens read of each document, against a plain loop over every draw."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.order import ChunkOrder, ChunkOrders
from pretrain.data.packing import plan as plan_module
from pretrain.data.packing.kept_plans import plan_folder
from pretrain.data.packing.packed_order import PackedOrder
from pretrain.ledger import documents_read as documents_read_module
from pretrain.ledger import reads as reads_module
from pretrain.ledger.documents_read import DocumentCounts, Use, count_documents
from tests.unit.ledger.made_shards import make_shard
from tokenizer.shards.shard import Shard


@dataclass
class Plain:
    """The same counts, token by token."""

    tokens: np.ndarray
    distinct: np.ndarray
    in_all: np.ndarray


def plainly(shard: Shard, uses: list[Use], num_parts: int) -> Plain:
    """Follow every draw of every use."""
    size = shard.num_tokens
    predicted, read = np.zeros((num_parts, size), np.int64), np.zeros((num_parts, size), bool)
    for use in uses:
        for draw in range(use.first_draw, use.end_draw):
            for start, length in pieces_of_draw(use.order, draw):
                predicted[use.part, start + 1 : start + length] += 1
                read[use.part, start : start + length] = True
    document = np.repeat(np.arange(shard.num_documents), np.diff(shard.document_offsets))

    def by_document(values: np.ndarray) -> np.ndarray:
        return np.array([np.bincount(document, row, shard.num_documents) for row in values]).astype(np.int64)

    return Plain(by_document(predicted), by_document(read), by_document(np.any(read, axis=0, keepdims=True))[0])


def pieces_of_draw(order: ChunkOrder | PackedOrder, draw: int) -> list[tuple[int, int]]:
    if isinstance(order, ChunkOrder):
        return [(order.start_token(draw), order.seq_length + 1)]
    row = ChunkOrders([order]).start_tokens(np.zeros(1, np.int64), np.array([draw]))[0]
    return list(zip(*order.plan.pieces(int(row)), strict=True))


def together(blocks: list[DocumentCounts]) -> Plain:
    assert [block.first_document for block in blocks] == np.cumsum([0, *(len(b.bounds) - 1 for b in blocks)])[
        :-1
    ].tolist()
    return Plain(
        np.concatenate([block.tokens for block in blocks], axis=1),
        np.concatenate([block.distinct for block in blocks], axis=1),
        np.concatenate([block.distinct_in_all for block in blocks]),
    )


def same(one: Plain, other: Plain) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "distinct", "in_all"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what lies across blocks and groups is there."""
    monkeypatch.setattr(documents_read_module, "BLOCK_DOCUMENTS", 7)
    monkeypatch.setattr(documents_read_module, "BLOCK_TOKENS", 90)
    monkeypatch.setattr(reads_module, "AT_ONCE", 3)
    for module in (reads_module, plan_module):
        monkeypatch.setattr(module, "GROUP_DOCUMENTS", 6)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], int, list[tuple[bool, int, int, int, int]]]:
    """Lengths of documents, how many of them are held out, and (packed, seq_length, key, first draw, draws) of each use."""
    lengths = draw(st.lists(st.integers(1, 60), min_size=4, max_size=30).filter(lambda found: sum(found[:-2]) > 14))
    held_out = draw(st.integers(0, 2))
    use = st.tuples(st.booleans(), st.integers(1, 13), st.integers(0, 1), st.integers(0, 40), st.integers(0, 60))
    return lengths, held_out, draw(st.lists(use, min_size=1, max_size=4))


def uses_of(shard: Shard, held_out: int, stated: list[tuple[bool, int, int, int, int]], folder: Path) -> list[Use]:
    num_tokens = int(shard.document_offsets[shard.num_documents - held_out])
    uses = []
    for part, (packed, length, key, first, count) in enumerate(stated):
        common = {"num_tokens": num_tokens, "seq_length": length, "key": str(key), "name": "made"}
        order = (
            PackedOrder(shard=shard, folder=plan_folder(folder, writes=False), **common)
            if packed
            else ChunkOrder(**common)
        )
        uses.append(Use(part=part % 3, order=order, first_draw=first, end_draw=first + count))
    return uses


@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_a_loop_over_every_draw(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[list[int], int, list[tuple[bool, int, int, int, int]]]
) -> None:
    lengths, held_out, stated = case
    folder = tmp_path_factory.mktemp("made")
    shard = make_shard(folder / "shard", lengths)
    uses = uses_of(shard, held_out, stated, folder)
    assert same(together(list(count_documents(shard, uses, num_parts=3))), plainly(shard, uses, 3))


@pytest.mark.parametrize("fault", ["offsets of epochs ignored", "first token predicted", "part of an epoch left out"])
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str) -> None:
    shard = make_shard(tmp_path / "shard", [5, 9, 31, 2, 17, 40, 3, 3, 8, 21])
    uses = uses_of(shard, 1, [(False, 7, 0, 3, 60), (False, 7, 0, 63, 11)], tmp_path)
    plain = plainly(shard, uses, 3)
    if fault == "offsets of epochs ignored":
        found = reads_module._whole_epochs
        monkeypatch.setattr(reads_module, "_whole_epochs", lambda *of: (found(*of)[0] * 0, found(*of)[1]))
    elif fault == "first token predicted":
        ramp = documents_read_module._ramp
        monkeypatch.setattr(
            documents_read_module, "predicted_in",
            lambda spans, bounds: np.diff(ramp(spans.starts, spans.times, bounds) - ramp(spans.ends, spans.times, bounds)),
        )  # fmt: skip
    else:
        epochs_of = reads_module.epochs_of
        monkeypatch.setattr(reads_module, "epochs_of", lambda *draws: (epochs_of(*draws)[0], epochs_of(*draws)[1][:1]))
    assert not same(together(list(count_documents(shard, uses, num_parts=3))), plain)


def test_all_tokens_are_those_that_were_consumed(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "shard", [50] * 40)
    uses = uses_of(shard, 0, [(False, 9, 0, 0, 500), (False, 9, 0, 500, 77)], tmp_path)
    counts = together(list(count_documents(shard, uses, num_parts=2)))
    assert counts.tokens.sum(axis=1).tolist() == [500 * 9, 77 * 9]
