"""The loss curves of a run, drawn from its records as they are read, newest first, in bounded memory."""

import math
from collections.abc import Iterator, Mapping

MAX_PIECES = 512
"""Pieces in which curves are kept: a dozen for each column that is drawn. An even number."""


class Curves:
    """The losses of each domain, as the means of at most MAX_PIECES pieces of equally many records."""

    def __init__(self) -> None:
        self._pieces: list[dict[str, tuple[float, int]]] = []
        self._size, self._in_last_piece = 1, 0
        self._ends: dict[str, tuple[float, float, int]] = {}

    def add(self, losses: Mapping[str, float | None]) -> None:
        """Take in the losses of the record before; null where one was not finite."""
        if not self._pieces or self._in_last_piece == self._size:
            if len(self._pieces) == MAX_PIECES:
                pairs = zip(self._pieces[::2], self._pieces[1::2], strict=True)
                self._pieces, self._size = [_together(*pair) for pair in pairs], 2 * self._size
            self._pieces.append({})
            self._in_last_piece = 0
        self._in_last_piece += 1
        piece = self._pieces[-1]
        for domain, loss in losses.items():
            if loss is not None:
                _, last, count = self._ends.get(domain, (loss, loss, 0))
                self._ends[domain] = (loss, last, count + 1)
                if math.isfinite(loss):
                    total, number = piece.get(domain, (0.0, 0))
                    piece[domain] = (total + loss, number + 1)

    def of_domains(self) -> Iterator[tuple[str, list[float | None], float, float]]:
        """Yield (domain, means of its pieces, its first and its last loss), oldest first, of domains with two losses or more."""
        for domain, (first, last, count) in sorted(self._ends.items()):
            if count > 1:
                pieces = (piece.get(domain) for piece in reversed(self._pieces))
                yield domain, [None if found is None else found[0] / found[1] for found in pieces], first, last


def _together(left: dict[str, tuple[float, int]], right: dict[str, tuple[float, int]]) -> dict[str, tuple[float, int]]:
    both = dict(left)
    for domain, (total, number) in right.items():
        before = both.get(domain, (0.0, 0))
        both[domain] = (before[0] + total, before[1] + number)
    return both
