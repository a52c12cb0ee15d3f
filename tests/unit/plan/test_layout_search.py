"""The search tries what the config's rules allow, gives a reason for all else, and says what is nearest where nothing fits."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fanal.errors import UserError
from pretrain.config.load import load_run
from pretrain.config.rules import check, check_ranks
from pretrain.plan.estimate import StepEstimate, estimate_step, usable_bytes
from pretrain.plan.layout_file import write_layout
from pretrain.plan.machine import FigureConfig, load_machine
from pretrain.plan.search import MEMORY, SCHEDULE, Found, samples_at_a_time, search

H100 = load_machine("h100")
FAST = "configs/lucie-7b/pretrain-fast.yaml"
PUBLISHED_RAMP = ("train.batch_ramp.start=256", "train.batch_ramp.increment=64")
"""Of Lucie-7B: it holds back what the shipped file has."""
TP8 = ("parallel.tensor_model_parallel_size=8", "parallel.data_parallel_size=64")
"""A layout that the published ramp allows."""
SECONDS = 20
"""CPU time that 10,000 layouts may take, on one core."""


@pytest.fixture(scope="module")
def lucie() -> Iterator[tuple[Found, float]]:
    began = time.process_time()
    yield search(load_run(FAST, [*PUBLISHED_RAMP, *TP8]), H100, 512), time.process_time() - began


def test_ten_thousand_layouts_take_seconds(lucie: tuple[Found, float]) -> None:
    found, seconds = lucie
    assert found.tried >= 10_000
    assert seconds < SECONDS


def test_the_fastest_come_first_and_all_pass_the_rules_and_fit(lucie: tuple[Found, float]) -> None:
    found, _ = lucie
    steps = [one.step_s for one in found.fitting]
    assert steps == sorted(steps)
    for one in found.fitting[:: max(1, len(found.fitting) // 50)]:
        check(one.run)
        check_ranks(one.run, 512)
        assert one.peak_bytes <= usable_bytes(H100)


def test_every_layout_fits_or_has_a_reason(lucie: tuple[Found, float]) -> None:
    found, _ = lucie
    assert len(found.fitting) + sum(group.count for group in found.left_out.values()) == found.tried
    assert found.left_out[MEMORY].example.endswith("of 72.0")
    assert "train.batch_ramp" in found.left_out[SCHEDULE].example


def test_the_batch_ramp_holds_back_a_faster_layout_and_the_advised_one_allows_it(lucie: tuple[Found, float]) -> None:
    found, _ = lucie
    held = found.held_back
    assert held is not None and held.step_s < found.fitting[0].step_s
    samples = samples_at_a_time(held.run)
    advised = load_run(FAST, [f"train.batch_ramp.start={samples}", f"train.batch_ramp.increment={samples}"])
    with pytest.raises(UserError, match="batch_ramp"):
        check(replace(load_run(FAST, [*PUBLISHED_RAMP, *TP8]), parallel=held.run.parallel))
    allowed = replace(held.run, train=replace(held.run.train, batch_ramp=advised.train.batch_ramp))
    check(allowed)
    check_ranks(allowed, 512)
    assert estimate_step(allowed, H100, 512).step_s == held.step_s


def test_the_layout_of_the_file_says_the_same_figures(lucie: tuple[Found, float], tmp_path: Path) -> None:
    best = lucie[0].fitting[0]
    write_layout(tmp_path / "layout.yaml", best, "h100")
    again = estimate_step(load_run(FAST, [*PUBLISHED_RAMP, f"@{tmp_path / 'layout.yaml'}"]), H100, 512)
    assert figures(again) == figures(best)
    other = estimate_step(
        load_run(FAST, [*PUBLISHED_RAMP, f"@{tmp_path / 'layout.yaml'}", "train.recompute=full"]), H100, 512
    )
    assert figures(other) != figures(best)


def figures(one: StepEstimate) -> tuple[object, ...]:
    return one.stages, one.times, one.tokens, one.mfu_full, one.mfu_causal


def test_1b_on_a_node_takes_a_larger_micro_batch_than_it_ships() -> None:
    found = search(load_run("configs/1b.yaml"), H100, 8)
    fitting = {one.run.train.micro_batch_size for one in found.fitting if one.run.parallel.data_parallel_size == 8}
    assert {2, 4, 8} <= fitting


def test_a_model_that_fits_nowhere_is_told_the_nearest_and_a_size_that_works() -> None:
    run = load_run("configs/models/apertus-70b/pretrain.yaml")
    with pytest.raises(UserError, match="no layout of 8 GPUs fits 80 GiB") as refused:
        search(run, H100, 8)
    advised = int(str(refused.value).split("GPUs of ")[-1].split()[0].replace(",", ""))
    larger = replace(H100, memory_gib=FigureConfig(value=advised, source="a test"))
    assert search(run, larger, 8).fitting
    more = int(str(refused.value).split(" GPUs work")[0].split()[-1])
    assert search(run, H100, more).fitting and more > 8


def test_no_gpus_are_refused() -> None:
    with pytest.raises(UserError, match="--gpus 8 works"):
        search(load_run("configs/1b.yaml"), H100, 0)
