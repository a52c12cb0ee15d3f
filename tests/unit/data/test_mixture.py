"""Phases: another mixture from some sample on, each source going on where it stood."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.mixture import Mixture, Phase
from pretrain.data.order import ChunkOrder, ChunkOrders

NUM_SOURCES = 5


@st.composite
def phases(draw: st.DrawFn) -> list[Phase]:
    """One to four mixtures of some of five sources."""
    lengths = draw(st.lists(st.integers(1, 700), min_size=0, max_size=3))
    found = []
    for start in [0, *np.cumsum(lengths, dtype=int).tolist()]:
        members = draw(st.permutations(range(NUM_SOURCES)))[: draw(st.integers(1, NUM_SOURCES))]
        weights = draw(st.lists(st.floats(1e-3, 1e3), min_size=len(members), max_size=len(members)))
        found.append(Phase(start_sample=start, members=tuple(members), weights=tuple(weights)))
    return found


def mixture(of: list[Phase], seed: int = 1) -> Mixture:
    return Mixture(of, num_sources=NUM_SOURCES, seed=seed)


@given(of=phases(), samples=st.integers(1, 3000))
@settings(max_examples=50, deadline=None)
def test_a_source_goes_on_where_it_stood_through_every_phase(of: list[Phase], samples: int) -> None:
    sources, ranks = mixture(of).locate(np.arange(samples))
    for source in range(NUM_SOURCES):
        own = ranks[sources == source].tolist()
        assert own == list(range(len(own))), "a chunk would be read twice, or never"
    assert mixture(of).drawn(samples).tolist() == np.bincount(sources, minlength=NUM_SOURCES).tolist()


@given(of=phases(), samples=st.integers(600, 3000), chunks=st.integers(1, 200))
@settings(max_examples=25, deadline=None)
def test_every_chunk_comes_once_an_epoch_through_every_phase(of: list[Phase], samples: int, chunks: int) -> None:
    orders = [ChunkOrder(num_tokens=8 * (chunks + i + 1) + 3, seq_length=8, key=f"{i}", name="") for i in range(5)]
    sources, ranks = mixture(of).locate(np.arange(samples))
    starts = ChunkOrders(orders).start_tokens(sources, ranks)
    for source, order in enumerate(orders):
        own = starts[sources == source]
        for epoch in range(len(own) // order.chunks_per_epoch):
            read = own[epoch * order.chunks_per_epoch : (epoch + 1) * order.chunks_per_epoch]
            assert (np.diff(np.sort(read)) == 8).all(), f"source {source}, epoch {epoch}"


@given(of=phases(), first=st.integers(0, 2500), count=st.integers(1, 600))
@settings(max_examples=50, deadline=None)
def test_any_stretch_of_samples_is_the_same_without_those_before_it(of: list[Phase], first: int, count: int) -> None:
    whole = mixture(of).locate(np.arange(first + count))
    alone = mixture(of).locate(np.arange(first, first + count))
    for of_whole, of_alone in zip(whole, alone, strict=True):
        assert np.array_equal(of_whole[first:], of_alone)


@given(of=phases(), first=st.integers(0, 10**9), count=st.integers(1, 600))
@settings(max_examples=50, deadline=None)
def test_every_draw_leads_back_to_its_sample(of: list[Phase], first: int, count: int) -> None:
    for at in (0, first):
        samples = np.arange(at, at + count)
        sources, draws = mixture(of).locate(samples)
        for source in np.unique(sources).tolist():
            own = sources == source
            assert np.array_equal(mixture(of).samples_of(source, draws[own]), samples[own])


def test_a_draw_that_no_phase_comes_to_has_no_sample() -> None:
    of = [
        Phase(start_sample=0, members=(0, 1), weights=(1.0, 1.0)),
        Phase(start_sample=512, members=(1,), weights=(1.0,)),
    ]
    assert mixture(of).samples_of(0, np.array([255, 256, 10**6])).tolist()[1:] == [-1, -1]
    assert mixture(of).samples_of(0, np.array([255]))[0] < 512 and mixture(of).samples_of(2, np.array([0])) == [-1]
    assert mixture(of).samples_of(1, np.array([256])) == [512]


@given(of=phases())
@settings(max_examples=50, deadline=None)
def test_only_a_phase_s_own_sources_are_read_and_in_their_proportions(of: list[Phase]) -> None:
    ends = [phase.start_sample for phase in of[1:]] + [of[-1].start_sample + 512]
    for phase, end in zip(of, ends, strict=True):
        sources, _ = mixture(of).locate(np.arange(phase.start_sample, end))
        counts = Counter(sources.tolist())
        assert set(counts) <= set(phase.members)
        whole_blocks = (end - phase.start_sample) // 256
        drawn = Counter(sources[: whole_blocks * 256].tolist())
        for member, weight in zip(phase.members, phase.weights, strict=True):
            share = weight / sum(phase.weights) * 256
            assert abs(drawn[member] - whole_blocks * share) < whole_blocks + 1e-3


@given(of=phases(), data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_phase_that_has_not_begun_changes_nothing(of: list[Phase], data: st.DataObject) -> None:
    start = of[-1].start_sample + data.draw(st.integers(1, 500))
    later = [*of, Phase(start_sample=start, members=(data.draw(st.integers(0, 4)),), weights=(1.0,))]
    numbers = np.arange(start)
    for before, after in zip(mixture(of).locate(numbers), mixture(later).locate(numbers), strict=True):
        assert np.array_equal(before, after)


def test_a_source_that_pauses_returns_to_its_next_chunk() -> None:
    first, pause, back = (
        Phase(start_sample=start, members=members, weights=(1.0,) * len(members))
        for start, members in ((0, (0, 1)), (100, (1,)), (250, (0,)))
    )
    sources, ranks = mixture([first, pause, back]).locate(np.arange(300))
    assert (sources[100:250] == 1).all() and (sources[250:] == 0).all()
    assert ranks[250] == (sources[:100] == 0).sum()


def test_ten_thousand_billion_samples_over_thousands_of_sources_and_phases_are_arithmetic() -> None:
    num_sources, apart = 3000, 10**11
    many = [
        Phase(start_sample=p * apart, members=tuple(range(p, num_sources)), weights=(1.0,) * (num_sources - p))
        for p in range(10)
    ]
    mix = Mixture(many, num_sources=num_sources, seed=1)
    drawn = mix.drawn(10**12)
    assert drawn.sum() == 10**12
    sources, ranks = mix.locate(10**12 + np.arange(1000))
    first_ranks = dict(zip(sources[::-1].tolist(), ranks[::-1].tolist(), strict=True))
    assert all(rank == drawn[source] for source, rank in first_ranks.items())
