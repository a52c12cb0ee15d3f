"""Figures as drafts print them: a text, and where it comes from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.convert.exporting.markdown import table
from pretrain.drafts.draft import Entry

MOST_ROWS = 50
"""Rows of a table, at most; of more, the largest are shown."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Something that the run tells."""

    text: str
    """Markdown."""
    where: tuple[str, ...]
    """Paths, as of ``Facts.follow``."""
    how: str = ""
    """How it follows from these, where it does not stand there as it is here."""


def entry(name: str, figure: Figure | None, *, missing: str, lacks: str = "") -> Entry:
    """Return an entry of a draft.

    Args: missing: what the provider has to state where there is no figure; lacks: where there is one.
    """
    if figure is None:
        return Entry(name=name, blank=missing)
    return Entry(name=name, value=figure.text, where=figure.where, how=figure.how, blank=lacks)


def blank(name: str, asked: str) -> Entry:
    """Return an entry that no run can tell."""
    return Entry(name=name, blank=asked)


def rows(head: Sequence[str], cells: Sequence[Sequence[str]], *, most: int = MOST_ROWS) -> str:
    """Return a table of the first rows, which says how many it leaves out. Its cells are Markdown already."""
    left_out = len(cells) - most
    more = f"\nAnd {left_out:,} more, which the ledger has (`fanal ledger RUN_DIR --json`)." if left_out > 0 else ""
    return (table(head, cells[:most]) + more).rstrip("\n")


def in_range(value: float, bounds: Sequence[tuple[float, str]], above: str) -> str:
    """Return the words of the first bound that a value is not above. Args: bounds: (upper end, words), rising."""
    return next((words for end, words in bounds if value <= end), above)


def scientific(value: float) -> str:
    """Return a number as a form asks for it, with three significant digits: 2.43 × 10^21; a small count as it is."""
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    exponent = math.floor(math.log10(abs(value)))
    mantissa = round(value / 10.0**exponent, 2)
    if abs(mantissa) >= 10:
        exponent, mantissa = exponent + 1, mantissa / 10
    return f"{mantissa:.2f} × 10^{exponent}"


def percent(part: float, whole: float) -> str:
    """Return a share, or a dash of nothing."""
    return f"{100 * part / whole:.2f} %" if whole else "–"
