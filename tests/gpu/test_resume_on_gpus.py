"""Runs on a GPU that are killed, or saved, or moved to a CPU, train what a straight run trains, and that what a CPU trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu.setting import DeviceType
from fanal.run_folder import checkpoints_dir
from tests.dist.harness import Trace, assert_same_training
from tests.gpu.where import DEVICE, needs_gpus, train_here

pytestmark = needs_gpus(1)

ROOT = Path(__file__).parents[2]
ALONE = ("model.num_query_groups=1", "model.num_layers=3", "train.global_batch_size=2")
"""A run that no other layout fits: prove kills and resumes it, and does not reshard."""
BF16 = ("train.precision=bf16", "data.document_mask=true")
LOSS, GRAD_NORM = 2e-5, 2e-4
"""Ten times what layouts on CPUs are held to: another device's kernels sum in another order. Not yet seen on a GPU."""
SHORT = ("train.train_steps=4", "train.validation_interval=null", "optim.lr_decay_samples=80")


def test_a_run_that_is_killed_goes_on_bit_for_bit(small_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pretrain", "prove", str(small_run), f"run_dir={tmp_path}", *ALONE, *BF16]
    command += [f"parallel.device={DEVICE}", "--steps", "6", "--kills", "1", "--seed", "3"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=400, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("prove/*/prove.json")
    record = json.loads(path.read_text())
    assert record["equal"] and record["runs"][0]["kills"]
    assert DEVICE == "cpu" or "train.deterministic=true" in path.read_text()


@pytest.fixture(scope="module")
def straight(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return train_here(small_run, tmp_path_factory.mktemp("straight"), *SHORT)


def test_a_gpu_trains_what_a_cpu_trains_in_fp32(small_run: Path, tmp_path: Path, straight: Trace) -> None:
    on_cpu = train_here(small_run, tmp_path / "cpu", *SHORT, device="cpu")
    assert_same_training(on_cpu, straight, loss=LOSS, grad_norm=GRAD_NORM)
    # The same initial weights bit for bit; matrix products sum in another order (TF32 is off by default).
    assert on_cpu.losses[1] == pytest.approx(straight.losses[1], rel=2e-6)


def test_saving_while_a_run_trains_changes_no_bit_of_it(small_run: Path, tmp_path: Path) -> None:
    asked = (*SHORT, *BF16, "train.deterministic=true")
    plain = train_here(small_run, tmp_path / "plain", *asked)
    saving = train_here(small_run, tmp_path / "saving", *asked, "checkpoint.interval=1", "checkpoint.keep_last=4")
    assert plain.exit_code == saving.exit_code == 0, (plain.failure, saving.failure)
    assert len(plain.losses) == 4 and saving.losses == plain.losses and saving.grad_norms == plain.grad_norms
    assert len([path for path in checkpoints_dir(tmp_path / "saving").iterdir() if path.is_dir()]) == 4


@pytest.mark.parametrize(("first", "then"), [(DEVICE, "cpu"), ("cpu", DEVICE)], ids=["to a CPU", "from a CPU"])
def test_a_checkpoint_goes_on_on_another_device(
    first: DeviceType, then: DeviceType, small_run: Path, tmp_path: Path, straight: Trace
) -> None:
    begun = train_here(small_run, tmp_path / "run", *SHORT, "train.train_steps=2", device=first)
    assert begun.exit_code == 0 and sorted(begun.losses) == [1, 2], begun.failure
    ended = train_here(small_run, tmp_path / "run", *SHORT, fresh=False, device=then)
    assert_same_training(ended, straight, loss=LOSS, grad_norm=GRAD_NORM)
