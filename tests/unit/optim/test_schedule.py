"""The learning rate as a function of samples."""

import itertools
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest

from fanal.run_progress import Standing
from pretrain.config.schema import OptimConfig, TrainConfig
from pretrain.config.steps import DECAY_ON_REQUEST
from pretrain.optim.schedule import DECAYS, SHAPES, learning_rate

TRAIN = TrainConfig(train_steps=100, global_batch_size=10, micro_batch_size=1)  # 1,000 samples
OPTIM = OptimConfig(lr=1.0, min_lr=0.1, lr_warmup_samples=100)


def at(style: str, consumed: int, **changes: object) -> float:
    return learning_rate(replace(OPTIM, lr_decay_style=style, **changes), TRAIN, consumed)  # type: ignore[arg-type]


@pytest.mark.parametrize("style", ["constant", "linear", "cosine"])
def test_the_warm_up_rises_linearly_from_zero(style: str) -> None:
    assert [at(style, consumed) for consumed in (0, 25, 50, 100)] == pytest.approx([0, 0.25, 0.5, 1.0])


@pytest.mark.parametrize(
    ("style", "middle", "after"), [("constant", 1.0, 1.0), ("linear", 0.55, 0.1), ("cosine", 0.55, 0.1)]
)
def test_the_middle_and_the_end_of_the_decay(style: str, middle: float, after: float) -> None:
    assert at(style, 550) == pytest.approx(middle)
    assert at(style, 1000) == at(style, 5000) == pytest.approx(after)


def test_a_cosine_starts_and_ends_flat_and_a_line_does_not() -> None:
    assert 1.0 - at("cosine", 110) < (1.0 - at("linear", 110)) / 10
    assert at("cosine", 325) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + 2**-0.5))


def test_wsd_stays_and_then_falls_in_a_line() -> None:
    rates = [at("WSD", consumed, lr_wsd_decay_samples=200) for consumed in (100, 500, 800, 900, 999, 1000)]
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.55, 0.1045, 0.1])


def test_the_decay_can_end_before_or_after_the_run() -> None:
    assert at("linear", 300, lr_decay_samples=500) == pytest.approx(0.55)
    assert at("linear", 600, lr_decay_samples=500) == pytest.approx(0.1)
    assert at("linear", 1000, lr_decay_samples=1900) == pytest.approx(0.55)


def test_after_a_resume_with_half_the_batch_the_rate_falls_to_the_end_of_the_steps_left() -> None:
    """8 steps of 8 samples, then 8 of 4: the schedule ends at 96 samples. Of its 80 behind the warm-up, 48 are done."""
    optim = OptimConfig(lr=1e-3, lr_warmup_samples=16)
    train = TrainConfig(train_steps=16, global_batch_size=4, micro_batch_size=1)
    rates = [learning_rate(optim, train, 64 + 4 * step, Standing(8, 64)) for step in range(9)]
    # 0.5e-3 * (1 + cos(pi * 0.6)), then 0.65, 0.7, ... 1.0
    by_hand = [3.4549e-4, 2.7300e-4, 2.0611e-4, 1.4645e-4, 9.5492e-5, 5.4497e-5, 2.4472e-5, 6.1558e-6, 0]
    assert rates == pytest.approx(by_hand, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("style", ["linear", "cosine", "WSD"])
def test_the_rate_never_jumps_nor_rises_after_the_warm_up(style: str) -> None:
    changes = {"lr_wsd_decay_samples": 200} if style == "WSD" else {}
    rates = [at(style, consumed, **changes) for consumed in range(100, 1100)]
    steps = [left - right for left, right in itertools.pairwise(rates)]
    assert min(steps) >= 0 and max(steps) < 0.01


@pytest.mark.parametrize("style", ["constant", "linear", "cosine", "WSD"])
def test_there_is_no_gap_where_the_warm_up_ends(style: str) -> None:
    changes = {"lr_wsd_decay_samples": 200} if style == "WSD" else {}
    assert at(style, 99, **changes) == pytest.approx(0.99)
    assert at(style, 100, **changes) == 1.0
    assert at(style, 101, **changes) == pytest.approx(1.0, abs=0.002)


@pytest.mark.parametrize("style", ["constant", "linear", "cosine"])
def test_without_a_warm_up_the_first_step_takes_the_whole_rate(style: str) -> None:
    assert at(style, 0, lr_warmup_samples=0) == 1.0


def test_a_warm_up_as_long_as_the_run_ends_at_the_last_rate() -> None:
    assert at("cosine", 999, lr_warmup_samples=1000) == pytest.approx(0.999)
    assert at("cosine", 1000, lr_warmup_samples=1000) == 0.1


def test_a_wsd_decay_that_takes_all_the_time_is_a_line() -> None:
    for consumed in range(100, 1001, 50):
        assert at("WSD", consumed, lr_wsd_decay_samples=900) == pytest.approx(at("linear", consumed))


def test_every_shape_of_the_config_is_in_the_table_and_the_other_way_round() -> None:
    hints = get_type_hints(OptimConfig)
    assert {*SHAPES, *DECAY_ON_REQUEST} == set(get_args(hints["lr_decay_style"]))
    assert {*DECAYS} == set(get_args(hints["lr_wsd_decay_style"]))
