"""The counters of a run."""

import dataclasses

import pytest

from pretrain.state import TrainState


def test_a_step_moves_the_counters_by_what_it_used() -> None:
    state = (
        TrainState()
        .after(num_samples=8, seq_length=64, skipped=False)
        .after(num_samples=6, seq_length=64, skipped=False)
    )
    assert dataclasses.asdict(state) == {
        "step": 2, "consumed_samples": 14, "consumed_tokens": 14 * 64, "skipped_steps": 0, "skipped_in_a_row": 0,
    }  # fmt: skip


def test_a_skipped_step_uses_its_samples_and_is_counted() -> None:
    state = TrainState().after(num_samples=8, seq_length=64, skipped=True)
    assert (state.step, state.consumed_samples, state.skipped_steps, state.skipped_in_a_row) == (1, 8, 1, 1)


def test_an_update_ends_the_row_of_skipped_steps_and_not_their_sum() -> None:
    state = TrainState()
    for skipped in (True, True, False, True):
        state = state.after(num_samples=1, seq_length=1, skipped=skipped)
    assert (state.skipped_steps, state.skipped_in_a_row) == (3, 1)


def test_a_state_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainState().step = 5  # type: ignore[misc]
