"""A rank that hangs is cut off in every act, with exit code 77 and the stacks of all ranks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fanal.exit_codes import HANG
from launch.status.collectives import hang
from tests.dist.harness import make_run, run_and_trace
from tests.dist.test_command_line import ROOT
from tests.runs.cases import DP2

SLACK_S = 40
"""Two cores that others use too; a hang that is not cut off would take the whole timeout of a collective, which is 60 s."""


def stacks_of(run_dir: Path, rank: int) -> str:
    return (run_dir / "logs" / f"stacks-rank-{rank:05d}.txt").read_text()


@pytest.mark.parametrize(
    ("act", "fault", "limit_s"),
    [
        ("init", "rank_1_hangs_in_init", 4),
        ("step", "rank_1_hangs_in_step_2", 3),
        ("validation", "rank_1_hangs_in_validation", 3),
        ("save", "rank_1_hangs_in_save", 3),
    ],
)
def test_a_rank_that_hangs_is_cut_off_and_every_rank_shows_where_it_stood(
    act: str, fault: str, limit_s: int, small_run: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    overrides = (*DP2, f"train.watchdog.{act}_s={limit_s}", "checkpoint.interval=2")
    trace = run_and_trace(make_run(small_run, tmp_path, *overrides), fault)
    assert trace.exit_code == HANG == 77, trace.failure
    assert time.monotonic() - started < limit_s + SLACK_S
    assert trace.failure is not None
    for words in (
        f"has been at {act} for",
        f"train.watchdog.{act}_s allows ({limit_s} s)",
        f"{tmp_path}/logs/stacks-rank-*.txt",
    ):
        assert words in trace.failure.text
    assert "in stuck_for_ever" in stacks_of(tmp_path, 1)
    assert "in stuck_for_ever" not in stacks_of(tmp_path, 0), "rank 0 waits in a collective"
    assert "in train" in stacks_of(tmp_path, 0), "the main thread is in the stacks"
    for rank in (0, 1):
        assert f"rank {rank} has been at {act}" in stacks_of(tmp_path, rank)
    assert "in stuck_for_ever" in (tmp_path / "logs" / "rank-00001.log").read_text(), "standard error gets them too"
    if act != "init":  # there no group may have been used yet
        line = hang(tmp_path)
        assert line is not None and line.startswith("rank 1 stands behind: in group "), line


def test_ranks_whose_peer_is_frozen_end_with_77_and_so_does_the_command(small_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pretrain", "train", str(small_run), f"run_dir={tmp_path}", *DP2]
    limits = ["train.train_steps=4000", "train.validation_interval=null", "train.watchdog.step_s=3"]
    process = subprocess.Popen(
        [*command, *limits], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and '"step": 3,' in metrics.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, "the run never came to step 3"
        time.sleep(0.05)
    log = (tmp_path / "logs" / "rank-00001.log").resolve()
    family = psutil.Process(process.pid).children(recursive=True)
    (rank_1,) = [child for child in family if Path(f"/proc/{child.pid}/fd/1").resolve() == log]
    os.kill(rank_1.pid, signal.SIGSTOP)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 77, output
    assert output.splitlines()[-1].startswith("watchdog: rank 0 has been at step for"), "the last line says why"
    # Which collective misses rank 1 first is chance: a gradient's, or the word on what is asked of the run.
    assert "in _steps\n" in stacks_of(tmp_path, 0) and "in _steps\n" in output
    assert hang(tmp_path) == "no record of rank 1, which was frozen or gone"
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, "the frozen rank is gone too"
