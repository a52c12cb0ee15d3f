"""Training shards are searched for the n-grams of the held-out side: one pass, in bounded memory.

For each training document that shares an n-gram, the distinct n-grams that it shares are counted, and for each held-out document
the training documents that share most with it are kept.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tokenizer.overlap.held_out import HeldOut
from tokenizer.overlap.units import Stretch
from tokenizer.shards.shard import Shard

KEPT_PLACES = 3
"""Training documents that are named for each held-out one: those that share most with it."""
PENDING_NGRAMS = 1 << 20
"""N-grams found, from which on those of complete documents are counted."""
PAIRS_AT_ONCE = 1 << 22
NO_PLACE = -1


@dataclass
class ShardFindings:
    """What one training shard shares with the held-out side."""

    shard: Shard
    found: np.ndarray
    """bool [n-grams of the index]: those that the shard holds."""
    documents: list[np.ndarray] = field(default_factory=list)
    """int64: numbers of its documents that share at least ``min_ngrams`` distinct n-grams, ascending."""

    @property
    def num_documents(self) -> int:
        return sum(map(len, self.documents))


class Findings:
    """What all training shards share with the held-out side.

    Attributes: shards; num_sharing, int64 [held-out documents]: training documents that share an n-gram with each; best, int64
    [held-out documents, KEPT_PLACES, 3]: (n-grams shared, number of the shard, document) of those that share most, the most first.
    """

    def __init__(self, held_out: HeldOut, *, min_ngrams: int) -> None:
        self.shards: list[ShardFindings] = []
        self._held_out = held_out
        self._min_ngrams = min_ngrams
        self.num_sharing = np.zeros(held_out.num_documents, dtype=np.int64)
        self.best = np.full((held_out.num_documents, KEPT_PLACES, 3), NO_PLACE, dtype=np.int64)
        self.best[:, :, 0] = 0
        self._holder_offsets, self._holders = _holders(held_out)

    def scan(self, shard: Shard, stretches: Iterable[Stretch]) -> Iterator[int]:
        """Search one more shard; yields the tokens done. Raises: DamagedShardError."""
        index = self._held_out.index
        findings = ShardFindings(shard=shard, found=np.zeros(index.num_ngrams, dtype=bool))
        self.shards.append(findings)
        pending = _Pending(index.num_ngrams)
        for stretch in stretches:
            places, ngrams = index.find(stretch.units)
            if len(places):
                pending.add(*_inside_documents(stretch, places, ngrams, index.n))
            if pending.is_full:
                self._count(findings, *pending.take(but_last=True))
            yield stretch.end_token
        self._count(findings, *pending.take(but_last=False))

    def _count(self, findings: ShardFindings, documents: np.ndarray, ngrams: np.ndarray) -> None:
        """Count complete documents. Args: distinct pairs, int64 [pairs] both, ascending."""
        if not len(documents):
            return
        findings.found[ngrams] = True
        numbers, counts = np.unique(documents, return_counts=True)
        findings.documents.append(numbers[counts >= self._min_ngrams])
        multiples = self._holder_offsets[ngrams + 1] - self._holder_offsets[ngrams]
        for held in _cut_at_documents(documents, multiples):
            self._pair(len(self.shards) - 1, documents[held], ngrams[held], multiples[held])

    def _pair(self, shard_number: int, documents: np.ndarray, ngrams: np.ndarray, multiples: np.ndarray) -> None:
        """Count the n-grams that each training document shares with each held-out one."""
        ends = np.cumsum(multiples)
        steps = np.arange(int(ends[-1])) - np.repeat(ends - multiples, multiples)
        holders = self._holders[np.repeat(self._holder_offsets[ngrams], multiples) + steps]
        first, count = int(documents[0]), len(self.num_sharing)
        keys, shared = np.unique(np.repeat(documents - first, multiples) * count + holders, return_counts=True)
        sharing, holder = first + keys // count, keys % count
        np.add.at(self.num_sharing, holder, 1)
        touched = np.unique(holder)
        known = self.best[touched].reshape(-1, 3)
        rows = np.concatenate([np.stack([shared, np.full(len(keys), shard_number), sharing], axis=1), known])
        owner = np.concatenate([holder, np.repeat(touched, KEPT_PLACES)])
        shards = np.where(rows[:, 1] == NO_PLACE, len(self.shards), rows[:, 1])  # places not taken come last
        order = np.lexsort((rows[:, 2], shards, -rows[:, 0], owner))
        rows, owner = rows[order], owner[order]
        starts = np.searchsorted(owner, touched)
        self.best[touched] = rows[starts[:, None] + np.arange(KEPT_PLACES)]


class _Pending:
    """N-grams found in documents that may go on."""

    def __init__(self, num_ngrams: int) -> None:
        self._num_ngrams = num_ngrams
        self._documents: list[np.ndarray] = []
        self._ngrams: list[np.ndarray] = []
        self._size, self._limit = 0, PENDING_NGRAMS

    @property
    def is_full(self) -> bool:
        return self._size >= self._limit

    def add(self, documents: np.ndarray, ngrams: np.ndarray) -> None:
        self._documents.append(documents)
        self._ngrams.append(ngrams)
        self._size += len(documents)

    def take(self, *, but_last: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return distinct (document, n-gram) pairs, ascending; those of the last document stay, if it may go on."""
        empty = np.empty(0, np.int64)
        documents, ngrams = np.concatenate([empty, *self._documents]), np.concatenate([empty, *self._ngrams])
        order = np.lexsort((ngrams, documents))
        documents, ngrams = documents[order], ngrams[order]
        is_new = np.ones(len(documents), dtype=bool)
        is_new[1:] = (documents[1:] != documents[:-1]) | (ngrams[1:] != ngrams[:-1])
        documents, ngrams = documents[is_new], ngrams[is_new]
        cut = int(np.searchsorted(documents, documents[-1])) if but_last and len(documents) else len(documents)
        self._documents, self._ngrams = [documents[cut:]], [ngrams[cut:]]
        self._size = len(documents) - cut
        self._limit = max(PENDING_NGRAMS, 2 * self._size)
        return documents[:cut], ngrams[:cut]


