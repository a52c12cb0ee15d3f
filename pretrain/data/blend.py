"""Sample number -> source, by arithmetic: no index to build, none to store.

Samples come in blocks. In every block a source gets its exact share, rounded up or down (error below one sample), and over
the whole run the roundings even out exactly, so that a weight of one in a million is served too. Within a block the
sources are mixed by a seeded permutation.

How: lay the sources side by side on a line, each as long as its share of a block, and put a grid of points with spacing 1
on the line, shifted by a phase that moves in each block. A source owns the points that fall on it. The phases of all
blocks are an arithmetic sequence modulo RESOLUTION, so the points a source owned in all earlier blocks are counted by a
sum of floors, in time logarithmic in the block's number.
"""

import bisect
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate

from pretrain.data.order import permute

BLOCK_SAMPLES = 256
RESOLUTION = 2**40
"""Shares are rounded to BLOCK_SAMPLES / RESOLUTION."""
PHASE_STEP = (
    679_891_637_639  # odd, so that all phases come by; near RESOLUTION / golden ratio, so that they spread evenly
)


@dataclass(frozen=True)
class Blend:
    """A mixture of sources."""

    weights: tuple[float, ...]
    """One positive number per source; only the ratios matter."""
    seed: int

    def locate(self, sample: int) -> tuple[int, int]:
        """(source, rank within that source) of sample number ``sample``; ranks count 0, 1, 2, ... without a gap.

        Within one block, ranks of a source are not in the order of the samples: the block's permutation mixes them.
        """
        block, position = divmod(sample, BLOCK_SAMPLES)
        key = hashlib.blake2b(f"blend/{self.seed}/{block}".encode(), digest_size=16).digest()
        point = permute(position, BLOCK_SAMPLES, key)
        before = self._points_before(block)
        source = bisect.bisect_right(before, point) - 1
        return source, self.drawn(source, block) + point - before[source]

    def drawn(self, source: int, block: int) -> int:
        """Samples of a source in all blocks before ``block``."""
        return self._points_up_to(source + 1, block) - self._points_up_to(source, block)

    @cached_property
    def _edges(self) -> tuple[int, ...]:
        """Where each source begins on the line of a block, in units of 1 / RESOLUTION; the last edge is the end."""
        cumulative = list(accumulate((Fraction(weight) for weight in self.weights), initial=Fraction(0)))
        return tuple(round(edge / cumulative[-1] * BLOCK_SAMPLES * RESOLUTION) for edge in cumulative)

    def _points_before(self, block: int) -> Sequence[int]:
        return _points_before(self._edges, block)

    def _points_up_to(self, edge_index: int, block: int) -> int:
        """Grid points left of an edge in all blocks before ``block``: sum of ceil((edge - phase_b) / RESOLUTION)."""
        whole, rest = divmod(self._edges[edge_index], RESOLUTION)
        # ceil((rest - phase) / R) is 1 where phase < rest, else 0; and floor((rest - 1 - phase) / R) + 1 says the same.
        carried = _count_phases_below(rest, block)
        return whole * block + carried


@lru_cache(maxsize=64)
def _points_before(edges: tuple[int, ...], block: int) -> list[int]:
    phase = block * PHASE_STEP % RESOLUTION
    return [-(-(edge - phase) // RESOLUTION) for edge in edges[:-1]]


def _count_phases_below(bound: int, num_blocks: int) -> int:
    """How many of the first ``num_blocks`` phases b * PHASE_STEP mod RESOLUTION are below ``bound``."""
    # [x mod R < t] = floor(x / R) - floor((x - t) / R), for 0 <= t <= R
    if bound == 0:
        return 0
    shifted = _floor_sum(num_blocks, RESOLUTION, PHASE_STEP, RESOLUTION - bound)  # each term one more than (x - t) / R
    return _floor_sum(num_blocks, RESOLUTION, PHASE_STEP, 0) - (shifted - num_blocks)


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
