"""Rules of the times a run may take."""

from pathlib import Path

import pytest

from pretrain.config.load import load_run


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.walltime_margin_s=-1"], "train.walltime_margin_s (-1.0) must not be negative; 120 works"),
        (
            ["train.walltime_s=100"],
            "train.walltime_s (100.0) must be above train.walltime_margin_s (120.0), which is kept for the last checkpoint, or no time "
            "is left to train; train.walltime_s=3720.0 works",
        ),
        (
            ["train.walltime_s=0", "train.walltime_margin_s=0"],
            "train.walltime_s (0.0) must be above train.walltime_margin_s (0.0)",
        ),
        (["train.walltime_s=.inf"], "train.walltime_s (inf) must be a finite number; null works"),
        (["train.walltime_margin_s=.nan"], "train.walltime_margin_s (nan) must be a finite number; 120.0 works"),
        (
            ["train.watchdog.step_s=-5"],
            "train.watchdog.step_s (-5.0) must be finite and not negative, in seconds; 600.0 works, and null for no limit",
        ),
        (["train.watchdog.save_s=.nan"], "train.watchdog.save_s (nan) must be finite"),
        (["train.watchdog.steps_s=5"], "train.watchdog.steps_s is not a key; did you mean train.watchdog.step_s?"),
    ],
)
def test_times_that_cannot_be_are_refused(overrides: list[str], message: str, small_run: Path) -> None:
    with pytest.raises(ValueError) as caught:
        load_run(small_run, overrides)
    assert message in str(caught.value)


def test_what_the_messages_recommend_works(small_run: Path) -> None:
    run = load_run(small_run, ["train.walltime_s=3720.0", "train.watchdog.step_s=null", "train.watchdog.save_s=0"])
    assert run.train.walltime_s == 3720
    assert run.train.watchdog.step_s is None and run.train.watchdog.save_s == 0


def test_the_watchdog_speaks_before_a_collective_gives_up(small_run: Path) -> None:
    """The collective's error would end the run before the rank that hangs has shown where."""
    run = load_run(small_run, ["parallel.timeout_s=3600"])
    watchdog = run.train.watchdog
    longest = max(watchdog.step_s + watchdog.init_s, watchdog.validation_s, watchdog.save_s)  # type: ignore[operator, type-var]
    assert longest < type(run.parallel).timeout_s
