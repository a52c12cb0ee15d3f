"""Sample number -> source, by arithmetic: no index to build, none to store.

Samples come in blocks. In every block a source gets its exact share, rounded up or down (error below one sample), and over
the whole run the roundings even out exactly, so that a weight of one in a million is served too. Within a block the
sources are mixed in a seeded order.

How: lay the sources side by side on a line, each as long as its share of a block, and put a grid of points with spacing 1
on the line, shifted by an offset that moves in each block. A source owns the points that fall on it. The offsets of all
blocks are an arithmetic sequence modulo RESOLUTION, so the points a source owned in all earlier blocks are counted by a
sum of floors, in time logarithmic in the block's number. From there on, blocks are walked by adding their counts.

Letters: n samples asked for, w blocks, S sources, B = BLOCK_SAMPLES.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from fanal.splitmix import mix64
from pretrain.data.order import random_keys

BLOCK_SAMPLES = 256
RESOLUTION_BITS = 40
RESOLUTION = 2**RESOLUTION_BITS
"""Shares are rounded to BLOCK_SAMPLES / RESOLUTION."""
OFFSET_STEP = (
    679_891_637_639  # odd, so that every offset comes by; near RESOLUTION / golden ratio, so that they spread evenly
)
CELLS_AT_ONCE = 2**16
"""Blocks times sources that are worked on at once: small enough for the cache of a core, large enough for numpy."""
AT_ONCE_BLOCKS = 2**40
"""Blocks up to which the sums of floors are taken with 64-bit integers: 2.8e14 samples."""
SPREAD_SAMPLES = 4
"""Samples by which a source is about never ahead of its share or behind it: where the search for a draw's block begins."""
WALKED_BLOCKS = 1024
"""A gap of more blocks than this is crossed by a sum of floors."""


