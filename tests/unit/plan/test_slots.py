"""Jobs of a long run, against a simulation of every job that counts its own steps."""

import math
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanal.errors import UserError
from pretrain.plan.slots import Slot, check_slot, jobs_of


def simulated(
    num_steps: int, step_s: float, slot: Slot, *, rate: float, interval: int | None, seed: int
) -> tuple[int, float]:
    """(jobs, seconds of them) of one run, step by step: nothing of the formula is in here."""
    chance = random.Random(seed)
    saved, jobs, elapsed = 0, 0, 0.0
    while saved < num_steps:
        jobs += 1
        fails_at = chance.expovariate(rate) if rate else math.inf
        now, done = slot.start_s, saved
        told_to_stop = slot.length_s - max(slot.stop_margin_s, slot.save_s)
        while done < num_steps and now + step_s <= told_to_stop + 1e-6 and now + step_s <= fails_at:
            now, done = now + step_s, done + 1
            if interval is not None and done % interval == 0:
                saved = done
        if now >= fails_at or (done < num_steps and now + step_s > fails_at):
            elapsed += fails_at  # what was done since the newest checkpoint is lost
            continue
        saved, elapsed = done, elapsed + now + slot.save_s
    return jobs, elapsed


DAY_LONG = Slot(length_s=20 * 3600, stop_margin_s=600, start_s=300, save_s=60)


def test_by_hand() -> None:
    """100 h of training in jobs of 20 h less 15 minutes: five are not enough."""
    jobs = jobs_of(100 * 3600, DAY_LONG, failures_per_s=0, interval_s=3600)
    assert (jobs.count, jobs.elapsed_s) == (6, pytest.approx(360_000 + 6 * 360))
    assert (jobs.starting_s, jobs.saving_s, jobs.lost_s, jobs.failures) == (1800, 360, 0, 0)
    assert jobs_of(71_100, DAY_LONG, failures_per_s=0, interval_s=None).count == 1
    assert jobs_of(71_101, DAY_LONG, failures_per_s=0, interval_s=None).count == 2


@settings(max_examples=60)
@given(
    per_job=st.integers(1, 40), num_steps=st.integers(1, 400), step_s=st.integers(1, 90), start_s=st.integers(0, 500),
    margin_s=st.integers(1, 300), save_s=st.integers(0, 600),
)  # fmt: skip
def test_without_failures_as_simulated(
    per_job: int, num_steps: int, step_s: int, start_s: int, margin_s: int, save_s: int
) -> None:
    length = per_job * step_s + start_s + max(margin_s, save_s)
    slot = Slot(length_s=length, stop_margin_s=margin_s, start_s=start_s, save_s=save_s)
    count, elapsed = simulated(num_steps, step_s, slot, rate=0, interval=None, seed=0)
    jobs = jobs_of(num_steps * step_s, slot, failures_per_s=0, interval_s=None)
    assert (jobs.count, jobs.elapsed_s) == (count, pytest.approx(elapsed))


@pytest.mark.parametrize(
    ("hours_between_failures", "interval"),
    [(10, 60), (10, 400), (3, 30), (30, None)],
)
def test_with_failures_as_simulated(hours_between_failures: float, interval: int | None) -> None:
    step_s, num_steps, runs = 60.0, 12_000, 80  # 200 h
    rate = 1 / (hours_between_failures * 3600)
    found = [simulated(num_steps, step_s, DAY_LONG, rate=rate, interval=interval, seed=seed) for seed in range(runs)]
    mean_jobs, mean_s = (sum(one[number] for one in found) / runs for number in (0, 1))
    jobs = jobs_of(
        num_steps * step_s, DAY_LONG, failures_per_s=rate, interval_s=None if interval is None else interval * step_s
    )
    assert jobs.elapsed_s == pytest.approx(mean_s, rel=0.03)
    assert jobs.count == pytest.approx(mean_jobs, rel=0.06, abs=1)
    # What is said to be lost is what makes the difference: a formula without it would be seen here.
    without = jobs_of(num_steps * step_s, DAY_LONG, failures_per_s=0, interval_s=None)
    assert mean_s > without.elapsed_s * 1.04


def test_failures_lose_more_with_rarer_checkpoints() -> None:
    lost = [jobs_of(1e6, DAY_LONG, failures_per_s=1e-5, interval_s=interval).lost_s for interval in (600, 6000, 60_000)]
    assert lost == sorted(lost) and lost[0] < lost[2]


@given(
    length_h=st.floats(0.01, 2), margin_s=st.integers(1, 900), start_s=st.integers(0, 900), save_s=st.integers(0, 900),
    step_s=st.floats(0.1, 600),
)  # fmt: skip
def test_a_slot_too_short_says_one_that_works(
    length_h: float, margin_s: int, start_s: int, save_s: int, step_s: float
) -> None:
    def check(hours: float, longest_h: float | None) -> None:
        slot = Slot(length_s=hours * 3600, stop_margin_s=margin_s, start_s=start_s, save_s=save_s)
        check_slot(slot, step_s=step_s, asked="--slice-hours", longest_h=longest_h)

    for longest_h, advice in (
        (None, r"--slice-hours ([\d.]+) works"),
        (length_h, r"max_hours: ([\d.]+) in the site's"),
    ):
        if length_h * 3600 >= start_s + max(margin_s, save_s) + step_s:
            check(length_h, longest_h)
            continue
        with pytest.raises(UserError, match="must be longer than a start") as caught:
            check(length_h, longest_h)
        found = re.search(advice, str(caught.value))
        assert found is not None
        works = float(found.group(1))
        check(works, works)
        with pytest.raises(UserError):
            check(works - 0.02, works)  # it is not more than it must be


def test_failures_that_leave_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="--failures-per-1000-gpu-hours 0 works"):
        jobs_of(1e7, DAY_LONG, failures_per_s=1.0, interval_s=3600)
    jobs_of(1e7, DAY_LONG, failures_per_s=0.0, interval_s=3600)
