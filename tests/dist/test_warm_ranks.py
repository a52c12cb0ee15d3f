"""Ranks forked from the tests' warm server train what ranks of the command line train, bit for bit."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from pretrain.checkpoint.disk.tensors import open_tensors
from pretrain.parallel.local import run_local_ranks
from tests.dist.harness import PRELOAD, make_run, read_trace, run_and_trace
from tests.runs.cases import FAMILY_LAYOUTS, FAMILY_RUNS

ROOT = Path(__file__).parents[2]


def test_warm_ranks_train_what_the_command_line_trains_bit_for_bit(small_run: Path, tmp_path: Path) -> None:
    changes = (*FAMILY_RUNS["qwen3"].overrides, *FAMILY_LAYOUTS["tp2-pp2-full-recompute"])
    warm = make_run(small_run, tmp_path / "warm", *changes)
    ours = run_and_trace(warm)
    subprocess.run(
        [sys.executable, "-m", "pretrain", "train", str(small_run), f"run_dir={tmp_path / 'fresh'}", *changes],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    theirs = read_trace(tmp_path / "fresh", 0, None)
    assert len(ours.losses) == 10
    assert (ours.losses, ours.grad_norms, ours.validation) == (theirs.losses, theirs.grad_norms, theirs.validation)
    (warm_end,), (fresh_end,) = (
        sorted((tmp_path / name / "checkpoints").glob("step-*10")) for name in ("warm", "fresh")
    )
    with open_tensors(warm_end) as found, open_tensors(fresh_end) as expected:
        assert found.index.tensors.keys() == expected.index.tensors.keys()
        for tensor in expected.index.tensors:
            assert np.array_equal(found.read_all(tensor, "param"), expected.read_all(tensor, "param")), tensor


def look_at_the_server(results: str) -> int:
    """One rank, which notes what it was born with."""
    is_warm = {"pretrain.train.loop", "tests.dist.preloaded"} <= sys.modules.keys()
    threads = len(list(Path(f"/proc/{os.getppid()}/task").iterdir()))
    Path(results).write_text(f"{is_warm} {threads} {gc.get_freeze_count() > 100_000}")
    return 0


def test_the_server_has_the_trainer_and_one_thread_and_its_imports_are_no_garbage(tmp_path: Path) -> None:
    code, failure = run_local_ranks(
        look_at_the_server, str(tmp_path / "found"),
        preload=PRELOAD, num_ranks=1, device_type="cpu", log_dir=tmp_path / "logs",
    )  # fmt: skip
    assert code == 0, failure
    assert (tmp_path / "found").read_text() == "True 1 True"
