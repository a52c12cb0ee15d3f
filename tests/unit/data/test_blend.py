"""The mixture: exact shares by arithmetic alone."""

import itertools
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.blend import BLOCK_SAMPLES, OFFSET_STEP, RESOLUTION, Blend, _count_offsets_below, _floor_sum

weights = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12).map(tuple)


def located(blend: Blend, first: int, count: int) -> list[tuple[int, int]]:
    sources, ranks = blend.locate(np.arange(first, first + count))
    return list(zip(sources.tolist(), ranks.tolist(), strict=True))


def drawn_in_a_block_by_hand(blend: Blend, block: int) -> list[int]:
    """The definition: points of a shifted grid on the line of the sources."""
    phase = block * OFFSET_STEP % RESOLUTION
    before = [-(-(edge - phase) // RESOLUTION) for edge in blend.edges]
    return [right - left for left, right in itertools.pairwise(before)]


@given(weights=weights, key=st.text(max_size=3), samples=st.integers(1, 5 * BLOCK_SAMPLES))
@settings(max_examples=40, deadline=None)
def test_ranks_of_a_source_rise_with_the_samples_without_gaps(
    weights: tuple[float, ...], key: str, samples: int
) -> None:
    found = located(Blend(weights, key), 0, samples)
    for source in range(len(weights)):
        ranks = [rank for at, rank in found if at == source]
        assert ranks == list(range(len(ranks))), "a chunk would be read twice, or never"


@given(weights=weights, first_block=st.integers(0, 10**12))
@settings(max_examples=40, deadline=None)
def test_every_block_holds_each_source_s_share_to_less_than_a_sample(
    weights: tuple[float, ...], first_block: int
) -> None:
    blend = Blend(weights, "1")
    drawn = Counter(source for source, _ in located(blend, first_block * BLOCK_SAMPLES, BLOCK_SAMPLES))
    assert [drawn[source] for source in range(len(weights))] == drawn_in_a_block_by_hand(blend, first_block)
    for source, weight in enumerate(weights):
        share = weight / sum(weights) * BLOCK_SAMPLES
        assert abs(drawn[source] - share) < 1 + 1e-6, f"source {source}: {drawn[source]} samples, {share} are its share"


@given(weights=weights, sample=st.integers(0, 10**12), count=st.integers(1, 3 * BLOCK_SAMPLES))
@settings(max_examples=40, deadline=None)
def test_what_was_drawn_before_and_after_a_stretch_differs_by_the_stretch(
    weights: tuple[float, ...], sample: int, count: int
) -> None:
    before, after = Blend(weights, "1").drawn(sample), Blend(weights, "1").drawn(sample + count)
    assert before.sum() == sample and after.sum() == sample + count
    for source in range(len(weights)):
        ranks = [rank for at, rank in located(Blend(weights, "1"), sample, count) if at == source]
        assert ranks == list(range(before[source], after[source]))


@given(weights=weights, blocks=st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_sums_of_floors_count_what_a_walk_from_the_first_block_counts(weights: tuple[float, ...], blocks: int) -> None:
    walked = Counter(source for source, _ in located(Blend(weights, "1"), 0, blocks * BLOCK_SAMPLES))
    expected = [walked[source] for source in range(len(weights))]
    assert Blend(weights, "1").drawn_by_sums(blocks).tolist() == expected
    assert Blend(weights, "1").drawn(blocks * BLOCK_SAMPLES).tolist() == expected


def test_a_long_walk_counts_what_the_sums_of_floors_count() -> None:
    walking = Blend((1.0, 1e-6, 3.7), "1")
    for first in range(0, 3000, 600):
        walking.locate(np.arange(first, first + 600, 37) * BLOCK_SAMPLES)
    assert walking.drawn(3000 * BLOCK_SAMPLES).tolist() == walking.drawn_by_sums(3000).tolist()
    assert walking._last_walk[0][0] > 0, "it did walk"


@given(weights=weights, samples=st.lists(st.integers(0, 10**12), min_size=1, max_size=20), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_sample_lies_where_it_lies_whatever_was_asked_before(
    weights: tuple[float, ...], samples: list[int], data: st.DataObject
) -> None:
    expected = {sample: located(Blend(weights, "1"), sample, 1)[0] for sample in samples}
    blend = Blend(weights, "1")
    for sample in data.draw(st.permutations(samples)):
        assert located(blend, sample, 1)[0] == expected[sample]
    sources, ranks = blend.locate(np.array(samples))
    assert list(zip(sources.tolist(), ranks.tolist(), strict=True)) == [expected[sample] for sample in samples]


def test_a_source_of_one_sample_in_a_hundred_million_is_served() -> None:
    assert abs(Blend((1.0, 1e-8), "1").drawn(4 * 10**9)[1] - 40) <= 2


def test_a_source_of_one_sample_in_a_million_is_read_in_its_turn() -> None:
    blend = Blend((1e6, 1.0), "1")
    assert abs(blend.drawn(10**9)[1] - 1000) <= 3
    after = next(sample for sample in range(0, 10**7, 10**5) if blend.drawn(sample)[1] >= 2)
    sources, ranks = blend.locate(np.arange(after))
    assert ranks[sources == 1].tolist() == list(range(blend.drawn(after)[1]))


def test_sources_are_mixed_within_a_block() -> None:
    sources = [source for source, _ in located(Blend((1.0, 1.0), "1"), 0, BLOCK_SAMPLES)]
    changes = sum(left != right for left, right in itertools.pairwise(sources))
    assert changes > BLOCK_SAMPLES // 4


def test_thousands_of_sources_and_the_trillionth_sample_need_no_index() -> None:
    shares = np.array([float(1 + index % 7) for index in range(5000)])
    blend = Blend(tuple(shares.tolist()), "5")
    started = time.perf_counter()
    sources, ranks = blend.locate(10**12 + np.arange(4096))
    assert time.perf_counter() - started < 5, "0.1 s; thousands of turns of Python for each block would be seen"
    assert (abs(ranks - shares[sources] / shares.sum() * 10**12) < 10**6).all()


@given(
    count=st.integers(0, 300),
    modulus=st.integers(1, 10**6),
    factor=st.integers(0, 10**7),
    constant=st.integers(0, 10**7),
)
@settings(deadline=None)
def test_the_sum_of_floors_is_the_sum_of_floors(count: int, modulus: int, factor: int, constant: int) -> None:
    assert _floor_sum(count, modulus, factor, constant) == sum((factor * i + constant) // modulus for i in range(count))


@given(bound=st.integers(0, RESOLUTION), blocks=st.integers(0, 300))
@settings(deadline=None)
def test_phases_below_a_bound_are_counted(bound: int, blocks: int) -> None:
    assert _count_offsets_below(bound, blocks) == sum(b * OFFSET_STEP % RESOLUTION < bound for b in range(blocks))


@given(scale=st.sampled_from([2.0, 0.25, 1024.0]), weights=weights, sample=st.integers(0, 10**9))
@settings(max_examples=25, deadline=None)
def test_only_the_ratios_of_the_weights_matter(scale: float, weights: tuple[float, ...], sample: int) -> None:
    scaled = Blend(tuple(scale * weight for weight in weights), "1")
    assert located(scaled, sample, 1) == located(Blend(weights, "1"), sample, 1)


def test_the_key_mixes_a_block_another_way_and_leaves_the_shares() -> None:
    drawn = [[source for source, _ in located(Blend((1.0, 2.0), key), 0, BLOCK_SAMPLES)] for key in "ab"]
    assert drawn[0] != drawn[1] and sorted(drawn[0]) == sorted(drawn[1])


def test_the_order_is_the_same_on_every_machine() -> None:
    """Written down once: another order would change every run that is under way."""
    assert located(Blend((1.0, 2.0, 0.5), "42/0"), 10**6, 4) == [(1, 571422), (0, 285726), (1, 571423), (2, 142852)]


def test_a_late_sample_costs_no_more_turns_than_an_early_one() -> None:
    turns = 0

    class Counted(int):
        """Counts the divisions of the floor sum: one pair a turn."""

        def __floordiv__(self, other: int) -> "Counted":
            nonlocal turns
            turns += 1
            return Counted(int(self) // int(other))

        def __mod__(self, other: int) -> "Counted":
            return Counted(int(self) % int(other))

    _floor_sum(10**12 // BLOCK_SAMPLES, Counted(RESOLUTION), Counted(OFFSET_STEP), Counted(0))
    assert 0 < turns < 200


@pytest.mark.parametrize("count", [1, 10])
def test_one_source_takes_every_sample_in_rank(count: int) -> None:
    assert located(Blend((0.3,), "1"), 0, count * BLOCK_SAMPLES) == [(0, n) for n in range(count * BLOCK_SAMPLES)]


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1e-9, 3.0), tuple(1.0 + (7 * i) % 11 for i in range(200))], ids=len)
@pytest.mark.parametrize("first", [0, 10**8, 3 * 10**14], ids=["first", "later", "beyond sums in 64 bits"])
def test_draws_of_rare_and_of_many_sources_lead_back_to_their_samples(weights: tuple[float, ...], first: int) -> None:
    blend = Blend(weights, "1")
    for source in {0, 1, len(weights) - 1} & set(range(len(weights))):
        begin = int(blend.drawn(first)[source])
        draws = begin + np.array([0, 1, 2, 300, 4])
        samples = blend.samples_of(source, draws)
        sources, found = blend.locate(samples)
        assert (sources == source).all() and found.tolist() == draws.tolist()
