"""A finished run says so at once, and only where a start of it would do nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fanal.run_folder import METRICS_FILE, checkpoints_dir, step_name
from pretrain.data.sources import open_sources
from pretrain.log.finished import is_finished
from tests.dist.harness import make_run, run_and_trace
from tests.dist.test_command_line import ROOT

STEPS = 2
OVERRIDES = (f"train.train_steps={STEPS}", "train.validation_samples=2", "parallel.data_parallel_size=1")


@pytest.fixture(scope="module")
def finished(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    trace = run_and_trace(make_run(small_run, run_dir, *OVERRIDES))
    assert trace.exit_code == 0, trace.failure
    return run_dir


@pytest.fixture
def again(finished: Path) -> Path:
    """The run's folder, for a test to change, and as it was afterwards."""
    kept = finished.with_name("kept")
    shutil.copytree(finished, kept)
    yield finished  # type: ignore[misc]
    shutil.rmtree(finished)
    kept.rename(finished)


def says_so(config: Path, run_dir: Path, *overrides: str) -> bool:
    run = make_run(config, run_dir, *OVERRIDES, *overrides)
    return is_finished(run, open_sources(run))


def test_it_says_so_without_torch_and_changes_nothing(finished: Path, small_run: Path) -> None:
    before = (finished / METRICS_FILE).read_bytes()
    script = "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); from fanal.__main__ import main; main()"
    words = [sys.executable, "-c", script, "train", str(small_run), f"run_dir={finished}", *OVERRIDES]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"complete: step {STEPS} of {STEPS}" and lines[-1] == "False"
    assert any(line.startswith("validation loss") for line in lines)
    assert (finished / METRICS_FILE).read_bytes() == before


@pytest.mark.parametrize("change", ["train.train_steps=3", "optim.lr=1.0e-3", "data.train=[{prefix: PREFIX}]"])
def test_another_config_is_for_the_start_to_judge(
    change: str, finished: Path, small_run: Path, data_folder: Path
) -> None:
    assert says_so(small_run, finished)
    assert not says_so(small_run, finished, change.replace("PREFIX", str(data_folder / "shards" / "train-code")))


@pytest.mark.parametrize("fault", ["a flipped bit", "no end", "other tokens", "no checkpoint", "half a record"])
def test_what_is_not_as_it_was_is_for_the_start_to_judge(fault: str, again: Path, small_run: Path) -> None:
    checkpoint, metrics = checkpoints_dir(again) / step_name(STEPS), again / METRICS_FILE
    if fault == "a flipped bit":
        shard = max(checkpoint.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.chmod(0o644)
        shard.write_bytes(content)
    elif fault == "no end":
        metrics.write_text(
            "".join(line for line in metrics.read_text().splitlines(keepends=True) if '"kind": "end"' not in line)
        )
    elif fault == "half a record":
        (checkpoint / "data.json").chmod(0o644)
        (checkpoint / "data.json").write_text("[]")
    elif fault == "other tokens":
        text = (checkpoint / "data.json").read_text()
        (checkpoint / "data.json").chmod(0o644)
        identity = open_sources(make_run(small_run, again, *OVERRIDES)).train[0].identity
        (checkpoint / "data.json").write_text(text.replace(identity, "0" * len(identity)))
    else:
        shutil.rmtree(checkpoint)
    assert not says_so(small_run, again)
