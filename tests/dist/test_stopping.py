"""Requests to a run: all ranks act after the same step, the checkpoint is whole, and a resume loses nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fanal.run_folder import checkpoints_dir, step_name
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.checkpoint.disk.verify import verify_checkpoint
from tests.dist.harness import Trace, make_run, run_and_trace
from tests.dist.test_command_line import ROOT, free_port
from tests.runs.cases import DP2


@pytest.fixture(scope="module")
def straight(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    trace = run_and_trace(make_run(small_run, tmp_path_factory.mktemp("not-stopped"), *DP2))
    assert trace.exit_code == 0, trace.failure
    return trace


def assert_whole_at(run_dir: Path, step: int) -> None:
    assert [path.name for path in checkpoints_in(checkpoints_dir(run_dir))] == [step_name(step)]
    assert not verify_checkpoint(checkpoints_dir(run_dir) / step_name(step), deep=True).problems


def assert_goes_on_as_if_never_stopped(small_run: Path, run_dir: Path, straight: Trace) -> None:
    resumed = run_and_trace(make_run(small_run, run_dir, *DP2), fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    assert resumed.losses == straight.losses and resumed.grad_norms == straight.grad_norms
    assert "was there before this start" not in resumed.output, "no file is left over"


@pytest.mark.parametrize(
    ("source", "who"),
    [
        ("rank_1_gets_sigusr1_at_step_3", "SIGUSR1 on rank 1"),
        ("rank_0_gets_sigint_at_step_3", "SIGINT on rank 0"),
        ("stop_is_dropped_at_step_3", "STOP file"),
    ],
)
def test_all_ranks_stop_after_the_same_step_and_the_run_goes_on_bit_for_bit(
    source: str, who: str, small_run: Path, tmp_path: Path, straight: Trace
) -> None:
    stopped = run_and_trace(make_run(small_run, tmp_path, *DP2), source)
    assert stopped.exit_code == 75, stopped.failure
    step = max(stopped.losses)
    assert step == 3 or (who == "STOP file" and 3 < step < 10)
    assert f"stopped on request ({who}); checkpoint: {checkpoints_dir(tmp_path) / step_name(step)}" in stopped.output
    assert_whole_at(tmp_path, step)
    assert not (tmp_path / "STOP").exists()
    assert_goes_on_as_if_never_stopped(small_run, tmp_path, straight)


def test_a_save_file_gives_one_checkpoint_and_the_run_goes_on_and_an_old_stop_file_does_not_stop_it(
    small_run: Path, tmp_path: Path, straight: Trace
) -> None:
    (tmp_path / "STOP").touch()
    saved = run_and_trace(make_run(small_run, tmp_path, *DP2), "save_is_dropped_at_step_3", fresh=False)
    assert saved.exit_code == 0, saved.failure
    assert saved.losses == straight.losses
    steps = [int(path.name.removeprefix("step-")) for path in checkpoints_in(checkpoints_dir(tmp_path))]
    first, last = sorted(steps)
    assert 3 <= first < last == 10
    assert f"started the checkpoint of step {first} on request (SAVE file)" in saved.output
    assert f"checkpoint: {checkpoints_dir(tmp_path) / step_name(first)} " in saved.output
    assert (
        "STOP (written " in saved.output
        and "so it was meant for an earlier one: removed without effect" in saved.output
    )
    assert not (tmp_path / "SAVE").exists() and not (tmp_path / "STOP").exists()


def test_a_run_stops_before_its_walltime_but_never_before_a_step(
    small_run: Path, tmp_path: Path, straight: Trace
) -> None:
    """The start alone takes longer than this walltime: a chain of such jobs still gets on, one step at a time."""
    walltime = ("train.walltime_s=0.2", "train.walltime_margin_s=0.1")
    stopped = run_and_trace(make_run(small_run, tmp_path, *DP2, *walltime))
    assert stopped.exit_code == 75, stopped.failure
    assert max(stopped.losses) == 1
    assert "stopped on request (walltime); checkpoint: " in stopped.output
    assert_whole_at(tmp_path, 1)
    assert_goes_on_as_if_never_stopped(small_run, tmp_path, straight)


@pytest.mark.parametrize("steps", [10, 4], ids=["on the way", "the last one"])
def test_a_signal_in_a_validation_ends_it_at_the_next_batch_and_no_further_step_is_done(
    steps: int, small_run: Path, tmp_path: Path
) -> None:
    overrides = (*DP2, "train.validation_samples=40", f"train.train_steps={steps}")
    signal_in_it = "rank_1_gets_sigterm_in_the_second_batch_of_the_second_validation"
    stopped = run_and_trace(make_run(small_run, tmp_path, *overrides), signal_in_it)
    assert stopped.exit_code == 75, stopped.failure
    assert (
        f"stopped on request (SIGTERM on rank 1); checkpoint: {checkpoints_dir(tmp_path) / step_name(4)}"
        in stopped.output
    )
    assert max(stopped.losses) == 4 and list(stopped.validation) == [0]
    assert_whole_at(tmp_path, 4)
    resumed = run_and_trace(make_run(small_run, tmp_path, *overrides), fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    assert list(resumed.validation) == ([0, 4] if steps == 4 else [0, 8, 10])


def test_a_signal_while_loading_takes_no_step(small_run: Path, tmp_path: Path) -> None:
    stopped = run_and_trace(
        make_run(small_run, tmp_path, *DP2, "data.validation=[]"), "rank_1_gets_sigterm_while_loading"
    )
    assert stopped.exit_code == 75, stopped.failure
    assert not stopped.losses and not checkpoints_in(checkpoints_dir(tmp_path))
    assert "stopped on request (SIGTERM on rank 1); nothing to save, no step was done" in stopped.output


@pytest.mark.parametrize("phase", ["group_creation", "model_build", "load"])
def test_a_rank_that_waits_for_its_peer_in_the_start_ends_within_seconds_of_a_signal_and_so_does_its_peer(
    phase: str, small_run: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    stopped = run_and_trace(make_run(small_run, tmp_path, *DP2), f"rank_0_gets_sigterm_in_{phase}")
    assert stopped.exit_code == 75 and stopped.failure is None, stopped.failure
    assert time.monotonic() - began < 50, "parallel.timeout_s is 60"
    assert "stopped on request (SIGTERM on rank 0); nothing to save, no step was done" in stopped.output
    assert not stopped.losses and "Traceback" not in stopped.output


@pytest.mark.parametrize(("numbers", "code"), [([signal.SIGTERM], 75), ([signal.SIGINT] * 2, 130)], ids=["TERM", "INT"])
def test_a_rank_whose_peers_nobody_started_says_so_and_ends_within_seconds_of_a_signal(
    numbers: list[signal.Signals], code: int, small_run: Path, tmp_path: Path
) -> None:
    """As with the variables of an earlier torchrun in the shell."""
    port = str(free_port())
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    process = subprocess.Popen(
        [sys.executable, "-m", "pretrain", "train", str(small_run), f"run_dir={tmp_path}"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables},
    )  # fmt: skip
    assert process.stderr is not None
    said = process.stderr.readline()
    assert said.startswith(f"waiting for 2 ranks at 127.0.0.1:{port} (1 here); "), said
    for number in numbers:
        process.send_signal(number)
        time.sleep(1.5)
    output, errors = process.communicate(timeout=20)
    assert process.returncode in (code, -signal.SIGINT if code == 130 else code), output + errors
    if code == 75:
        assert output == "stopped on request (SIGTERM on rank 0); nothing to save, no step was done\n"
    assert "Traceback" not in errors


@pytest.mark.parametrize("after_s", [0.0, 1.4, 3.4])
def test_sigterm_to_the_whole_group_at_any_moment_of_the_start_is_a_clean_stop(
    after_s: float, small_run: Path, tmp_path: Path
) -> None:
    """As a scheduler sends it: to the command, its ranks, the fork server and multiprocessing's resource tracker alike."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pretrain", "train", str(small_run), f"run_dir={tmp_path}", *DP2, "train.train_steps=4000"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    while not catches(process.pid, signal.SIGTERM):  # before its first line runs, Python itself cannot be asked
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 75, output
    assert "stopped on request (SIGTERM" in output
    assert "Traceback" not in output and "rror" not in output, output


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)
