"""Every schedule at twenty points and more of a run, by formulas and a walk of steps that are written down here once more; and
megatron-core's own scheduler as a judge."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from fanal.run_progress import NEW_RUN, Standing
from pretrain.config.schema import BatchRampConfig, BatchStageConfig, OptimConfig, TrainConfig
from pretrain.config.steps import consumed_samples_at, global_batch_size_at, last_step, step_at, train_samples
from pretrain.optim import schedule
from pretrain.optim.schedule import learning_rate, why_no_decay

PEAK, LOWEST, WARM_UP = 3e-4, 2e-5, 96

HEIGHTS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cosine": lambda x: math.cos(math.pi * x / 2) ** 2,
    "minus_sqrt": lambda x: (1 - x) / (1 + x**0.5),
    "exponential": lambda x: math.exp(math.log(2) * (1 - x)) - 1,
}
"""Height of a decay at a share x of its samples, in other words than the schedule's own."""


@dataclass(frozen=True)
class Situation:
    """A run of which every batch is known by hand."""

    train: TrainConfig
    batch_of: Callable[[int], int]
    """Batch of the step that starts at a sample."""
    end: int
    """Samples of the whole run, added up by hand."""
    since: Standing = NEW_RUN


TRAIN = TrainConfig(train_steps=60, global_batch_size=16, micro_batch_size=1)
STAGES = [
    BatchStageConfig(start_sample=200, global_batch_size=32),
    BatchStageConfig(start_sample=680, global_batch_size=64),
]
SITUATIONS = {
    "one batch": Situation(TRAIN, lambda _: 16, 960),
    # 24 steps of 4 up to 96, 12 of 8 up to 192, 8 of 12 up to 288, 16 of 16
    "ramp": Situation(
        replace(TRAIN, batch_ramp=BatchRampConfig(start=4, increment=4, samples=288)),
        lambda at: 4 if at < 96 else 8 if at < 192 else 12 if at < 288 else 16,
        544,
    ),
    # 13 steps of 16 end at 208, 15 of 32 at 688, 32 of 64
    "stages": Situation(
        replace(TRAIN, batch_stages=STAGES), lambda at: 16 if at < 200 else 32 if at < 680 else 64, 2736
    ),
    # up to 288 as the ramp, then 25 steps of 16 up to 688 (sample 680 is in the last of them), and none is left for the last stage
    "ramp and stage": Situation(
        replace(TRAIN, batch_ramp=BatchRampConfig(start=4, increment=4, samples=288), batch_stages=STAGES[1:]),
        lambda at: 4 if at < 96 else 8 if at < 192 else 12 if at < 288 else 16 if at < 680 else 64,
        544,
    ),
    # 20 steps of 16 were done before; 40 of 40 are left
    "another batch at a resume": Situation(
        replace(TRAIN, global_batch_size=40), lambda _: 40, 320 + 40 * 40, Standing(20, 320)
    ),
    # 20 steps of 16 were done before, and the stages change at a resume as well: 9 of 40 up to 680, then 31 of 64
    "other stages at a resume": Situation(
        replace(TRAIN, global_batch_size=40, batch_stages=STAGES[1:]),
        lambda at: 40 if at < 680 else 64,
        680 + 31 * 64,
        Standing(20, 320),
    ),
}  # fmt: skip


def walk(situation: Situation, until: int) -> list[int]:
    """Samples at which the steps of a run start that ends when ``until`` samples are consumed."""
    at, starts = situation.since.consumed_samples, []
    while at < until:
        starts.append(at)
        at += situation.batch_of(at)
    return starts


def by_hand(at: int, *, start: int, end: int, height: Callable[[float], float]) -> float:
    if at < WARM_UP:
        return PEAK * at / WARM_UP
    if at >= end:
        return LOWEST
    return LOWEST + (PEAK - LOWEST) * (height((at - start) / (end - start)) if at > start else 1.0)


