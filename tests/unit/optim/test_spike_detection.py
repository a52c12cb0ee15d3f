"""What counts as a spike, and what is remembered of it: known series, and properties of all of them."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.config.schema import SpikeConfig
from pretrain.optim.spikes import Verdict, judge
from pretrain.state import TrainState

SMALL = SpikeConfig(window_steps=8, min_steps=4, z_score=6.0, skip=True, max_skipped_spikes=3)
WAVE = [2.0, 2.1, 1.9, 2.0, 2.1, 1.9]


def follow(
    values: Sequence[tuple[float, float]], config: SpikeConfig | None, state: TrainState | None = None
) -> tuple[list[Verdict], list[TrainState]]:
    """The verdict on each (loss, gradient norm) of a run, and the state after it."""
    verdicts, states = [], []
    state = state or TrainState()
    for loss, grad_norm in values:
        verdict = judge(loss=loss, grad_norm=grad_norm, state=state, config=config)
        state = state.after(num_samples=1, seq_length=1, skipped=verdict.skip, recent=verdict.recent)
        verdicts.append(verdict)
        states.append(state)
    return verdicts, states


def alike(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(value, 1.0) for value in values]


def test_the_z_score_is_the_distance_from_the_mean_in_standard_deviations() -> None:
    verdict = follow(alike([1.0, 3.0, 1.0, 3.0, 6.0]), SMALL)[0][-1]
    assert verdict.loss_z == pytest.approx((6.0 - 2.0) / 1.0) and verdict.grad_norm_z == 0.0
    assert not verdict.is_spike and verdict.skip is None


@pytest.mark.parametrize("spike", [(50.0, 1.0), (2.0, 50.0)], ids=["loss", "gradient norm"])
def test_either_of_the_two_series_can_have_a_spike(spike: tuple[float, float]) -> None:
    verdict = follow([*alike(WAVE), spike], SMALL)[0][-1]
    assert verdict.is_spike and verdict.skip == "spike"


def test_a_fall_is_no_spike() -> None:
    assert not any(verdict.is_spike for verdict in follow(alike([*WAVE, 0.1, 1e-9]), SMALL)[0])


def test_nothing_is_a_spike_before_there_are_enough_steps() -> None:
    for known in range(SMALL.min_steps + 1):
        verdict = follow(alike([*WAVE[:known], 1000.0]), SMALL)[0][-1]
        assert verdict.is_spike == (known >= SMALL.min_steps)
        assert (verdict.loss_z is None) == (known < SMALL.min_steps)


def test_only_the_window_is_remembered() -> None:
    _, states = follow(alike([float(number) for number in range(20)]), replace(SMALL, z_score=1e9))
    assert states[-1].recent.losses == tuple(float(number) for number in range(12, 20))
    shorter = replace(SMALL, window_steps=5, z_score=1e9)
    assert follow(alike([20.0]), shorter, states[-1])[1][-1].recent.losses == (16.0, 17.0, 18.0, 19.0, 20.0)
    longer = replace(SMALL, window_steps=9, z_score=1e9)
    assert len(follow(alike([20.0]), longer, states[-1])[1][-1].recent.losses) == 9


def test_a_constant_series_has_no_spike_of_nothing_and_one_of_something() -> None:
    verdicts, _ = follow(alike([2.0] * 6 + [2.0, 2.001, 2.01]), SMALL)
    assert not any(verdict.is_spike for verdict in verdicts)
    assert follow(alike([2.0] * 6 + [2.1]), SMALL)[0][-1].is_spike
    assert not any(verdict.is_spike for verdict in follow([(0.0, 0.0)] * 9, SMALL)[0])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_never_enters_the_window_and_is_no_spike(value: float) -> None:
    before = follow(alike(WAVE), SMALL)[1][-1]
    (verdict,), (state,) = follow([(value, value)], SMALL, before)
    assert verdict.skip == "not finite" and not verdict.is_spike
    assert (verdict.loss_z, verdict.grad_norm_z) == (None, None) and state.recent == before.recent
    (verdict,), (state,) = follow([(value, 1.0)], SMALL, before)
    assert verdict.skip is None, "a step without a token that counts has no loss, and does no harm"
    assert state.recent.losses == before.recent.losses and len(state.recent.grad_norms) == len(WAVE) + 1


def test_a_gradient_that_is_not_finite_is_skipped_as_such_whatever_the_loss() -> None:
    verdict = follow([*alike(WAVE), (1000.0, math.nan)], SMALL)[0][-1]
    assert verdict.is_spike and verdict.skip == "not finite"


def test_a_spike_does_not_hide_the_next_one() -> None:
    quiet = [2.0 + 0.1 * math.sin(number) for number in range(128)]
    verdicts, _ = follow(alike([*quiet, 1e6, *quiet[:5], 3.0]), SpikeConfig())
    assert verdicts[128].is_spike and verdicts[134].is_spike
    assert not any(verdict.is_spike for verdict in verdicts[129:134])


@pytest.mark.parametrize(("deviations", "steps"), [(10, 3), (100, 9), (1000, 15), (100_000, 27)])
def test_a_level_that_has_changed_for_good_is_the_norm_after_a_few_steps(deviations: int, steps: int) -> None:
    noise = [math.sqrt(2) * math.sin(number) for number in range(400)]  # deviation 1
    verdicts, _ = follow(
        alike([*(10.0 + n for n in noise[:128]), *(10.0 + deviations + n for n in noise[128:])]), SpikeConfig()
    )
    spikes = [index for index, verdict in enumerate(verdicts) if verdict.is_spike]
    assert 0 < len(spikes) <= steps and spikes == list(range(128, 128 + len(spikes)))


def test_spikes_are_found_and_left_alone_without_skip() -> None:
    verdict = follow(alike([*WAVE, 50.0]), replace(SMALL, skip=False))[0][-1]
    assert verdict.is_spike and verdict.skip is None and not verdict.out_of_budget


def test_no_more_than_the_budget_is_skipped_and_the_rest_is_said() -> None:
    config = replace(SMALL, max_skipped_spikes=1)
    verdicts, states = follow(alike([*WAVE, 50.0, 2.0, 1e9]), config)
    assert [verdict.skip for verdict in verdicts[6:]] == ["spike", None, None]
    assert [verdict.out_of_budget for verdict in verdicts[6:]] == [False, False, True]
    assert states[-1].skipped_spikes == 1
    more = follow(alike([1e9]), replace(config, max_skipped_spikes=2), states[-2])[0][0]
    assert more.skip == "spike", "a resume with a larger budget goes on skipping"
    assert follow(alike([*WAVE, 50.0]), replace(SMALL, max_skipped_spikes=0))[0][-1].out_of_budget


def test_turned_off_nothing_is_compared_or_remembered_and_nan_is_still_skipped() -> None:
    verdicts, states = follow([*alike([*WAVE, 50.0]), (1.0, math.nan)], None)
    assert not any(verdict.is_spike for verdict in verdicts) and states[-1].recent.losses == ()
    assert [verdict.skip for verdict in verdicts[-2:]] == [None, "not finite"]


VALUES = st.one_of(
    st.floats(0.5, 3.0), st.sampled_from([0.0, 1e-30, 50.0, 1e4, 1e18, math.inf, math.nan]), st.floats(0, 1e30)
)
CONFIGS = st.builds(
    SpikeConfig,
    window_steps=st.integers(4, 12),
    min_steps=st.integers(2, 4),
    z_score=st.floats(0.5, 8),
    skip=st.booleans(),
    max_skipped_spikes=st.integers(0, 4),
)


@given(values=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40), config=CONFIGS, data=st.data())
def test_a_resume_from_any_step_comes_to_the_same_verdicts(
    values: list[tuple[float, float]], config: SpikeConfig, data: st.DataObject
) -> None:
    verdicts, states = follow(values, config)
    at = data.draw(st.integers(1, len(values)))
    assert follow(values[at:], config, states[at - 1]) == (verdicts[at:], states[at:])


@given(values=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40), config=CONFIGS)
def test_whatever_comes_the_window_is_finite_and_the_budget_holds(
    values: list[tuple[float, float]], config: SpikeConfig
) -> None:
    verdicts, states = follow(values, config)
    for verdict, state in zip(verdicts, states, strict=True):
        for series in (state.recent.losses, state.recent.grad_norms):
            assert len(series) <= config.window_steps and all(map(math.isfinite, series))
        assert state.skipped_spikes <= config.max_skipped_spikes
        assert verdict.skip != "spike" or (verdict.is_spike and config.skip)
