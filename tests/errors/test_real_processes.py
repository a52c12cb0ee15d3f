"""Bugs in the trainer as a user meets them: on local ranks, under torchrun, in the loader's thread."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pretrain.train.loop
from fanal.errors import PassingError
from pretrain.__main__ import _guard
from pretrain.start_training import train_rank
from pretrain.train.loop import TooManySkippedStepsError
from tests.dist.harness import make_run
from tests.errors.planted import line_of

ROOT = Path(__file__).parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node", "2")


def train(config: Path, run_dir: Path, *overrides: str, plant: str, starter: tuple[str, ...] = (), **variables: str):
    """``python -m pretrain train``, with a bug planted in it."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'tests' / 'errors' / 'site'}:{ROOT}",
        "PLANT": plant,
        **variables,
    }
    return subprocess.run(
        [sys.executable, *starter, "-m", "pretrain", "train", str(config), f"run_dir={run_dir}", *overrides],
        cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def is_crash(said: str, bug: str) -> None:
    assert "Traceback (most recent call last)" in said, said
    assert f"in {bug}\n" in said and line_of(bug) in said, said


@pytest.mark.parametrize(
    ("place", "bug"),
    [
        ("pretrain.train.loop:train_step", "tuple_unpacking"),
        ("pretrain.data.reader:TrainReader._read", "int_of_a_word"),
    ],
    ids=["trainer", "loader"],
)
def test_a_bug_on_one_local_rank_is_a_traceback_on_the_terminal_and_in_a_log(
    place: str, bug: str, small_run: Path, tmp_path: Path
) -> None:
    done = train(small_run, tmp_path, plant=f"{place}:{bug}")
    assert done.returncode == 70, done.stderr
    is_crash(done.stderr, bug)
    is_crash((tmp_path / "logs" / "rank-00000.log").read_text(), bug)


def test_a_bug_on_one_of_two_local_ranks_is_a_traceback_on_the_terminal_and_in_its_log(
    small_run: Path, tmp_path: Path
) -> None:
    bug = "zip_of_unequal_lengths"
    done = train(small_run, tmp_path, "parallel.data_parallel_size=2", plant=f"pretrain.train.loop:train_step:{bug}:1")
    assert done.returncode == 70, done.stderr
    is_crash(done.stderr, bug)
    is_crash((tmp_path / "logs" / "rank-00001.log").read_text(), bug)


def test_a_bug_on_both_ranks_under_torchrun_is_a_traceback_of_each_and_code_70(small_run: Path, tmp_path: Path) -> None:
    codes = tmp_path / "codes"
    codes.mkdir()
    bug = "ragged_tensor"
    done = train(
        small_run, tmp_path / "run", plant=f"pretrain.train.loop:train_step:{bug}", starter=TORCHRUN,
        PRETRAIN_EXIT_CODES=str(codes),
    )  # fmt: skip
    is_crash(done.stderr, bug)
    assert done.stderr.count(line_of(bug)) == 2, done.stderr
    assert {path.name: path.read_text() for path in codes.iterdir()} == {"rank-00000": "70\n", "rank-00001": "70\n"}
    assert "error: " not in done.stderr.replace("ChildFailedError: ", "")


def test_a_run_that_diverges_ends_with_one_line_and_the_traceback_of_each_rank_in_its_log(
    small_run: Path, tmp_path: Path
) -> None:
    overrides = (
        "optim.lr=1e30",
        "optim.lr_warmup_samples=0",
        "train.max_skipped_steps=0",
        "train.validation_interval=null",
    )
    done = train(small_run, tmp_path, "parallel.data_parallel_size=2", *overrides, plant="none:none:none")
    assert done.returncode == 70, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the gradient norm was not finite (nan) in 1 steps in a row, up to step 2; ")
    assert "Traceback" not in done.stdout
    for rank in range(2):
        log = (tmp_path / "logs" / f"rank-{rank:05d}.log").read_text()
        assert "Traceback (most recent call last)" in log and "TooManySkippedStepsError" in log


@pytest.mark.parametrize(
    "error",
    [
        TooManySkippedStepsError("the gradient norm was not finite"),
        PassingError("MASTER_PORT (29500) must be free on node1"),
        OSError(errno.ENOSPC, "No space left on device", "/dev/shm/staging"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_known_end_of_a_rank_of_torchrun_is_one_line_and_its_traceback_is_in_its_log(
    error: Exception,
    small_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(pretrain.train.loop, "train", fail)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    run = make_run(small_run, tmp_path)
    assert _guard(lambda: train_rank(run)) == 70
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(error.args[-1]) in line
    log = (tmp_path / "logs" / "rank-00003.log").read_text()
    assert "Traceback (most recent call last)" in log and str(error.args[-1]) in log
