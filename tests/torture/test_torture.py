"""A short torture: nothing may be lost. And two faults that it must find, or it would prove nothing."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from fanal.run_folder import COMPLETE, checkpoints_dir, step_name
from pretrain.inspect.kill import Kill, KillPlan
from tests.dist.harness import make_run, run_and_trace
from tests.runs.cases import DP2 as DP2_OVERRIDES
from tests.torture.chain import CP2, DP2, TP2_PP2, Tortured, problems_after_a_kill, torture
from tests.torture.warm import warm_start


def short(config: Path, folder: Path, layout=TP2_PP2, *, kills: int, seed: int, fault: str | None = None) -> Tortured:
    return torture(config, folder, layout, kills=kills, steps=12, seed=seed, start=warm_start(fault), tell=print)


@pytest.mark.parametrize("layout", [TP2_PP2, DP2, CP2], ids=lambda layout: layout.name)
def test_killed_runs_lose_no_checkpoint_and_no_bit(layout, small_run: Path, tmp_path: Path) -> None:
    result = short(small_run, tmp_path, layout, kills=4, seed=1, fault="writer_with_a_slow_disk")
    assert not result.problems, "\n".join(result.problems)
    assert len(result.kills) == 4
    assert Counter(kill.phase for kill in result.kills)["save"] >= 1, "most are aimed at saves"


def test_a_retention_that_deletes_before_the_new_checkpoint_is_whole_is_found(small_run: Path, tmp_path: Path) -> None:
    result = short(small_run, tmp_path, DP2, kills=8, seed=2, fault="older_checkpoints_deleted_before_each_save")
    assert any("was whole before the kill, had to be kept, and is gone" in problem for problem in result.problems)


def test_a_resume_that_forgets_moments_is_found(small_run: Path, tmp_path: Path) -> None:
    result = short(small_run, tmp_path, DP2, kills=8, seed=3, fault="optimizer_state_forgotten")
    assert any("not one bit may differ" in problem for problem in result.problems)


@pytest.fixture(scope="session")
def two_checkpoints(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 1 and 2. Not to be changed."""
    folder = tmp_path_factory.mktemp("two-checkpoints")
    steps = ("train.train_steps=2", "checkpoint.interval=1", "data.validation=[]")
    trace = run_and_trace(make_run(small_run, folder, *DP2_OVERRIDES, *steps))
    assert trace.exit_code == 0, trace.failure
    return folder


def a_kill(*seen_whole: str) -> Kill:
    plan = KillPlan(aim="save", target="one rank", delay_s=0)
    return Kill(plan=plan, phase="save", last_step=2, after_s=1, date="", pids=(), seen_whole=seen_whole, exit_code=70)


def test_each_loss_of_a_checkpoint_is_named(two_checkpoints: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(checkpoints_dir(two_checkpoints), checkpoints_dir(run_dir))
    one, two = (checkpoints_dir(run_dir) / step_name(step) for step in (1, 2))
    both = (one.name, two.name)
    assert not problems_after_a_kill(run_dir, both, a_kill(*both))
    (two / COMPLETE).rename(tmp_path / COMPLETE)
    assert f"{two / COMPLETE} cannot be read" in problems_after_a_kill(run_dir, (), a_kill())[0], (
        "named, but not sealed"
    )
    (tmp_path / COMPLETE).rename(two / COMPLETE)
    shutil.rmtree(one)
    found = problems_after_a_kill(run_dir, (), a_kill(*both))
    assert found == [f"{one.name} was whole before the kill, had to be kept, and is gone; left: {two.name}"]
    assert problems_after_a_kill(run_dir, both, a_kill(two.name)) == found, "known from before the start"
    assert not problems_after_a_kill(run_dir, (), a_kill(two.name)), "nobody ever saw it"
    two.rename(two.with_name(f"{two.name}.bad"))
    assert problems_after_a_kill(run_dir, (), a_kill()) == [f"{two.name}.bad was set aside as damaged"]