@dataclass(frozen=True)
class Blend:
    """A mixture of sources."""

    weights: tuple[float, ...]
    """One positive number per source; only the ratios matter."""
    key: str
    """Seed and phase, which make the order of this blend different from another's."""

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, draw within that source) of each sample number.

        The draws of a source count 0, 1, 2, ... in the order of the samples, without a gap: the samples before any
        number hold exactly the first draws of each source.

        Args: int64 [n], not negative, in any order. Sorted numbers near each other are cheapest.
        Returns: two int64 [n].
        """
        blocks, block_index = np.unique(samples // BLOCK_SAMPLES, return_inverse=True)
        place = samples % BLOCK_SAMPLES
        sources, draws = np.empty(len(samples), np.int64), np.empty(len(samples), np.int64)
        for first, end, in_blocks, block_draws in self._walk(blocks):
            wanted = np.flatnonzero((block_index >= first) & (block_index < end))
            at = block_index[wanted] - first, place[wanted]
            sources[wanted], draws[wanted] = in_blocks[at], block_draws[at]
        return sources, draws

    def samples_of(self, source: int, draws: np.ndarray) -> np.ndarray:
        """Return the sample number of each draw of one source: ``locate`` backwards, at a cost that knows no other source.

        Args: draws: int64 [n], not negative, in any order. Returns: int64 [n].
        """
        blocks = self._blocks_of(source, draws)
        nth = draws - self._drawn_from(source, blocks)  # of the source's samples in the block
        found = np.empty(len(draws), np.int64)
        rows = CELLS_AT_ONCE // BLOCK_SAMPLES
        for at in (slice(first, first + rows) for first in range(0, len(draws), rows)):
            points = self._points_before(blocks[at])[:, source : source + 2, None]  # the source's first, and its end
            place = self._places(blocks[at])
            point = np.arange(BLOCK_SAMPLES)
            own = (point >= points[:, 0]) & (point < points[:, 1])
            rising = np.sort(np.where(own, place, BLOCK_SAMPLES), axis=1)
            found[at] = blocks[at] * BLOCK_SAMPLES + np.take_along_axis(rising, nth[at, None], axis=1)[:, 0]
        return found

    def _blocks_of(self, source: int, draws: np.ndarray) -> np.ndarray:
        """Return the block that each draw of a source lies in: the last one before which no more were drawn. int64 [n]."""
        share = (self.edges[source + 1] - self.edges[source]) / RESOLUTION  # samples in a block, on average
        steady, reach = (draws / share).astype(np.int64), int(SPREAD_SAMPLES / share) + 1
        while True:
            low, high = np.maximum(steady - reach, 0), steady + reach
            if (self._drawn_from(source, low) <= draws).all() and (self._drawn_from(source, high) > draws).all():
                break
            reach *= 2
        while (high - low).max(initial=0) > 1:
            middle = (low + high) // 2
            is_before = self._drawn_from(source, middle) <= draws
            low, high = np.where(is_before, middle, low), np.where(is_before, high, middle)
        return low

    def _drawn_from(self, source: int, blocks: np.ndarray) -> np.ndarray:
        """Return the samples of one source in all blocks before each of ``blocks``: int64 [n]."""
        if blocks.size and blocks.max() >= AT_ONCE_BLOCKS:
            return np.array([self.drawn_by_sums(block)[source] for block in blocks.tolist()], np.int64)
        lower, upper = (_points_up_to(self._edge_array[at : at + 1], blocks) for at in (source, source + 1))
        return upper - lower

    def drawn(self, sample: int) -> np.ndarray:
        """Count the samples before number ``sample`` that come from each source: int64 [S]."""
        block, place = divmod(sample, BLOCK_SAMPLES)
        counts = self._drawn_before(block)
        if place:
            _, _, sources, _ = next(self._walk(np.array([block], np.int64)))
            counts = counts + np.bincount(sources[0, :place], minlength=len(self.weights))
        return counts

    def _walk(self, blocks: np.ndarray) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Blocks [w], rising: in parts (first, end, sources, draws), the last two [end - first, B] for blocks[first:end]."""
        span = max(1, CELLS_AT_ONCE // len(self.weights))
        first = 0
        while first < len(blocks):
            end = int(np.searchsorted(blocks, blocks[first] + span))
            walked = np.arange(blocks[first], blocks[end - 1] + 1)
            before = self._points_before(walked)  # [w, S + 1]
            counts = np.diff(before, axis=1)
            drawn = self._drawn_before(int(walked[0])) + np.cumsum(counts, axis=0)  # after each block
            self._last_walk[0] = (
                int(walked[-1]),
                drawn[-1] - counts[-1],
            )  # the next samples may begin in the same block
            picked = blocks[first:end] - walked[0]
            before, drawn = before[picked], drawn[picked]
            yield first, end, *self._mixed(blocks[first:end], before, drawn)
            first = end

    def _mixed(self, blocks: np.ndarray, before: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source and draw at each place of these blocks, each int64 [w, B].

        Args: blocks [w]; before [w, S + 1]: each source's first point, last B; drawn [w, S]: samples up to and with the block.
        """
        rows = len(blocks)
        counts = np.diff(before, axis=1).ravel()
        of_point = np.repeat(np.arange(rows * len(self.weights)), counts)  # [w * B], block * S + source
        place = self._places(blocks)
        # Points of one source, in the order of their places: then its draws rise with the samples.
        place = np.sort(of_point.reshape(rows, BLOCK_SAMPLES) * BLOCK_SAMPLES + place, axis=1) % BLOCK_SAMPLES
        draw = (drawn - before[:, 1:]).ravel()[of_point].reshape(rows, BLOCK_SAMPLES) + np.arange(BLOCK_SAMPLES)
        source = (of_point % len(self.weights)).reshape(rows, BLOCK_SAMPLES)
        sources, draws = np.empty_like(source), np.empty_like(draw)
        np.put_along_axis(sources, place, source, axis=1)
        np.put_along_axis(draws, place, draw, axis=1)
        return sources, draws

    def _places(self, blocks: np.ndarray) -> np.ndarray:
        """Return the place of each grid point of these blocks among its block's samples: int64 [w, B]."""
        numbers = blocks[:, None] * BLOCK_SAMPLES + np.arange(BLOCK_SAMPLES)
        # Distinct numbers mix to distinct values, so there are no ties: the order is one bijection of the block's places.
        return np.argsort(mix64(numbers.astype(np.uint64) + self._order_key), axis=1)

    def _points_before(self, blocks: np.ndarray) -> np.ndarray:
        """Grid points left of each edge in each block: ceil((edge - offset) / RESOLUTION), int64 [w, S + 1]."""
        # The product wraps modulo 2**64, of which RESOLUTION is a divisor.
        offset = (blocks.astype(np.uint64) * np.uint64(OFFSET_STEP) & np.uint64(RESOLUTION - 1)).astype(np.int64)
        return (self._edge_array - offset[:, None] + (RESOLUTION - 1)) >> RESOLUTION_BITS

    def _drawn_before(self, block: int) -> np.ndarray:
        """Samples of each source in all blocks before ``block``: int64 [S].

        By sums of floors alone, or from where the last walk ended: the result is the same, the second is faster.
        """
        walked, drawn = self._last_walk[0]  # one read: another thread may replace it
        if not walked <= block <= walked + WALKED_BLOCKS:
            return self._drawn_at_once(block) if block < AT_ONCE_BLOCKS else self.drawn_by_sums(block)
        span = max(1, CELLS_AT_ONCE // len(self.weights))
        for first in range(walked, block, span):
            before = self._points_before(np.arange(first, min(first + span, block)))
            drawn = drawn + np.diff(before, axis=1).sum(axis=0)
        return drawn

    def drawn_by_sums(self, block: int) -> np.ndarray:
        """Samples of each source in all blocks before ``block``, by exact arithmetic: int64 [S]. The definition."""
        # ceil((rest - offset) / R) is 1 where offset < rest, else 0
        halves = (divmod(edge, RESOLUTION) for edge in self.edges)
        up_to = [whole * block + _count_offsets_below(rest, block) for whole, rest in halves]
        return np.diff(np.array(up_to, np.int64))

    def _drawn_at_once(self, block: int) -> np.ndarray:
        """``drawn_by_sums`` for all sources at once, of fewer than AT_ONCE_BLOCKS blocks: 30 us a source less."""
        return np.diff(_points_up_to(self._edge_array, np.array([block])))

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """Start of each source on the line of a block, in units of 1 / RESOLUTION; the last edge is the end.

        Each is its exact fraction of the line, rounded, halves to the even number; fractions would take ten times as long.
        """
        ratios = [weight.as_integer_ratio() for weight in self.weights]
        common = math.lcm(*{denominator for _, denominator in ratios})
        cumulative = list(accumulate((number * (common // below) for number, below in ratios), initial=0))
        return tuple(_rounded(edge * BLOCK_SAMPLES * RESOLUTION, cumulative[-1]) for edge in cumulative)

    @cached_property
    def _edge_array(self) -> np.ndarray:
        return np.array(self.edges, np.int64)  # at most 2**48

    @cached_property
    def _order_key(self) -> np.uint64:
        return random_keys(f"blend/{self.key}", 1)[0]

    @cached_property
    def _last_walk(self) -> list[tuple[int, np.ndarray]]:
        """[(block, samples of each source in all blocks before it)]: an optimisation, no state."""
        return [(0, np.zeros(len(self.weights), np.int64))]


def _count_offsets_below(bound: int, num_blocks: int) -> int:
    """Count the first ``num_blocks`` offsets b * OFFSET_STEP mod RESOLUTION that are below ``bound``."""
    # [x mod R < t] = floor(x / R) - floor((x - t) / R), for 0 <= t <= R
    if bound == 0:
        return 0
    shifted = _floor_sum(num_blocks, RESOLUTION, OFFSET_STEP, RESOLUTION - bound)  # each term one more than (x - t) / R
    return _floor_sum(num_blocks, RESOLUTION, OFFSET_STEP, 0) - (shifted - num_blocks)


def _floor_sum(count: int, modulus: int, factor: int, constant: int) -> int:
    """sum of floor((factor * i + constant) / modulus) for i in range(count), by Euclid's algorithm.

    Source: Knuth, Concrete Mathematics, section 3.5.
    """
    total = 0
    while count > 0:
        total += count * (count - 1) // 2 * (factor // modulus) + count * (constant // modulus)
        factor, constant = factor % modulus, constant % modulus
        highest = factor * count + constant
        if highest < modulus:
            break
        count, constant = divmod(highest, modulus)
        modulus, factor = factor, modulus
    return total


def _points_up_to(edges: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Count the grid points left of an edge in all blocks before a block, for each pair: int64 [n].

    Args: int64 [n] each, or [1] for all; fewer than AT_ONCE_BLOCKS blocks.
    """
    whole, rest = edges >> RESOLUTION_BITS, edges & (RESOLUTION - 1)
    # As _count_offsets_below has it; where rest is 0 the two sums differ by the number of blocks.
    shifted = _floor_sums(blocks, RESOLUTION, OFFSET_STEP, RESOLUTION - rest)
    none = _floor_sums(blocks, RESOLUTION, OFFSET_STEP, np.zeros(1, np.int64))
    counts = none - shifted + blocks.astype(np.uint64)
    return whole * blocks + counts.astype(np.int64)


def _floor_sums(counts: np.ndarray, modulus: int, factor: int, constants: np.ndarray) -> np.ndarray:
    """``_floor_sum`` for many counts and constants, int64 [n] each or [1] for all, modulo 2**64: uint64 [n].

    Args: counts, modulus and factor of at most 2**40, and constants of at most modulus, so that no step but the sum overflows.
    """
    counts, rest = np.broadcast_arrays(counts.astype(np.uint64), constants.astype(np.uint64))
    total, half, low = np.zeros(counts.shape, np.uint64), np.uint64(20), np.uint64(2**20 - 1)
    while counts.any():
        whole, factor = divmod(factor, modulus)
        divisor, times = np.uint64(modulus), np.uint64(factor)
        # n (n - 1) / 2: one of the two is even, and 0 wraps around and back.
        pairs = np.where(counts & 1, counts * ((counts - 1) >> 1), (counts >> 1) * (counts - 1))
        total += pairs * np.uint64(whole) + counts * (rest // divisor)
        rest = rest % divisor
        # factor * counts + rest, divided: in two halves of the counts, since the product may have 80 bits.
        high_quotient, high_rest = np.divmod(times * (counts >> half), divisor)
        quotient, left = np.divmod((high_rest << half) + times * (counts & low) + rest, divisor)
        counts, rest = (high_quotient << half) + quotient, left
        modulus, factor = factor, modulus
        if not modulus:
            break  # nothing is left to count
    return total


def _rounded(numerator: int, denominator: int) -> int:
    """A fraction rounded to an integer, a half to the even one."""
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient % 2))
