"""A resume that changes the learning rate says so, with the keys that keep it; the advice works when it is followed."""

import re
from dataclasses import replace
from typing import Any

import pytest

from fanal.errors import UserError
from fanal.run_progress import Standing
from pretrain.checkpoint.loading.rate_change import another_start, past_its_end, rate_change
from pretrain.config.rules import check_rate_left
from pretrain.config.schedule_rules import check_final_decay
from pretrain.config.schema import BatchRampConfig, OptimConfig, TrainConfig
from pretrain.config.steps import lr_decay_samples
from pretrain.optim.schedule import learning_rate

OPTIM = OptimConfig(lr=1e-3, min_lr=1e-4, lr_warmup_samples=16)
TRAIN = TrainConfig(train_steps=16, global_batch_size=8, micro_batch_size=1)
SINCE = Standing(step=8, consumed_samples=64)
WSD = replace(OPTIM, lr_decay_style="WSD", lr_wsd_decay_samples=80)


def followed(line: str, optim: OptimConfig) -> OptimConfig:
    """The settings with the keys that a line names."""
    stated = re.findall(r"optim\.(\w+)=(\S+)", line.partition("; ")[2])
    kinds = {"lr": float, "min_lr": float, "lr_decay_style": str, "lr_wsd_decay_style": str}
    values = {key: None if value == "null" else kinds.get(key, int)(value) for key, value in stated}
    return replace(optim, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("saved", "optim", "train", "keys"),
    [
        (OPTIM, OPTIM, replace(TRAIN, global_batch_size=4), "optim.lr_decay_samples=128 keeps"),
        (OPTIM, OPTIM, replace(TRAIN, train_steps=32), "optim.lr_decay_samples=128 keeps"),
        (OPTIM, OPTIM, replace(TRAIN, batch_ramp=BatchRampConfig(start=2, increment=2, samples=200)), "optim.lr_decay_samples=128 keeps"),
        (OPTIM, replace(OPTIM, lr=2e-3), TRAIN, "optim.lr=0.001 keeps"),
        (OPTIM, replace(OPTIM, lr=2e-3, min_lr=0.0), TRAIN, "optim.lr=0.001 optim.min_lr=0.0001 keeps"),
        (OPTIM, replace(OPTIM, lr_decay_samples=96), TRAIN, "optim.lr_decay_samples=128 keeps"),
        (OPTIM, replace(OPTIM, lr_warmup_samples=128), TRAIN, "optim.lr_warmup_samples=16 keeps"),
        (OPTIM, replace(OPTIM, lr_decay_style="constant"), replace(TRAIN, train_steps=32), "optim.lr_decay_style=cosine optim.lr_decay_samples=128 keeps"),
        (replace(OPTIM, lr_decay_style="constant"), OPTIM, TRAIN, "optim.lr_decay_style=constant keeps"),
        (replace(WSD, lr_decay_style="linear", lr_wsd_decay_samples=None), WSD, TRAIN, "optim.lr_decay_style=linear optim.lr_wsd_decay_samples=null keeps"),
    ],
    ids=["batch", "steps", "ramp", "peak", "peak and end", "stated end", "warm-up", "no decay", "decay", "shape"],
)  # fmt: skip
def test_a_resume_with_another_rate_names_the_keys_that_keep_it(
    saved: OptimConfig, optim: OptimConfig, train: TrainConfig, keys: str
) -> None:
    line = rate_change((saved, TRAIN), optim, train, SINCE)
    assert line is not None and keys in line and "\n" not in line
    kept = followed(line, optim)
    assert rate_change((saved, TRAIN), kept, train, SINCE) is None
    end = Standing(8, 64)
    for sample in range(64, 140, 7):
        wanted = learning_rate(replace(saved, lr_decay_samples=lr_decay_samples(saved, TRAIN, end)), TRAIN, sample)
        assert learning_rate(kept, train, sample, SINCE) == pytest.approx(wanted)


def test_the_line_has_both_rates_and_both_ends() -> None:
    saved = replace(OPTIM, min_lr=0.0), replace(TRAIN, train_steps=8)
    line = rate_change(saved, saved[0], replace(TRAIN, global_batch_size=4), SINCE)
    assert line == (
        "the learning rate of step 9 is 3.45e-04, and 0.00e+00 by the config of the checkpoint (the schedule ends at sample 96, "
        "and ended at 64); optim.lr_decay_samples=64 optim.min_lr=0.0001 goes on behind the end of that schedule"
    )
    kept = followed(line, saved[0])
    check_rate_left(kept, replace(TRAIN, global_batch_size=4), SINCE)
    assert learning_rate(kept, TRAIN, 64, SINCE) == 1e-4
    followed_line = rate_change(saved, kept, replace(TRAIN, global_batch_size=4), SINCE)
    assert followed_line is not None
    assert followed_line.endswith("; that schedule has come to its end, and this run goes on at optim.min_lr")


@pytest.mark.parametrize(
    ("optim", "train"),
    [
        (OPTIM, TRAIN),
        (replace(OPTIM, lr_decay_samples=128), replace(TRAIN, train_steps=99)),
        (replace(OPTIM, weight_decay=0.3), replace(TRAIN, micro_batch_size=2)),
        (OPTIM, replace(TRAIN, train_steps=8)),
    ],
    ids=["the same", "the same end, stated", "what is no part of it", "no step is left"],
)
def test_a_resume_with_the_same_rate_says_nothing(optim: OptimConfig, train: TrainConfig) -> None:
    assert rate_change((OPTIM, TRAIN), optim, train, SINCE) is None


