"""A long document in windows of a model's length: every token behind the first is predicted once, with all the context that fits.

A window predicts as many tokens as a model's longest sequence has, the last one what is left. Its inputs are the tokens in front
of its last target, as many as fit: so the last window has a full context, of which it scores the end. These are the windows of
lm-eval's ``loglikelihood_rolling``.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True)
class Window:
    """Tokens that a model reads, and what it is to predict."""

    inputs: Sequence[int]
    targets: Sequence[int]
    """What follows each of the last inputs."""
    document: int


def windows_of(ids: Sequence[int], *, max_length: int, document: int = 0) -> Iterator[Window]:
    """Yield the windows of a document. Args: max_length: tokens that a model reads at a time, at most."""
    for start in range(1, len(ids), max_length):
        end = min(start + max_length, len(ids))
        yield Window(inputs=ids[max(0, end - 1 - max_length) : end - 1], targets=ids[start:end], document=document)


def batches_of(windows: Iterable[Window], *, rows: int, ahead: int) -> Iterator[list[Window]]:
    """Yield windows in batches of at most ``rows``, of ``ahead`` windows those of like length together."""
    stream = iter(windows)
    while some := sorted(islice(stream, ahead), key=lambda window: len(window.inputs)):
        for first in range(0, len(some), rows):
            yield some[first : first + rows]
