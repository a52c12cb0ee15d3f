"""The dates of a shard's documents, against a loop over them with Python's own dates."""

import datetime
import re
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.ledger import document_dates
from pretrain.ledger.document_dates import Dates, DocumentDates

VALUES = [
    None, "", "2019", "2019-05", "2019-05-01", "2019-05-01T10:00:00Z", "2019 or so", "2020-02-29 x", "1789-07-14", "2019-13-01",
    "20190501", "2019-05-01-2", "0999", "3000-01-01", "yesterday", "2021\nx", "2019-00-10", " 2018", "2024-01-32",
]  # fmt: skip


class Columns:
    """The column of dates, some rows at a time."""

    def __init__(self, dates: list[str | None], rows: int = 3) -> None:
        self.names = ("file", "date")
        self._dates, self._rows = dates, rows

    def batches(self, names: tuple[str, ...]) -> Iterator[pyarrow.RecordBatch]:
        assert names == ("date",)
        for at in range(0, len(self._dates), self._rows):
            part = pyarrow.array(self._dates[at : at + self._rows], pyarrow.string())
            yield pyarrow.record_batch({"date": part})


def date_in(value: str | None) -> str | None:
    """What of a value is a date: a year, a month or a day, and behind it something that goes on no number."""
    found = re.match(r"\d{4}(-\d\d(-\d\d)?)?", value or "")
    if found is None or (value or "")[found.end() :][:1] in {*"0123456789-"} or not "1000" <= found[0][:4] <= "2999":
        return None
    parts = [int(part) for part in found[0].split("-")]
    try:
        datetime.date(*[*parts, 1, 1][:3])
    except ValueError:
        return None
    return found[0]


def counted(dates: list[str | None], was_read: list[bool], blocks: int) -> Dates:
    column, found = DocumentDates(Columns(dates)), Dates()  # type: ignore[arg-type]
    for part in np.array_split(np.array(was_read, bool), blocks):
        found = found.and_of(column.take(part))
    return found


def by_hand(dates: list[str | None], was_read: list[bool]) -> Dates:
    found = [date_in(date) for date, read in zip(dates, was_read, strict=True) if read]
    known = [date for date in found if date is not None]
    return Dates(
        first=min(known, default=None), last=max(known, default=None), documents=len(known), other_documents=len(found) - len(known)
    )  # fmt: skip


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(st.sampled_from(VALUES), st.booleans()), min_size=1, max_size=30), blocks=st.integers(1, 4)
)
def test_dates_are_those_of_a_loop_over_the_documents_that_were_read(
    rows: list[tuple[str | None, bool]], blocks: int
) -> None:
    dates, was_read = ([row[at] for row in rows] for at in (0, 1))
    assert counted(dates, was_read, blocks) == by_hand(dates, was_read)  # type: ignore[arg-type]


def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [True] * len(VALUES)
    assert counted(VALUES, everything, 2) == by_hand(VALUES, everything)
    monkeypatch.setattr(document_dates, "ISO", r"(?s)^(?P<date>[0-9]{4}).*$")
    assert counted(VALUES, everything, 2) != by_hand(VALUES, everything)


def test_a_shard_without_the_column_has_no_dates() -> None:
    for columns in (None, SimpleNamespace(names=("file", "host"))):
        found = DocumentDates(columns).take(np.array([True, False, True]))  # type: ignore[arg-type]
        assert found == Dates(other_documents=2)