def test_a_rate_that_has_no_end_asks_for_none() -> None:
    constant = replace(OPTIM, lr_decay_style="constant")
    assert rate_change((constant, TRAIN), constant, replace(TRAIN, train_steps=99, global_batch_size=2), SINCE) is None


def test_steps_behind_the_end_of_a_schedule_are_said() -> None:
    ended = replace(OPTIM, lr_decay_samples=64)
    line = past_its_end(ended, TRAIN, SINCE)
    assert (
        line is not None
        and "ended at sample 64" in line
        and "the 8 steps that are left train at optim.min_lr (0.0001)" in line
    )
    works = followed(line, ended)
    assert past_its_end(works, TRAIN, SINCE) is None and learning_rate(works, TRAIN, 64, SINCE) > OPTIM.min_lr
    for optim, train in (
        (OPTIM, TRAIN),
        (replace(OPTIM, lr_decay_samples=65), TRAIN),
        (replace(ended, lr_decay_style="constant"), TRAIN),
        (ended, replace(TRAIN, train_steps=8)),
    ):
        assert past_its_end(optim, train, SINCE) is None


BEGUN = Standing(step=8, consumed_samples=64, decay_start_sample=40)
ON_REQUEST = replace(OPTIM, lr_decay_style="constant", lr_wsd_decay_samples=80)


@pytest.mark.parametrize(
    ("optim", "train", "keys"),
    [
        (replace(ON_REQUEST, lr_wsd_decay_samples=40), TRAIN, "optim.lr_wsd_decay_samples=80 keeps"),
        (replace(ON_REQUEST, lr_wsd_decay_style="minus_sqrt"), TRAIN, "optim.lr_wsd_decay_style=linear keeps"),
        (replace(ON_REQUEST, lr=2e-3), replace(TRAIN, train_steps=99), "optim.lr=0.001 keeps"),
    ],
    ids=["length", "shape", "peak"],
)
def test_a_resume_that_changes_a_decay_that_has_begun_names_the_keys_that_keep_it(
    optim: OptimConfig, train: TrainConfig, keys: str
) -> None:
    line = rate_change((ON_REQUEST, TRAIN), optim, train, BEGUN)
    assert line is not None and keys in line
    assert rate_change((ON_REQUEST, TRAIN), followed(line, optim), train, BEGUN) is None


@pytest.mark.parametrize(
    ("optim", "train"),
    [
        (ON_REQUEST, replace(TRAIN, global_batch_size=4, train_steps=99)),
        (replace(ON_REQUEST, lr_decay_style="WSD"), TRAIN),
        (replace(ON_REQUEST, lr_wsd_decay_start_sample=56), TRAIN),
    ],
    ids=["batch and steps", "WSD", "another start"],
)
def test_neither_batch_nor_steps_nor_another_stated_start_move_a_decay_that_has_begun(
    optim: OptimConfig, train: TrainConfig
) -> None:
    assert rate_change((ON_REQUEST, TRAIN), optim, train, BEGUN) is None
    for sample in range(64, 130):
        wanted = learning_rate(ON_REQUEST, TRAIN, sample, BEGUN)
        assert learning_rate(optim, train, sample, BEGUN) == pytest.approx(wanted, rel=1e-12)


def test_a_start_that_the_config_states_too_late_is_said() -> None:
    assert another_start(replace(ON_REQUEST, lr_wsd_decay_start_sample=56), BEGUN) == (
        "the final decay of this run began at sample 40: optim.lr_wsd_decay_start_sample (56) changes nothing any more"
    )
    assert another_start(replace(ON_REQUEST, lr_wsd_decay_start_sample=40), BEGUN) is None
    assert another_start(ON_REQUEST, BEGUN) is None and another_start(ON_REQUEST, SINCE) is None


@pytest.mark.parametrize("changes", [{"lr_decay_style": "cosine"}, {"lr_wsd_decay_samples": None}])
def test_a_resume_that_has_no_place_for_a_decay_that_has_begun_is_refused(changes: dict[str, Any]) -> None:
    optim = replace(ON_REQUEST, **({"lr_wsd_decay_samples": None} | changes))
    with pytest.raises(UserError, match="must go on with the decay that this run began at sample 40"):
        check_final_decay(optim, BEGUN, 128)
    check_final_decay(optim, SINCE, 128)
    check_final_decay(replace(optim, lr_decay_style="WSD", lr_wsd_decay_samples=80), BEGUN, 128)


def test_a_resume_that_states_a_beginning_behind_it_is_refused() -> None:
    late = replace(ON_REQUEST, lr_wsd_decay_start_sample=63)
    with pytest.raises(
        UserError, match=r"\(63\) must not lie behind the run, which resumes after 64 samples .*=64 works"
    ):
        check_final_decay(late, SINCE, 128)
    check_final_decay(replace(late, lr_wsd_decay_start_sample=64), SINCE, 128)
    check_final_decay(late, BEGUN, 128)
