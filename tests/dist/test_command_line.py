"""The command line as a user meets it: real processes, exit codes, one readable message."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.dist.harness import make_run, run_and_trace
from tests.runs.cases import DP2

ROOT = Path(__file__).parents[2]


def pretrain(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pretrain", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **(environment or {})},
    )  # fmt: skip


BAD_INPUT = {
    "unknown key": (["train.train_step=3"], "train.train_step is not a key; did you mean train.train_steps?"),
    "missing shard": (["data.train=[{prefix: /nowhere/shard}]"], "/nowhere/shard"),
    "layout against heads": (
        ["parallel.tensor_model_parallel_size=3"],
        "model.num_attention_heads (8) must be a multiple of parallel.tensor_model_parallel_size (3); "
        "tensor_model_parallel_size=2 works",
    ),
    "layout against layers": (
        ["parallel.pipeline_model_parallel_size=3"],
        "model.num_layers (4) must be a multiple of parallel.pipeline_model_parallel_size (3)",
    ),
    "vocabulary below the tokenizer's": (
        ["model.vocab_size=1000"],
        "model.vocab_size (1000) must be at least the 2000",
    ),
    "global batch": (
        ["train.global_batch_size=7"],
        "train.global_batch_size (7) must be a multiple of train.micro_batch_size (2) * data_parallel_size (1) = 2; "
        "the next one is 8",
    ),
    "sequence longer than the data": (
        ["data.seq_length=100000000"],
        "data.seq_length (100000000) needs sources of at least",
    ),
    "not an override": (["train_steps"], "must be key=value"),
    "a type": (["train.train_steps=many"], "train.train_steps"),
    "tokenizer is missing": (["data.tokenizer=/nowhere"], "/nowhere"),
}


@pytest.mark.parametrize(("overrides", "message"), BAD_INPUT.values(), ids=list(BAD_INPUT))
def test_bad_input_is_one_line_that_names_it_and_exit_code_2(
    overrides: list[str], message: str, small_run: Path, tmp_path: Path
) -> None:
    result = pretrain("train", str(small_run), f"run_dir={tmp_path / 'run'}", *overrides)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists(), "nothing may be written for a run that cannot start"


def test_a_run_folder_that_cannot_be_is_refused(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = pretrain("train", str(small_run), f"run_dir={tmp_path / 'file'}")
    assert result.returncode == 2, result.stderr
    assert (
        f"error: run_dir ({tmp_path / 'file'}) must be a folder that can be made and written to: File exists"
        in result.stderr
    )
    assert (tmp_path / "file").read_text() == "in the way"


def test_ranks_that_do_not_fit_the_layout_are_refused_under_torchrun(small_run: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "pretrain", "train"]
    overrides = [f"run_dir={tmp_path}", "parallel.tensor_model_parallel_size=4"]
    result = subprocess.run(
        [*torchrun, str(small_run), *overrides], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode != 0
    assert "2 ranks cannot hold whole replicas of parallel.tensor_model_parallel_size (4)" in result.stderr
    assert "start 4 or 8 ranks" in result.stderr
    assert result.stderr.count("error: ") == 1 and "ValueError" not in result.stderr, "one rank speaks, in one line"


def test_a_batch_that_the_ranks_given_cannot_share_is_refused_under_torchrun(small_run: Path, tmp_path: Path) -> None:
    """data_parallel_size is left open here, so only the ranks tell; the second stage of the ramp is the one that fails."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "pretrain", "train"]
    overrides = [f"run_dir={tmp_path}", "train.batch_ramp={start: 4, increment: 2, samples: 24}"]
    result = subprocess.run(
        [*torchrun, str(small_run), *overrides], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (
        "train.batch_ramp.increment (2) must be a multiple of train.micro_batch_size (2) * data_parallel_size (2) = 4"
        in result.stderr
    )


def test_torchrun_trains_what_the_local_ranks_train(small_run: Path, tmp_path: Path) -> None:
    ours = run_and_trace(make_run(small_run, tmp_path / "local", *DP2))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "pretrain", "train"]
    subprocess.run(
        [*torchrun, str(small_run), f"run_dir={tmp_path / 'torchrun'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    losses = re.findall(r'"loss": ([0-9.]+)', (tmp_path / "torchrun" / "metrics.jsonl").read_text())
    assert [float(loss) for loss in losses] == list(ours.losses.values())


def test_srun_s_environment_gives_each_process_its_rank(small_run: Path, tmp_path: Path) -> None:
    ours = run_and_trace(make_run(small_run, tmp_path / "local", *DP2, "train.train_steps=3"))
    environment = {
        "SLURM_STEP_NUM_TASKS": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pretrain",
        "train",
        str(small_run),
        f"run_dir={tmp_path / 'srun'}",
        "train.train_steps=3",
    ]
    ranks = [
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    losses = re.findall(r'"loss": ([0-9.]+)', (tmp_path / "srun" / "metrics.jsonl").read_text())
    assert [float(loss) for loss in losses] == list(ours.losses.values())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("rank_1_raises_at_step_2", "RuntimeError: the fan of rank 1 has stopped"),
        ("rank_1_is_killed_at_step_2", "rank 1 was killed by SIGKILL"),
    ],
)
def test_the_first_rank_to_fail_is_the_one_reported(fault: str, message: str, small_run: Path, tmp_path: Path) -> None:
    """Its peers fail a moment later, inside a collective; their errors say nothing."""
    trace = run_and_trace(make_run(small_run, tmp_path, *DP2, "parallel.tensor_model_parallel_size=2"), fault)
    assert trace.failure is not None and trace.failure.rank == 1
    assert message in trace.failure.text
    assert trace.exit_code != 0
    assert 2 not in trace.losses, "no step may be logged after a rank is lost"


def test_sigterm_saves_a_checkpoint_and_exits_75_and_the_run_goes_on(small_run: Path, tmp_path: Path) -> None:
    arguments = [
        sys.executable,
        "-m",
        "pretrain",
        "train",
        str(small_run),
        f"run_dir={tmp_path}",
        *DP2,
        "train.train_steps=400",
    ]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and '"step": 3,' in metrics.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, "the run never came to step 3"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    stopped = re.search(r"stopped on request; checkpoint: .*step-(\d+)", output)
    assert stopped is not None, output
    step = int(stopped.group(1))
    result = pretrain("train", *arguments[4:-1], f"train.train_steps={step + 2}")
    assert result.returncode == 0, result.stderr
    assert f"resumed after step {step}" in result.stdout
    assert f"complete: step {step + 2} of {step + 2}" in result.stdout


def test_a_rank_that_cannot_even_open_its_log_is_a_failure_and_not_a_hang(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "logs" / "rank-00001.log").mkdir(parents=True)
    run = make_run(small_run, tmp_path / "run", *DP2)
    trace = run_and_trace(run, fresh=False)
    assert trace.failure is not None and trace.failure.rank == 1
    assert "IsADirectoryError" in trace.failure.text


def test_no_rank_outlives_the_process_that_started_it(small_run: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pretrain",
        "train",
        str(small_run),
        f"run_dir={tmp_path}",
        *DP2,
        "train.train_steps=4000",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "metrics.jsonl").is_file() and '"step": 2,' in (tmp_path / "metrics.jsonl").read_text()):
        assert process.poll() is None and time.monotonic() < deadline, "the run never came to step 2"
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3, "a fork server and two ranks"
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_show_prints_the_tree_and_what_follows_without_data_or_ranks() -> None:
    result = pretrain("show", "configs/lucie-7b/pretrain.yaml", environment={"COLUMNS": "120"})
    assert result.returncode == 0, result.stderr
    for fact in ("hidden_size: 4096", "6,706,958,336", "512 (16 per replica, 32 replicas)", "4,194,304", "753,851"):
        assert fact in result.stdout
    assert re.search(r"FLOPs per token +│ 4\.508e\+10", result.stdout)
