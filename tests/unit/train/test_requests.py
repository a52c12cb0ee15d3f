"""Who asked, in words; and when a walltime is spent."""

from pathlib import Path

import pytest

from fanal.errors import UserError
from fanal.run_folder import UNTIL_STEP
from pretrain.config.load import load_run
from pretrain.config.schema import TrainConfig
from pretrain.parallel.environment import STARTED_AT
from pretrain.train import stop
from pretrain.train.stop import Requests, Walltime, in_words


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        (["", "", "", "SIGUSR1"], "SIGUSR1 on rank 3"),
        (["SIGTERM", "SIGTERM"], "SIGTERM on all ranks"),
        (["SIGTERM"], "SIGTERM on rank 0"),
        (["", "SIGTERM", "SIGTERM"], "SIGTERM on rank 1 and 1 more"),
        (["STOP file", "", ""], "STOP file"),
        (["walltime", "walltime"], "walltime"),
        (["STOP file", "SIGINT"], "STOP file, SIGINT on rank 1"),
    ],
)
def test_who_asked_is_named(reasons: list[str], words: str) -> None:
    assert in_words(reasons) == words


class Times:
    """A clock that the test moves."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def walltime(small_run: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> tuple[Walltime, Times]:
    """A budget of a command that was started at 1000 s."""
    times = Times()
    monkeypatch.setattr(stop, "time", times)
    monkeypatch.setenv(STARTED_AT, "1000")
    train: TrainConfig = load_run(small_run, list(overrides)).train
    return Walltime(train), times


def steps_until_spent(budget: Walltime, times: Times, durations: list[float], first: int = 0) -> int:
    """How many steps are taken until the budget is spent."""
    budget.in_step(first)
    for done, duration in enumerate(durations, start=1):
        assert not budget.is_spent()
        times.now += duration
        budget.in_step(first + done)
        if budget.is_spent():
            return done
    return len(durations) + 1


def test_a_run_stops_while_two_of_the_longest_step_and_the_margin_still_fit(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, times = walltime(small_run, monkeypatch, "train.walltime_s=100", "train.walltime_margin_s=20")
    times.now += 10  # the start counts
    assert steps_until_spent(budget, times, [10, 5, 15, *[5] * 90], first=40) == 6
    # 10 of start and 10 + 5 + 15 + 3 * 5 of steps: what is left of this one and one more, each as long as the longest, would pass 80.
    assert times.now == 1055


def test_the_first_step_says_nothing_about_the_others(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, times = walltime(small_run, monkeypatch, "train.walltime_s=100", "train.walltime_margin_s=0")
    assert steps_until_spent(budget, times, [60, *[1] * 90]) == 40


def test_a_spent_walltime_lets_one_step_through(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, times = walltime(small_run, monkeypatch, "train.walltime_s=130")
    times.now += 500
    assert steps_until_spent(budget, times, [1] * 5) == 1


def test_before_a_larger_batch_as_much_more_time_is_kept(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 10 s; the fourth is followed by batches twice as large."""
    ends = {}
    for grows in (1.0, 2.0, 0.5):
        budget, times = walltime(small_run, monkeypatch, "train.walltime_s=80", "train.walltime_margin_s=0")
        budget.in_step(0)
        for step in range(1, 9):
            times.now += 10
            budget.in_step(step, grows if step == 4 else 1.0)
            if budget.is_spent():
                ends[grows] = step
                break
    # 40 + 2 * 20 still fit into 80 s, 50 + 2 * 20 do not; of equal batches 60 + 2 * 10 fit, and a smaller one promises nothing
    assert ends == {1.0: 7, 2.0: 5, 0.5: 7}


def test_without_a_walltime_nothing_is_spent(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, times = walltime(small_run, monkeypatch)
    assert steps_until_spent(budget, times, [1e6] * 5) == 6


def test_a_job_s_last_step_asks_for_a_stop_after_that_step(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UNTIL_STEP, "3")
    requests = Requests(load_run(small_run).train, None)
    assert [requests.asked_here(step=step)[0] for step in (1, 2, 3, 4)] == [False, False, True, True]
    assert requests._reason() == "until step 3"
    monkeypatch.delenv(UNTIL_STEP)
    assert not Requests(load_run(small_run).train, None).asked_here(step=3)[0]


@pytest.mark.parametrize("said", ["0", "-1", "five", "5.0"])
def test_a_last_step_that_is_none_is_refused(said: str, small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UNTIL_STEP, said)
    with pytest.raises(UserError, match=f"{UNTIL_STEP} .* must be a step, from 1 on; {UNTIL_STEP}=5000 works"):
        Requests(load_run(small_run).train, None)
