"""The dates that documents state, from the column ``date`` of their shards, where they are dates of ISO 8601.

A date is YYYY, YYYY-MM or YYYY-MM-DD, whatever follows it; anything else, and a year before 1000 or after 2999, is no date. What it
means, the day of writing or that of collection, is known to whoever made the documents.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow
from pyarrow.compute import ExtractRegexOptions, StructFieldOptions, call_function

from tokenizer.shards.document_columns import DocumentColumns
from tokenizer.shards.rows_in_turn import RowsInTurn

COLUMN = "date"
ISO = r"(?s)^(?P<date>[12][0-9]{3}(?:-(?:0[1-9]|1[0-2])(?:-(?:0[1-9]|[12][0-9]|3[01]))?)?)(?:[^0-9-].*)?$"


@dataclass(frozen=True, kw_only=True)
class Dates:
    """The dates of the documents that were read."""

    first: str | None = None
    """The earliest one, as it is written there, at most to the day; None if there is none."""
    last: str | None = None
    documents: int = 0
    """Documents that state a date."""
    other_documents: int = 0
    """Documents that state none, or something else."""

    def and_of(self, other: "Dates") -> "Dates":
        """Return both together."""
        firsts = [date for date in (self.first, other.first) if date is not None]
        lasts = [date for date in (self.last, other.last) if date is not None]
        return Dates(
            first=min(firsts, default=None),
            last=max(lasts, default=None),
            documents=self.documents + other.documents,
            other_documents=self.other_documents + other.other_documents,
        )


class DocumentDates:
    """The dates of a shard's documents, taken in order."""

    def __init__(self, columns: DocumentColumns | None) -> None:
        has_dates = columns is not None and COLUMN in columns.names
        self._rows = RowsInTurn(columns, (COLUMN,)) if columns is not None and has_dates else None

    def take(self, was_read: np.ndarray) -> Dates:
        """Return the dates of the next documents, of those among them that were read: bool [D]."""
        count = int(was_read.sum())
        if self._rows is None:
            return Dates(other_documents=count)
        column = self._rows.take(len(was_read)).column(COLUMN).cast(pyarrow.string())
        found = call_function("extract_regex", [column.filter(pyarrow.array(was_read))], ExtractRegexOptions(ISO))
        dates = call_function("struct_field", [found], StructFieldOptions(["date"])).drop_null()
        ends = call_function("min_max", [dates])
        return Dates(
            first=ends["min"].as_py(),
            last=ends["max"].as_py(),
            documents=len(dates),
            other_documents=count - len(dates),
        )