def assert_as_by_hand(
    optim: OptimConfig, situation: Situation, since: Standing, *, start: int, end: int, height: Callable[[float], float]
) -> None:
    """At every step of the run, twenty at least."""
    starts = walk(situation, min(end, situation.end))
    assert len(starts) >= 20
    for number, at in enumerate(starts, start=situation.since.step):
        assert consumed_samples_at(situation.train, number, situation.since) == at
        assert step_at(situation.train, at, situation.since) == number
        assert global_batch_size_at(situation.train, at) == situation.batch_of(at)
        found = learning_rate(optim, situation.train, at, since)
        assert found == pytest.approx(by_hand(at, start=start, end=end, height=height), rel=1e-12), f"sample {at}"
    assert last_step(optim, situation.train, since) == situation.since.step + len(starts)
    assert train_samples(optim, situation.train, since) == starts[-1] + situation.batch_of(starts[-1])


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=list(SITUATIONS))
@pytest.mark.parametrize("style", ["linear", "cosine"])
def test_a_decay_over_the_whole_run_is_the_formula_at_every_step(style: str, situation: Situation) -> None:
    optim = OptimConfig(lr=PEAK, min_lr=LOWEST, lr_warmup_samples=WARM_UP, lr_decay_style=style)  # type: ignore[arg-type]
    assert_as_by_hand(optim, situation, situation.since, start=WARM_UP, end=situation.end, height=HEIGHTS[style])


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=list(SITUATIONS))
@pytest.mark.parametrize("shape", HEIGHTS)
def test_a_final_decay_counted_back_from_the_end_is_the_formula_at_every_step(shape: str, situation: Situation) -> None:
    optim = OptimConfig(
        lr=PEAK, min_lr=LOWEST, lr_warmup_samples=WARM_UP, lr_decay_style="WSD", lr_wsd_decay_samples=320,
        lr_wsd_decay_style=shape,  # type: ignore[arg-type]
    )  # fmt: skip
    end = situation.end
    assert_as_by_hand(optim, situation, situation.since, start=end - 320, end=end, height=HEIGHTS[shape])


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=list(SITUATIONS))
@pytest.mark.parametrize("style", ["WSD", "constant"])
@pytest.mark.parametrize("shape", HEIGHTS)
def test_a_decay_on_request_and_one_at_the_stated_sample_are_the_formula_and_end_the_run(
    shape: str, style: str, situation: Situation
) -> None:
    optim = OptimConfig(
        lr=PEAK, min_lr=LOWEST, lr_warmup_samples=WARM_UP, lr_decay_style=style, lr_wsd_decay_samples=1000,  # type: ignore[arg-type]
        lr_wsd_decay_style=shape,  # type: ignore[arg-type]
    )  # fmt: skip
    starts = [at for at in walk(situation, situation.end) if at >= WARM_UP]
    start = starts[3]
    since = situation.since._replace(decay_start_sample=start)
    long = replace(
        situation, train=replace(situation.train, train_steps=500), end=10**6
    )  # as a run without an end has it
    assert_as_by_hand(optim, long, since, start=start, end=start + 1000, height=HEIGHTS[shape])
    stated = replace(optim, lr_wsd_decay_start_sample=start)
    for at in range(0, start + 1100, 5):
        asked_for = learning_rate(optim, long.train, at, since)
        assert learning_rate(stated, long.train, at, long.since) == asked_for, "to the last bit"
    assert last_step(stated, long.train, long.since) == last_step(optim, long.train, since)


def test_a_run_that_ends_within_its_decay_keeps_its_last_step() -> None:
    optim = OptimConfig(lr=PEAK, lr_decay_style="constant", lr_wsd_decay_samples=480)
    since = Standing(50, 800, decay_start_sample=800)
    assert last_step(optim, TRAIN, since) == 60 and step_at(TRAIN, 800 + 480, since) == 80
    assert learning_rate(optim, TRAIN, 944, since) == pytest.approx(PEAK * (1 - 144 / 480))


@pytest.mark.parametrize(
    ("changes", "since", "said"),
    [
        ({"lr_decay_style": "cosine", "lr_wsd_decay_samples": None}, Standing(10, 160), "optim.lr_decay_style (cosine) decays from the warm-up on"),
        ({"lr_wsd_decay_samples": None}, Standing(10, 160), "optim.lr_wsd_decay_samples (null) does not say how long it takes"),
        ({}, Standing(12, 192, 160), "the decay began at sample 160 and ends at sample 480"),
        ({"lr_decay_style": "WSD"}, Standing(40, 640), "the decay began at sample 640 and ends at sample 960"),
        ({"lr_wsd_decay_start_sample": 160}, Standing(10, 160), "the decay began at sample 160 and ends at sample 480"),
        ({"lr_warmup_samples": 96}, Standing(5, 80), "the warm-up lasts until sample 96, and the run is at 80; ask again then"),
    ],
    ids=["cosine", "no length", "begun", "begun by itself", "begun where stated", "warm-up"],
)  # fmt: skip
def test_a_request_that_cannot_be_fulfilled_says_why(changes: dict[str, Any], since: Standing, said: str) -> None:
    optim = OptimConfig(lr=PEAK, lr_decay_style="constant", lr_wsd_decay_samples=320)
    assert said in str(why_no_decay(replace(optim, **changes), TRAIN, since))
    assert why_no_decay(optim, TRAIN, Standing(10, 160)) is None
    assert why_no_decay(replace(optim, lr_decay_style="WSD"), TRAIN, Standing(39, 624)) is None


