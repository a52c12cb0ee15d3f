"""AdEMAMix's schedules by hand."""

import math
from typing import Any

import pytest

from pretrain.optim.ademamix import alpha_at, beta3_at


def half_life(beta: float) -> float:
    return math.log(0.5) / math.log(beta)


def test_alpha_rises_along_a_line_and_stays() -> None:
    assert [alpha_at(update, alpha=8.0, warmup=4) for update in (1, 2, 4, 5)] == [2.0, 4.0, 8.0, 8.0]
    assert alpha_at(1, alpha=8.0, warmup=0) == 8.0


def test_the_half_life_of_beta3_grows_along_a_line() -> None:
    settings: dict[str, Any] = {"beta1": 0.9, "beta3": 0.9999, "warmup": 100_000}
    found = [half_life(beta3_at(update, **settings)) for update in (0, 25_000, 50_000, 100_000, 200_000)]
    first, last = half_life(0.9), half_life(0.9999)
    expected = [first, first + (last - first) / 4, (first + last) / 2, last, last]
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("beta1", "beta3"), [(0.0, 0.9), (0.9, 0.0), (0.0, 0.0), (0.9, 0.9), (0.95, 0.9)])
def test_decays_at_the_ends_of_their_range_stay_in_it(beta1: float, beta3: float) -> None:
    for update in range(1, 12):
        assert 0.0 <= beta3_at(update, beta1=beta1, beta3=beta3, warmup=10) <= max(beta1, beta3)
