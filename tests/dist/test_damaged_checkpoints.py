"""A damaged checkpoint is never resumed from, never unpickled and never passed over in silence."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fanal.run_folder import COMPLETE, MANIFEST, STATE, checkpoints_dir, part_name, step_name
from pretrain.checkpoint.disk.manifest import Manifest, describe, manifest_bytes, seal_text
from pretrain.checkpoint.disk.state_file import read_state, state_text
from pretrain.checkpoint.disk.verify import verify_checkpoint
from tests.dist.harness import Trace, make_run, run_and_trace
from tests.runs.cases import TP2
from tests.runs.files import files_below

ROOT = Path(__file__).parents[2]
OVERRIDES = (*TP2, "checkpoint.interval=5", "data.validation=[]")


@pytest.fixture(scope="session")
def ten_steps(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trace]:
    """Two ranks, checkpoints at steps 5 and 10. Not to be changed."""
    folder = tmp_path_factory.mktemp("ten-steps")
    trace = run_and_trace(make_run(small_run, folder, *OVERRIDES))
    assert trace.exit_code == 0, trace.failure
    return folder, trace


@pytest.fixture
def copy(ten_steps: tuple[Path, Trace], tmp_path: Path) -> Path:
    """The folder of checkpoints of a run that may be damaged."""
    return Path(shutil.copytree(checkpoints_dir(ten_steps[0]), checkpoints_dir(tmp_path)))


def resume(small_run: Path, copy: Path, fault: str | None = None) -> Trace:
    return run_and_trace(make_run(small_run, copy.parent, *OVERRIDES), fault, fresh=False)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def seal(checkpoint: Path, step: int) -> None:
    """Make a folder whole as it is, the way only someone who can write COMPLETE can."""
    (checkpoint / STATE).write_text(state_text(replace(read_state(checkpoint, step=5), step=step)))
    paths = [path for path in files_below(checkpoint) if path not in (MANIFEST, COMPLETE)]
    content = manifest_bytes(Manifest(step=step, files=tuple(describe(checkpoint, path) for path in paths)))
    (checkpoint / MANIFEST).write_bytes(content)
    (checkpoint / COMPLETE).write_text(seal_text(content))


def pretrain(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pretrain", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_gives_the_straight_run_s_losses(
    small_run: Path, copy: Path, ten_steps: tuple[Path, Trace]
) -> None:
    flip_a_bit(copy / step_name(10) / "shards" / "rank-00001.safetensors")
    (copy / part_name(7)).mkdir()
    resumed = resume(small_run, copy)
    assert resumed.exit_code == 0, resumed.failure
    assert resumed.losses == {step: loss for step, loss in ten_steps[1].losses.items() if step > 5}
    assert sorted(path.name for path in copy.iterdir()) == [
        step_name(5), step_name(10), f"{step_name(10)}.bad", f"{step_name(10)}.bad.REASON",
    ], "what a save that never ended left is gone"  # fmt: skip
    reason = (copy / f"{step_name(10)}.bad.REASON").read_text()
    assert f"{copy / step_name(10)}/shards/rank-00001.safetensors has hash " in reason and reason.count("\n") == 1
    assert not verify_checkpoint(copy / step_name(10), deep=True).problems, "written again, whole"
    bad = verify_checkpoint(copy / f"{step_name(10)}.bad", deep=True)
    assert len(bad.problems) == 1, "kept as it was found"


def test_when_no_checkpoint_is_whole_the_run_is_refused_now_and_at_the_next_start(
    small_run: Path, copy: Path, tmp_path: Path
) -> None:
    flip_a_bit(copy / step_name(10) / "shards" / "rank-00000.safetensors")
    (copy / step_name(5) / COMPLETE).unlink()
    complaint = f"no checkpoint in {copy} is intact, and a run that had one does not restart from step 0 by itself; damaged and set aside: "
    both = f"{copy / step_name(5)}.bad, {copy / step_name(10)}.bad"
    first = pretrain("train", small_run, f"run_dir={tmp_path}", *OVERRIDES)
    assert first.returncode == 76, first.stderr
    assert f"error: {complaint}{both}" in first.stderr and "Traceback" not in first.stderr
    assert f"DAMAGED CHECKPOINT {copy / step_name(10)}, set aside as {copy / step_name(10)}.bad:" in first.stderr, (
        "loud"
    )
    assert f"{copy / step_name(10)}/shards/rank-00000.safetensors has hash " in first.stderr
    second = resume(small_run, copy)
    assert second.exit_code == 76 and second.failure is not None
    assert f"{complaint}{both}" in str(second.failure.error)
    assert not second.losses, "nothing may be trained"
    result = pretrain("verify", tmp_path)
    assert result.returncode == 76 and "set aside" in result.stdout
    assert f"error: {tmp_path} has no checkpoint but those that were set aside" in result.stderr


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def poison(path: Path, payload: bytes, *, same_size: bool) -> None:
    """Put a pickle that acts in a file's place; what follows its end is not read."""
    size = path.stat().st_size
    path.write_bytes(payload + bytes(max(0, size - len(payload))) if same_size else payload)


