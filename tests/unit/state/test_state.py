"""The counters of a run."""

import dataclasses

import pytest

from pretrain.state import Recent, TrainState


def test_a_step_moves_the_counters_by_what_it_used() -> None:
    state = (
        TrainState().after(num_samples=8, seq_length=64, skipped=None).after(num_samples=6, seq_length=64, skipped=None)
    )
    assert dataclasses.asdict(state) == {
        "step": 2, "consumed_samples": 14, "consumed_tokens": 14 * 64, "skipped_steps": 0, "skipped_in_a_row": 0,
        "skipped_spikes": 0, "recent": {"losses": (), "grad_norms": ()}, "decay_start_sample": None,
    }  # fmt: skip


@pytest.mark.parametrize("reason", ["not finite", "spike"])
def test_a_skipped_step_uses_its_samples_and_is_counted(reason) -> None:
    state = TrainState().after(num_samples=8, seq_length=64, skipped=reason)
    assert (state.step, state.consumed_samples, state.skipped_steps) == (1, 8, 1)
    assert (state.skipped_in_a_row, state.skipped_spikes) == ((1, 0) if reason == "not finite" else (0, 1))


def test_an_update_ends_the_row_of_skipped_steps_and_not_their_sum() -> None:
    state = TrainState()
    for skipped in ("not finite", "not finite", None, "not finite"):
        state = state.after(num_samples=1, seq_length=1, skipped=skipped)
    assert (state.skipped_steps, state.skipped_in_a_row) == (3, 1)


def test_a_skipped_spike_neither_ends_nor_lengthens_the_row_of_steps_that_are_not_finite() -> None:
    state = TrainState()
    for skipped in ("not finite", "spike", "not finite"):
        state = state.after(num_samples=1, seq_length=1, skipped=skipped)
    assert (state.skipped_steps, state.skipped_in_a_row, state.skipped_spikes) == (3, 2, 1)


def test_recent_values_stay_until_others_come() -> None:
    recent = Recent(losses=(2.5,), grad_norms=(0.5,))
    state = TrainState().after(num_samples=1, seq_length=1, skipped=None, recent=recent)
    assert state.recent == recent == state.after(num_samples=1, seq_length=1, skipped=None).recent


def test_a_state_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainState().step = 5  # type: ignore[misc]


def test_a_decay_that_has_begun_stays_where_it_began() -> None:
    state = TrainState(step=3, consumed_samples=24, decay_start_sample=24)
    after = state.after(num_samples=8, seq_length=64, skipped="spike").after(num_samples=8, seq_length=64, skipped=None)
    assert after.standing == (5, 40, 24)
