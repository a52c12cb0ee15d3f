"""Best-fit decreasing: pieces of documents are placed into rows, the longest first, each into the fullest row that has room.

Source: Ding et al., "Fewer Truncations Improve Language Modeling", 2024, arXiv:2404.10830. The rule is theirs. Pieces of one length
are placed together, which gives the same rows and makes the cost one of distinct lengths and rooms, not of pieces.

Letters: s sequence; a row has s + 1 tokens, as a sample of concatenated documents has.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

ALGORITHM = "best-fit-decreasing/1"
"""Name and version of everything that decides which tokens a row holds. A change of any of it is another version, since a run that
resumes would go on with other rows."""
GROUP_DOCUMENTS = 1 << 20
"""Consecutive documents that are packed by themselves, so that a shard of any size is packed in bounded memory."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Parts of documents that are placed whole, in the order of their tokens."""

    starts: np.ndarray
    """First token of each, in the shard: int64 [pieces]."""
    lengths: np.ndarray
    """Tokens of each, 1 to s + 1: int64 [pieces]."""


def num_pieces(lengths: np.ndarray, seq_length: int) -> np.ndarray:
    """Return how many pieces each document gives: int64 [documents]. Args: as ``pieces_of``."""
    return np.where(lengths > 0, np.maximum(1, -(-(lengths - 1) // seq_length)), 0)


def pieces_of(starts: np.ndarray, lengths: np.ndarray, seq_length: int) -> Pieces:
    """Cut documents into pieces. One that fits a row, of up to s + 1 tokens, is one piece.

    A longer one gives pieces of s + 1 tokens and one of what remains. Neighbours share a token: the last label of one is the
    first input of the next, so that every token of a document but its first is predicted once.

    Args: starts, lengths: first token and number of tokens of each document, int64 [documents].
    """
    counts = num_pieces(lengths, seq_length)
    document = np.repeat(np.arange(len(lengths)), counts)
    skipped = (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)) * seq_length
    return Pieces(
        starts=starts[document] + skipped,
        lengths=np.minimum(lengths[document] - skipped, seq_length + 1),
    )


def best_fit_rows(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Place pieces into rows of ``capacity`` tokens.

    Longest piece first, of equal ones the first; into the row with the least room that is enough, of equal rows the one that got
    that room last; into a new row where none has room.

    Args: lengths: int64 [pieces], from 1 to capacity. Returns: (row of each piece, int64 [pieces]; number of rows).
    """
    by_length = np.argsort(-lengths, kind="stable")
    distinct, counts = np.unique(lengths, return_counts=True)
    placed_in = np.empty(len(lengths), np.int64)  # of the pieces by length
    rows_with: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of rows_with, rising
    num_rows = at = 0

    def put(room: int, rows: list[int]) -> None:
        if not rows or not room:
            return
        if room in rows_with:
            rows_with[room] += rows
        else:
            rows_with[room] = rows
            insort(rooms, room)

    for length, left in zip(reversed(distinct.tolist()), reversed(counts.tolist()), strict=True):
        while left:
            index = bisect_left(rooms, length)
            room = rooms[index] if index < len(rooms) else capacity
            # The row that takes a piece stays the fullest with room for the next, so it takes as many as fit.
            each = room // length
            wanted = -(-left // each)
            if index == len(rooms):
                taken = list(range(num_rows, num_rows + wanted))
                num_rows += wanted
            elif wanted < len(rows_with[room]):
                taken = rows_with[room][: -wanted - 1 : -1]
                del rows_with[room][-wanted:]
            else:
                taken = rows_with.pop(room)[::-1]
                del rooms[index]
            placed = min(left, each * len(taken))
            placed_in[at : at + placed] = taken if each == 1 else np.repeat(taken, each)[:placed]
            in_last = placed - each * (len(taken) - 1)
            put(room - each * length, taken[:-1])
            put(room - in_last * length, taken[-1:])
            at, left = at + placed, left - placed
    row_of = np.empty(len(lengths), np.int64)
    row_of[by_length] = placed_in
    return row_of, num_rows
