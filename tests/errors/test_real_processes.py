"""Bugs in the trainer as a user meets them: on local ranks, under torchrun, in the loader's thread."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
