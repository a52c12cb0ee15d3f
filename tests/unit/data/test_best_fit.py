"""Best-fit decreasing against the rule said plainly: same rows, nothing lost, nothing cut that fits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.packing import best_fit
from pretrain.data.packing.best_fit import best_fit_rows, num_pieces, pieces_of


def rows_by_the_rule(lengths: list[int], capacity: int) -> tuple[list[int], int]:
    """Row of each piece, and the number of rows, one piece after the other."""
    room: list[int] = []
    got_its_room: list[int] = []
    found = [0] * len(lengths)
    for clock, piece in enumerate(sorted(range(len(lengths)), key=lambda piece: (-lengths[piece], piece))):
        fitting = [row for row in range(len(room)) if room[row] >= lengths[piece]]
        if not fitting:
            room.append(capacity)
            got_its_room.append(clock)
            fitting = [len(room) - 1]
        row = min(fitting, key=lambda row: (room[row], -got_its_room[row]))
        room[row] -= lengths[piece]
        got_its_room[row] = clock
        found[piece] = row
    return found, len(room)


def assert_rows_of_the_rule(lengths: list[int], capacity: int) -> None:
    rows, num_rows = best_fit.best_fit_rows(np.array(lengths, np.int64), capacity)
    assert (rows.tolist(), num_rows) == rows_by_the_rule(lengths, capacity), "rows differ from the rule's"


def random_lengths(seed: int) -> tuple[list[int], int]:
    random = np.random.default_rng(seed)
    capacity = int(random.integers(1, 60))
    lengths = (random.integers(1, capacity + 1, 200), np.minimum(capacity, random.geometric(0.15, 200)))[seed % 2]
    return lengths.tolist(), capacity


@pytest.mark.parametrize("seed", range(40))
def test_random_pieces_go_where_the_rule_puts_them(seed: int) -> None:
    assert_rows_of_the_rule(*random_lengths(seed))


@given(capacity=st.integers(1, 30), data=st.data())
@settings(max_examples=200)
def test_any_pieces_go_where_the_rule_puts_them(capacity: int, data: st.DataObject) -> None:
    assert_rows_of_the_rule(data.draw(st.lists(st.integers(1, capacity), max_size=60)), capacity)


@pytest.mark.parametrize("fault", ["worst fit", "shortest first", "one row too full"])
def test_a_fault_in_the_placing_would_be_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "worst fit":
        monkeypatch.setattr(best_fit, "bisect_left", lambda rooms, length: len(rooms) - (rooms[-1:] >= [length]))
    elif fault == "shortest first":
        monkeypatch.setattr(best_fit, "reversed", lambda found: found, raising=False)
    else:
        sound = best_fit_rows
        monkeypatch.setattr(best_fit, "best_fit_rows", lambda lengths, capacity: sound(lengths, capacity + 1))
    noticed = 0
    for seed in range(40):
        try:
            assert_rows_of_the_rule(*random_lengths(seed))
        except AssertionError:
            noticed += 1
    assert noticed > 20


@given(lengths=st.lists(st.one_of(st.integers(0, 12), st.integers(0, 100)), max_size=40), seq_length=st.integers(1, 12))
@settings(max_examples=200)
def test_every_token_of_a_document_but_its_first_is_predicted_once(lengths: list[int], seq_length: int) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)[:-1]])[: len(lengths)].astype(np.int64)
    pieces = pieces_of(starts, np.array(lengths, np.int64), seq_length)
    assert num_pieces(np.array(lengths, np.int64), seq_length).sum() == len(pieces.starts)
    predicted, read = [], set()
    for start, length in zip(pieces.starts.tolist(), pieces.lengths.tolist(), strict=True):
        assert 1 <= length <= seq_length + 1
        predicted += range(start + 1, start + length)
        read |= set(range(start, start + length))
    begun = {start for start, length in zip(starts.tolist(), lengths, strict=True) if length}
    assert sorted(predicted) == [token for token in range(sum(lengths)) if token not in begun]
    assert read == set(range(sum(lengths)))
    whole = set(zip(pieces.starts.tolist(), pieces.lengths.tolist(), strict=True))
    for start, length in zip(starts.tolist(), lengths, strict=True):
        assert (start, length) in whole or not 1 <= length <= seq_length + 1, "a document that fits was cut"


def test_padding_is_little_where_short_documents_fill_what_long_ones_leave() -> None:
    random = np.random.default_rng(5)
    lengths = np.minimum(513, np.maximum(1, np.exp(random.normal(4.5, 1.2, 20_000)))).astype(np.int64)
    _, num_rows = best_fit_rows(lengths, 513)
    assert num_rows == -(-int(lengths.sum()) // 513), "no fewer rows could hold these tokens"
