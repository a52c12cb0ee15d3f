"""``fanal prove`` as a user and as an auditor meet it: equal, different, refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fanal.console import Console
from fanal.run_progress import newest_step
from pretrain.inspect.kill import Kill, KillPlan, Running
from pretrain.inspect.layouts import Layout
from pretrain.inspect.prove import prove, watch
from tests.dist.harness import make_run
from tests.runs.cases import DP2
from tests.torture.warm import warm_start

ROOT = Path(__file__).parents[2]
NO_OTHER_LAYOUT = (
    "model.ffn_hidden_size=177",
    "model.num_layers=1",
    "train.global_batch_size=2",
    "data.seq_length=126",
)


def command_line(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pretrain", "prove", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, "COLUMNS": "200", **environment},
    )  # fmt: skip


def record_of(run_dir: Path) -> dict:
    (record,) = run_dir.glob("prove/*/prove.json")
    return json.loads(record.read_text())


def test_a_sound_run_is_proved_from_the_command_line_and_the_run_itself_is_left_alone(
    small_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text("a run's own\n")
    options = ("--steps", 6, "--kills", 1, "--seed", 3)
    result = command_line(small_run, f"run_dir={tmp_path}", "optim.ema_decay=0.9", *NO_OTHER_LAYOUT, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (
        "6 steps as one-rank on 1 x cpu, 1 kills, seed 3; resumed also as: none, no other layout fits" in result.stdout
    )
    assert "equal: every run trained what the straight run trained" in result.stdout and not result.stderr
    said = [line for line in result.stdout.splitlines() if line.startswith("start ")]
    assert said == [
        "start 1 of 3: the straight run",
        "start 2 of 3: a run that is killed, kill 1 of 1",
        "start 3 of 3: the killed run, to its end",
    ]
    assert len(re.findall(r"^  took [0-9ms]+; about [0-9ms]+ left$", result.stdout, re.MULTILINE)) == 2, "an estimate"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "prove"]
    assert (tmp_path / "metrics.jsonl").read_text() == "a run's own\n"
    record = record_of(tmp_path)
    assert record["equal"] and record["seed"] == 3 and len(record["config_sha256"]) == 64
    (kill,) = record["runs"][0]["kills"]
    assert kill["exit_code"] in (-9, 70) and kill["pids"] and kill["date"]


def test_a_run_of_two_replicas_is_proved_in_its_own_layout_and_in_four_others(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(small_run, tmp_path, *DP2)
    code = prove(run, steps=6, kills=2, seed=1, console=Console(width=200), start=warm_start())
    captured = capsys.readouterr()
    assert code == 0, captured.out + captured.err
    runs = record_of(tmp_path)["runs"]
    assert [found["layout"]["name"] for found in runs if not found["same_layout"]] == ["one-rank", "TP2", "PP2", "CP2"]
    assert sum(len(found["kills"]) for found in runs) == 2
    assert all(found["resumed_from_step"] >= 2 for found in runs if not found["same_layout"])
    for found in runs:
        assert {figure["what"]: figure["holds"] for figure in found["comparisons"]} == {
            "data order": True, "loss": True, "gradient norm": True, "validation loss": True, "optimizer": True,
        }  # fmt: skip


def test_a_run_that_divides_its_sequences_is_killed_and_proved_in_other_layouts(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(small_run, tmp_path, "parallel.context_parallel_size=2", "parallel.data_parallel_size=1")
    code = prove(run, steps=6, kills=1, seed=2, console=Console(width=200), start=warm_start())
    captured = capsys.readouterr()
    assert code == 0, captured.out + captured.err
    runs = record_of(tmp_path)["runs"]
    assert [found["layout"]["name"] for found in runs] == ["CP2", "one-rank", "TP2", "PP2", "DP2"]
    assert all(figure["holds"] for found in runs for figure in found["comparisons"])


def test_a_kill_behind_the_last_checkpoint_is_no_scene_to_resume_from_and_another_takes_its_place(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [True]

    def first_too_late(process: Running, run_dir: Path, plan: KillPlan, layout: Layout) -> Kill | None:
        if not late:
            assert plan.delay_s < 0.001, "the next try comes sooner"
            return watch(process, run_dir, plan, layout)
        late.clear()
        while newest_step(run_dir) < 4:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        while (code := process.poll()) is None:
            time.sleep(0.001)
        assert code == -signal.SIGKILL, "the run was over: this case met nothing"
        return Kill(
            plan=plan, phase="step", last_step=4, after_s=0.0, date="", pids=(process.pid,), seen_whole=(), exit_code=code
        )  # fmt: skip

    monkeypatch.setattr("pretrain.inspect.prove.watch", first_too_late)
    run = make_run(small_run, tmp_path, "parallel.data_parallel_size=1")
    code = prove(run, steps=4, kills=1, seed=3, console=Console(width=200), start=warm_start())
    captured = capsys.readouterr()
    assert code == 0, captured.out + captured.err
    runs = record_of(tmp_path)["runs"]
    assert [len(found["kills"]) for found in runs if found["same_layout"]] == [1, 1]
    assert {found["resumed_from_step"] for found in runs if not found["same_layout"]} == {2}


def test_a_resume_that_forgets_moments_is_a_difference_that_is_named(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(small_run, tmp_path, "parallel.data_parallel_size=1", "optim.lr_warmup_samples=0")
    fault = warm_start("optimizer_state_forgotten")
    code = prove(run, steps=6, kills=1, seed=1, console=Console(width=200), start=fault)
    captured = capsys.readouterr()
    assert code == 1, captured.out + captured.err
    assert "DIFFERENT" in captured.out and "not one bit may differ" in captured.err
    assert "error: killed-1: optimizer: shards/" in captured.err
    assert "error: dp2: loss: loss of " in captured.err, "and in another layout, beyond the bound"
    assert "error: dp2: optimizer: " in captured.err and " off, more than 2e-05" in captured.err
    assert not record_of(tmp_path)["equal"]


def test_a_proof_that_is_killed_leaves_no_training_behind(small_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    overrides = (f"run_dir={folder}", "train.train_steps=100000", "optim.lr_decay_samples=null")
    words = [sys.executable, "-m", "pretrain", "prove", str(small_run), *overrides, "--steps", "100000"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, cwd=ROOT)
    while not list(folder.rglob("straight/metrics.jsonl")) and process.poll() is None:
        time.sleep(0.1)
    trainers = psutil.Process(process.pid).children(recursive=True)
    assert trainers
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(trainers, timeout=60)
    assert not alive


def test_what_cannot_be_proved_is_refused_in_one_line(small_run: Path, tmp_path: Path) -> None:
    run_dir = f"run_dir={tmp_path / 'run'}"
    for arguments, environment, message in (
        (("--steps", 2), {}, "--steps (2; "),
        (("--kills", 0), {}, "--kills (0) must be at least 1"),
        (("train.global_batch_size=7",), {}, "train.global_batch_size (7) must be a multiple of"),
        ((), {"RANK": "0", "WORLD_SIZE": "2"}, "prove starts its own ranks and kills them, and this process is already a rank (RANK 0"),
    ):  # fmt: skip
        result = command_line(small_run, run_dir, *arguments, **environment)
        assert result.returncode == 2, result.stderr
        assert result.stderr.startswith("error: ") and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_straight_run_that_fails_leaves_nothing_to_prove_and_says_why(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(small_run, tmp_path, *DP2)
    fault = warm_start("rank_1_fails_at_its_start")
    code = prove(run, steps=4, kills=1, seed=1, console=Console(), start=fault)
    assert code == 70
    assert "the straight run ended with exit code 70, so nothing was proved" in capsys.readouterr().err