def test_a_pickle_that_acts_is_never_opened_in_whatever_file_it_hides(
    small_run: Path, copy: Path, tmp_path: Path, ten_steps: tuple[Path, Trace]
) -> None:
    """Each file in turn, with its size kept where the payload fits and with another size: one checkpoint for each."""
    flag = tmp_path / "executed"
    payload = pickle.dumps(Touch(flag))
    pickle.loads(payload)
    assert flag.exists(), "the payload is live"
    flag.unlink()
    shutil.rmtree(copy / step_name(10))
    cases = [(path, same_size) for path in files_below(copy / step_name(5)) for same_size in (True, False)]
    for step, (path, same_size) in enumerate(cases, start=6):
        poisoned = Path(shutil.copytree(copy / step_name(5), copy / step_name(step)))
        seal(poisoned, step)
        assert not verify_checkpoint(poisoned, deep=True).problems, "nothing but the payload may be wrong"
        poison(poisoned / path, payload, same_size=same_size)
    resumed = resume(small_run, copy)
    assert resumed.exit_code == 0, resumed.failure
    assert not flag.exists()
    assert len(list(copy.glob("*.bad"))) == len(cases) == 16
    assert resumed.losses == {step: loss for step, loss in ten_steps[1].losses.items() if step > 5}


def test_not_even_a_forged_seal_makes_a_file_act(small_run: Path, copy: Path, tmp_path: Path) -> None:
    """Who can write COMPLETE can have other numbers loaded, and no code run: nothing in a checkpoint is a pickle to anyone."""
    flag = tmp_path / "executed"
    shutil.rmtree(copy / step_name(10))
    for path in files_below(copy / step_name(5)):
        if path in (MANIFEST, COMPLETE, STATE):
            continue  # what the seal itself, or the choice of a checkpoint, reads: the test above
        folder = Path(shutil.copytree(copy, tmp_path / path.replace("/", "-") / "checkpoints"))
        poison(folder / step_name(5) / path, pickle.dumps(Touch(flag)), same_size=True)
        seal(folder / step_name(5), 5)
        trace = resume(small_run, folder)
        assert trace.exit_code in (2, 76) and not trace.losses, path
        assert not flag.exists(), path


def test_what_only_one_rank_reads_otherwise_condemns_no_checkpoint(small_run: Path, copy: Path) -> None:
    trace = resume(small_run, copy, "rank_1_reads_other_bytes")
    assert trace.exit_code == 70 and trace.failure is not None
    assert "ranks [1] read other bytes than rank 0" in str(trace.failure.error)
    assert sorted(path.name for path in copy.iterdir()) == [step_name(5), step_name(10)]


def test_a_save_that_the_file_system_lost_a_part_of_costs_no_older_checkpoint(
    small_run: Path, tmp_path: Path, ten_steps: tuple[Path, Trace]
) -> None:
    run = make_run(small_run, tmp_path, *OVERRIDES, "checkpoint.keep_last=1", "checkpoint.max_failed_saves=1")
    broken = run_and_trace(run, "writer_whose_file_of_step_10_loses_its_end")
    assert broken.exit_code == 70 and broken.failure is not None
    assert "checkpoint.max_failed_saves (1) allows no more" in str(broken.failure.error)
    assert "shards/rank-00001.safetensors has " in str(broken.failure.error)
    assert step_name(5) in {path.name for path in checkpoints_dir(tmp_path).iterdir()}
    assert step_name(10) not in {path.name for path in checkpoints_dir(tmp_path).iterdir()}
    resumed = run_and_trace(run, fresh=False)
    assert resumed.exit_code == 0 and resumed.losses == ten_steps[1].losses
    assert [path.name for path in checkpoints_dir(tmp_path).iterdir()] == [step_name(10)]


def test_verify_says_which_file_of_which_checkpoint(copy: Path, tmp_path: Path) -> None:
    for arguments in ((tmp_path,), (tmp_path, "--deep"), (copy / step_name(10), "--deep")):
        result = pretrain("verify", *arguments)
        assert result.returncode == 0 and not result.stderr, result.stderr
        assert step_name(10) in result.stdout
    flip_a_bit(copy / step_name(5) / "shards" / "rank-00000.safetensors")
    assert pretrain("verify", tmp_path).returncode == 0, "its size is right"
    result = pretrain("verify", tmp_path, "--deep")
    assert result.returncode == 76
    assert f"error: {copy / step_name(5)}/shards/rank-00000.safetensors has hash " in result.stderr
    assert result.stdout.count("FAILED") == 1 and "every byte as written" in result.stdout
    assert sorted(path.name for path in copy.iterdir()) == [step_name(5), step_name(10)], "nothing is set aside"
    (copy / step_name(10) / COMPLETE).unlink()
    result = pretrain("verify", copy / step_name(10))
    assert result.returncode == 76 and f"error: {copy / step_name(10) / COMPLETE} cannot be read" in result.stderr


def test_verify_refuses_a_path_that_is_no_checkpoint(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        result = pretrain("verify", path)
        assert result.returncode == 2
        assert f"error: PATH ({path}) must be a checkpoint's folder, a run's folder with one in it" in result.stderr


def test_verify_names_the_run_of_a_folder_of_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / step_name(5)).mkdir(parents=True)
    result = pretrain("verify", tmp_path / "checkpoints")
    assert result.returncode == 2 and f"{tmp_path} works" in result.stderr


def test_two_runs_in_one_folder_refuse_each_other(small_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pretrain", "train", str(small_run), f"run_dir={tmp_path}", *OVERRIDES]
    first = subprocess.Popen([*command, "train.train_steps=4000"], cwd=ROOT, stdout=subprocess.DEVNULL)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and '"step": 2,' in metrics.read_text()):
        assert first.poll() is None and time.monotonic() < deadline, "the first run never came to step 2"
        time.sleep(0.05)
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == 2, second.stderr
    assert f"error: run_dir ({tmp_path}) must belong to one run at a time, and process " in second.stderr
    assert "resumed" not in second.stdout and first.poll() is None, "the first goes on"
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(timeout=60) == 75
    for checkpoint in checkpoints_dir(tmp_path).iterdir():
        assert not verify_checkpoint(checkpoint, deep=True).problems