def judge(optim: OptimConfig, *, end: int) -> Callable[[int], float]:
    """megatron-core's scheduler, which counts in samples as its trainer has it do."""
    theirs = OptimizerParamScheduler(
        SimpleNamespace(param_groups=[{}]),  # type: ignore[arg-type]
        init_lr=0.0, max_lr=optim.lr, min_lr=optim.min_lr, lr_warmup_steps=optim.lr_warmup_samples, lr_decay_steps=end,
        lr_decay_style=optim.lr_decay_style, start_wd=0.1, end_wd=0.1, wd_incr_steps=1, wd_incr_style="constant",
        wsd_decay_steps=optim.lr_wsd_decay_samples, lr_wsd_decay_style=optim.lr_wsd_decay_style,
    )  # fmt: skip

    def rate(at: int) -> float:
        theirs.num_steps = at
        return theirs.get_lr({})

    return rate


JUDGED = [{"lr_decay_style": "linear"}, {"lr_decay_style": "cosine"}, {"lr_decay_style": "constant"}] + [
    {"lr_decay_style": "WSD", "lr_wsd_decay_samples": 320, "lr_wsd_decay_style": shape} for shape in HEIGHTS
]


@pytest.mark.parametrize("changes", JUDGED, ids=lambda changes: "-".join(map(str, changes.values())))
def test_a_schedule_is_megatron_s_own(changes: dict[str, Any]) -> None:
    optim = OptimConfig(lr=PEAK, min_lr=LOWEST, lr_warmup_samples=WARM_UP, **changes)
    theirs = judge(optim, end=960)
    for at in range(0, 1100, 7):
        assert learning_rate(optim, TRAIN, at) == pytest.approx(theirs(at), rel=1e-12), f"sample {at}"


@pytest.mark.parametrize("shape", HEIGHTS)
def test_a_decay_on_request_is_what_megatron_does_with_its_end_set_to_it(shape: str) -> None:
    optim = OptimConfig(
        lr=PEAK, min_lr=LOWEST, lr_warmup_samples=WARM_UP, lr_decay_style="WSD", lr_wsd_decay_samples=320,
        lr_wsd_decay_style=shape,  # type: ignore[arg-type]
    )  # fmt: skip
    theirs = judge(optim, end=200 + 320)
    for at in range(200, 600, 7):
        found = learning_rate(optim, TRAIN, at, Standing(13, 208, decay_start_sample=200))
        assert found == pytest.approx(theirs(at), rel=1e-12), f"sample {at}"


def test_the_judge_and_the_formulas_tell_a_wrong_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: MiniCPM's exponential as it was published, which does not come down to min_lr."""
    monkeypatch.setitem(schedule.DECAYS, "exponential", lambda done, whole: 0.5 ** (done / whole))
    with pytest.raises(AssertionError, match="sample"):
        test_a_schedule_is_megatron_s_own(JUDGED[-1])
    with pytest.raises(AssertionError, match="sample"):
        test_a_final_decay_counted_back_from_the_end_is_the_formula_at_every_step("exponential", SITUATIONS["stages"])


def test_the_table_in_the_docs_is_what_the_schedule_gives() -> None:
    page = (Path(__file__).parents[3] / "docs" / "schedules.md").read_text()
    shapes = re.findall(r"`(\w+)`", next(line for line in page.splitlines() if line.startswith("| sample |")))
    rows = [
        [float(cell.replace(",", "")) for cell in line.strip("| ").split("|")]
        for line in page.splitlines()
        if re.match(r"\| \d", line)
    ]
    assert shapes == list(HEIGHTS) and len(rows) == 5
    for sample, *rates in rows:
        for shape, rate in zip(shapes, rates, strict=True):
            optim = OptimConfig(
                lr=3e-4, min_lr=3e-5, lr_decay_style="WSD", lr_wsd_decay_samples=100_000, lr_wsd_decay_style=shape,  # type: ignore[arg-type]
                lr_wsd_decay_start_sample=900_000,
            )  # fmt: skip
            assert f"{learning_rate(optim, TRAIN, int(sample)):.4e}" == f"{rate:.4e}"