def _inside_documents(
    stretch: Stretch, places: np.ndarray, ngrams: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (document, n-gram) of those found that lie within one document: int64 both."""
    first, begins = stretch.documents()
    before = np.searchsorted(begins, places, side="right")
    inside = np.searchsorted(begins, places + n - 1, side="right") == before
    return first + before[inside], ngrams[inside]


def _cut_at_documents(documents: np.ndarray, multiples: np.ndarray) -> Iterator[slice]:
    """Yield slices of whole documents with about PAIRS_AT_ONCE pairs, one document at least."""
    ends = np.cumsum(multiples)
    last_of_document = np.append(np.flatnonzero(documents[1:] != documents[:-1]), len(documents) - 1)
    begin = given = 0
    while begin < len(documents):
        wanted = np.searchsorted(ends, given + PAIRS_AT_ONCE)
        at = min(int(np.searchsorted(last_of_document, wanted, side="right")), len(last_of_document)) - 1
        here = int(np.searchsorted(last_of_document, begin))
        end = int(last_of_document[max(at, here)]) + 1
        yield slice(begin, end)
        begin, given = end, int(ends[end - 1])


def _holders(held_out: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Return where the held-out documents of each n-gram begin, and these, each once: int64 [n-grams + 1], int64 [holders]."""
    ngram_of = held_out.index.ngram_of
    document = np.repeat(np.arange(held_out.num_documents), np.diff(held_out.offsets))
    is_one = ngram_of >= 0
    keys = np.unique(ngram_of[is_one] * held_out.num_documents + document[is_one])
    ngrams, holders = keys // held_out.num_documents, keys % held_out.num_documents
    return np.searchsorted(ngrams, np.arange(held_out.index.num_ngrams + 1)), holders
