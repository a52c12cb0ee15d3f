"""The mixture: exact shares by arithmetic alone."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.blend import BLOCK_SAMPLES, PHASE_STEP, RESOLUTION, Blend, _count_phases_below, _floor_sum

weights = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12).map(tuple)


@given(weights=weights, seed=st.integers(0, 10))
@settings(max_examples=25, deadline=None)
def test_ranks_of_a_source_have_neither_gaps_nor_repeats(weights: tuple[float, ...], seed: int) -> None:
    blend = Blend(weights, seed)
    ranks: dict[int, set[int]] = {}
    for sample in range(5 * BLOCK_SAMPLES):
        source, rank = blend.locate(sample)
        assert rank not in ranks.setdefault(source, set()), "a chunk would be read twice"
        ranks[source].add(rank)
    assert all(found == set(range(len(found))) for found in ranks.values())


@given(weights=weights, first_block=st.integers(0, 10**9))
@settings(max_examples=25, deadline=None)
def test_every_block_holds_each_source_s_share_to_less_than_a_sample(
    weights: tuple[float, ...], first_block: int
) -> None:
    blend = Blend(weights, 1)
    start = first_block * BLOCK_SAMPLES
    drawn = Counter(blend.locate(start + position)[0] for position in range(BLOCK_SAMPLES))
    for source, weight in enumerate(weights):
        share = weight / sum(weights) * BLOCK_SAMPLES
        assert abs(drawn[source] - share) < 1 + 1e-6, f"source {source}: {drawn[source]} samples, {share} are its share"


@given(weights=weights, block=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_ranks_go_on_from_block_to_block(weights: tuple[float, ...], block: int) -> None:
    blend = Blend(weights, 3)
    for source in range(len(weights)):
        before, after = blend.drawn(source, block), blend.drawn(source, block + 1)
        ranks = sorted(
            rank
            for position in range(BLOCK_SAMPLES)
            for found, rank in [blend.locate(block * BLOCK_SAMPLES + position)]
            if found == source
        )
        assert ranks == list(range(before, after))


def test_a_source_of_one_sample_in_a_hundred_million_is_served() -> None:
    blend = Blend((1.0, 1e-8), 1)
    samples = 4 * 10**9
    assert abs(blend.drawn(1, samples // BLOCK_SAMPLES) - 40) <= 2


def test_sources_are_mixed_within_a_block() -> None:
    sources = [Blend((1.0, 1.0), 1).locate(sample)[0] for sample in range(BLOCK_SAMPLES)]
    changes = sum(left != right for left, right in itertools.pairwise(sources))
    assert changes > BLOCK_SAMPLES // 4


def test_a_thousand_sources_and_the_trillionth_sample_need_no_index() -> None:
    blend = Blend(tuple(float(1 + index % 7) for index in range(1000)), 5)
    source, rank = blend.locate(10**12)
    share = (1 + source % 7) / sum(1 + index % 7 for index in range(1000))
    assert abs(rank - share * 10**12) < 10**6


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
    assert _count_phases_below(bound, blocks) == sum(b * PHASE_STEP % RESOLUTION < bound for b in range(blocks))


@given(weights=weights, blocks=st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_samples_drawn_are_those_a_walk_from_the_first_one_counts(weights: tuple[float, ...], blocks: int) -> None:
    blend = Blend(weights, 1)
    walked = Counter(blend.locate(sample)[0] for sample in range(blocks * BLOCK_SAMPLES))
    assert [blend.drawn(source, blocks) for source in range(len(weights))] == [walked[i] for i in range(len(weights))]


@given(weights=weights, samples=st.lists(st.integers(0, 10**12), min_size=1, max_size=20), data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_sample_lies_where_it_lies_whatever_was_asked_before(
    weights: tuple[float, ...], samples: list[int], data: st.DataObject
) -> None:
    expected = {sample: Blend(weights, 1).locate(sample) for sample in samples}
    blend = Blend(weights, 1)
    for sample in data.draw(st.permutations(samples)):
        assert blend.locate(sample) == expected[sample]


@given(scale=st.sampled_from([2.0, 0.25, 1024.0]), weights=weights, sample=st.integers(0, 10**9))
@settings(max_examples=25, deadline=None)
def test_only_the_ratios_of_the_weights_matter(scale: float, weights: tuple[float, ...], sample: int) -> None:
    assert Blend(tuple(scale * weight for weight in weights), 1).locate(sample) == Blend(weights, 1).locate(sample)


def test_the_seed_mixes_a_block_another_way_and_leaves_the_shares() -> None:
    drawn = [[Blend((1.0, 2.0), seed).locate(sample)[0] for sample in range(BLOCK_SAMPLES)] for seed in (1, 2)]
    assert drawn[0] != drawn[1] and sorted(drawn[0]) == sorted(drawn[1])


def test_a_late_sample_costs_no_more_turns_than_an_early_one(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    class Counted(int):
        """Counts the divisions of the floor sum: one pair a turn."""

        def __floordiv__(self, other: int) -> "Counted":
            nonlocal turns
            turns += 1
            return Counted(int(self) // int(other))

        def __mod__(self, other: int) -> "Counted":
            return Counted(int(self) % int(other))

    _floor_sum(10**12 // BLOCK_SAMPLES, Counted(RESOLUTION), Counted(PHASE_STEP), Counted(0))
    assert 0 < turns < 200


@pytest.mark.parametrize("count", [1, 10])
def test_one_source_takes_every_sample_in_rank(count: int) -> None:
    blend = Blend((0.3,), 1)
    located = [blend.locate(sample) for sample in range(count * BLOCK_SAMPLES)]
    assert {source for source, _ in located} == {0}
    assert sorted(rank for _, rank in located) == list(range(count * BLOCK_SAMPLES))
