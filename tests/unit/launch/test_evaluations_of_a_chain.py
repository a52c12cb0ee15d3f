"""Evaluations beside a chain: what is due is queued once, what Slurm refuses is said, and the chain knows of neither."""

import errno
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fanal.errors import UserError
from launch import slurm
from launch.chain import evaluation_watch
from launch.chain.evaluation_rules import checked_evaluations, may_be_deleted
from launch.chain.evaluation_script import evaluation_script
from launch.chain.evaluation_watch import due_steps, ended, noted, queued_steps, watch
from launch.chain.evaluations import Evaluations, evaluations_of
from launch.chain.job import here
from launch.chain.request import Job
from launch.chain.script import files_of, script
from launch.chain.until import Until, write_until
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from tests.golden.launch_scripts import GOLDEN_CONFIG, GOLDEN_SITE, golden_job

WANTED = Evaluations(every=2, by="language", tasks="arc_easy,hella swag", limit=5, fewshot=3, hours=0.5)


def job_with(**changes: object) -> Job:
    return replace(golden_job(GOLDEN_CONFIG, GOLDEN_SITE), evaluations=replace(WANTED, **changes))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The launch folder of a run with checkpoints of steps 10 to 50, of which 50 is being written."""
    launch = tmp_path / "launch"
    launch.mkdir()
    for step in (10, 20, 30, 40, 50):
        checkpoint = tmp_path / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        if step != 50:
            (checkpoint / "COMPLETE").touch()
    facts = {"name": "fanal-mine", "run_dir": str(tmp_path), "evaluations": {"steps": 20, "train_steps": 50}}
    (launch / "job.json").write_text(json.dumps(facts))
    (launch / "site.yaml").write_text("description: a machine\ngpus_per_node: 0\ncores_per_node: 4\n")
    (launch / "evaluate.sbatch").write_text("#!/bin/bash\n")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("FANAL_NODES_FILE", str(tmp_path / "nodes.txt"))
    return launch


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What Slurm was asked: it gives each job a number."""
    found: list[list[str]] = []

    def ask(*command: str) -> str:
        found.append([Path(word).name for word in command])
        return f"{100 + len(found)}\n"

    monkeypatch.setattr(slurm, "ask", ask)
    return found


def test_each_checkpoint_that_is_due_is_queued_once(folder: Path, asked: list[list[str]]) -> None:
    watch(folder, parent=None)
    watch(folder, parent=None)
    assert asked == [["sbatch", "--parsable", "evaluate.sbatch", step] for step in ("20", "40")]
    assert [(line["event"], line["step"], line["job"]) for line in noted(folder)] == [
        ("queued", 20, "101"),
        ("queued", 40, "102"),
    ]
    (folder.parent / "checkpoints" / "step-00000050" / "COMPLETE").touch()
    watch(folder, parent=None)
    assert asked[2:] == [["sbatch", "--parsable", "evaluate.sbatch", "50"]], "that of the last step, too"


def test_an_evaluation_starts_once_it_is_kept_off_the_nodes_to_avoid(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(*command: str) -> str:
        asked.append(" ".join(Path(word).name for word in command))
        match command:
            case ("sbatch", *_):
                return "9\n"
            case ("squeue", *_):
                return "9 PENDING fanal-mine-evaluate\n"
            case ("sinfo", *_):
                return "n1 idle (null)\nn2 idle (null)\n"
            case ("scontrol", "show", *_):
                return f"JobId=9 NumNodes=1 Features=(null) ExcNodeList=(null) Command={folder}/evaluate.sbatch 20\n"
        return ""

    monkeypatch.setattr(slurm, "ask", ask)
    write_until(folder, Until(step=20))
    (folder.parent / "checkpoints" / "step-00000040" / "COMPLETE").unlink()
    (folder.parent / "nodes.txt").write_text("n1\n")
    watch(folder, parent=None)
    assert asked[0] == "sbatch --parsable --begin=now+120 evaluate.sbatch 20"
    assert asked[-2:] == ["scontrol update JobId=9 ExcNodeList=n1", "scontrol update JobId=9 StartTime=now"]
    assert queued_steps(folder) == {20}


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ("9 PENDING fanal-mine-evaluate", "scontrol failed (1): no permission"),
        ("9 CONFIGURING fanal-mine-evaluate", "Slurm does not show it waiting"),
        ("", "Slurm does not show it waiting"),
    ],
    ids=["refused", "not waiting", "not yet in the queue"],
)
def test_an_evaluation_that_could_not_be_kept_off_is_not_started_early(
    shown: str, reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def ask(*command: str) -> str:
        asked.append(command[-1])
        match command:
            case ("sbatch", *_):
                return "9\n"
            case ("squeue", *_):
                return f"{shown}\n"
            case ("sinfo", *_):
                return "n1 idle (null)\nn2 idle (null)\n"
            case ("scontrol", "show", *_):
                return f"JobId=9 NumNodes=1 Features=(null) ExcNodeList=(null) Command={folder}/evaluate.sbatch 20\n"
        raise slurm.SlurmError("scontrol failed (1): no permission")

    monkeypatch.setattr(slurm, "ask", ask)
    (folder.parent / "nodes.txt").write_text("n1\n")
    watch(folder, parent=None)
    assert "StartTime=now" not in asked and queued_steps(folder) == {20, 40}
    assert f"job 9 starts in 120 s: job 9 is not kept off the nodes to avoid: {reason}" in capsys.readouterr().err


def test_an_evaluation_waits_for_no_list_that_slurm_does_not_take(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*command: str) -> str:
        if command[0] == "sbatch":
            return "9\n"
        raise slurm.SlurmError(f"{command[0]}: no answer")

    monkeypatch.setattr(slurm, "ask", ask)
    (folder.parent / "nodes.txt").write_text("n1\n")
    watch(folder, parent=None)
    assert queued_steps(folder) == {20, 40} and "job 9 starts in 120 s: squeue: no answer" in capsys.readouterr().err


def test_the_checkpoint_that_ends_the_chain_early_is_evaluated(folder: Path, asked: list[list[str]]) -> None:
    write_until(folder, Until(step=30))
    watch(folder, parent=None)
    assert [words[-1] for words in asked] == ["20", "30", "40"]


def test_what_slurm_refuses_is_noted_and_tried_again_by_the_next_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*command: str) -> str:
        raise slurm.SlurmError("sbatch failed (1): no submission from compute nodes")

    monkeypatch.setattr(slurm, "ask", refuse)
    watch(folder, parent=None)
    assert [(line["event"], line["step"]) for line in noted(folder)] == [("not queued", 20), ("not queued", 40)]
    assert "no submission from compute nodes" in capfd.readouterr().err and queued_steps(folder) == set()
    monkeypatch.setattr(slurm, "ask", lambda *command: "9\n")
    watch(folder, parent=None)
    assert queued_steps(folder) == {20, 40}


def test_a_full_disk_does_not_queue_an_evaluation_again_and_again(
    folder: Path, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(evaluation_watch, "append", full)
    at, tried = here(folder), set[int]()
    for _ in range(3):
        evaluation_watch.queue_due(at, tried)
    assert [words[-1] for words in asked] == ["20", "40"] and queued_steps(folder) == set()
    assert "'queued' is not noted" in capsys.readouterr().err
    evaluation_watch.queue_due(at, set())
    assert [words[-1] for words in asked[2:]] == ["20", "40"], "what the process remembers is why"


def test_a_script_that_others_may_change_is_not_queued(folder: Path, asked: list[list[str]]) -> None:
    (folder / "evaluate.sbatch").chmod(0o666)
    watch(folder, parent=None)
    assert not asked and "to be queued again" in noted(folder)[0]["reason"]


def test_lines_that_others_could_have_written_are_not_believed(folder: Path, asked: list[list[str]]) -> None:
    (folder / "evaluations.jsonl").write_text('{"event": "queued", "step": 20}\n')
    (folder / "evaluations.jsonl").chmod(0o666)
    watch(folder, parent=None)
    assert [words[-1] for words in asked] == ["20", "40"]


def test_what_became_of_an_evaluation_is_a_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for code in (0, 2, 70):
        ended(folder, 20, code)
    reasons = [
        "its figures are recorded",
        "the input is wrong, or the checkpoint was deleted meanwhile",
        "it failed with exit code 70",
    ]
    assert [(line["job"], line["exit_code"], line["reason"]) for line in noted(folder)] == [
        ("12", code, reason) for code, reason in zip((0, 2, 70), reasons, strict=True)
    ]


def test_a_run_without_checkpoints_has_none_due(tmp_path: Path) -> None:
    assert due_steps(tmp_path, {"steps": 20, "train_steps": 50}) == []


def test_the_script_of_an_evaluation_is_good_shell_and_says_what_was_asked(tmp_path: Path) -> None:
    job = job_with(python="/opt/a python", include_path="/my tasks")
    text = evaluation_script(job, job.evaluations or WANTED)
    path = tmp_path / "evaluate.sbatch"
    path.write_text(text)
    assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0
    assert (
        "#SBATCH --nodes=1" in text and "#SBATCH --time=00:30:00" in text and f"--job-name={job.name}-evaluate" in text
    )
    begin = f"'/opt/a python' -m fanal evaluate {job.run_dir} --step \"$step\""
    assert f"{begin} --perplexity --by language --limit 5 || code=$?" in text
    tasks = "--tasks 'arc_easy,hella swag' --include-path '/my tasks' --fewshot 3 --limit 5"
    assert f"{begin} {tasks} || code=$?" in text


def test_the_script_of_a_chain_is_as_it_was_but_for_three_lines() -> None:
    job = job_with()
    hashes = dict.fromkeys(files_of(job), "0" * 64)
    plain = script(replace(job, evaluations=None), hashes).splitlines()
    added = [line for line in script(job, hashes).splitlines() if line not in plain]
    assert len(added) == 4 and all("evaluations" in line for line in added)
    assert sum(line.endswith("nothing waits for it") for line in added) == 1


def a_run(*overrides: str) -> RunConfig:
    return load_run(GOLDEN_CONFIG, ["data.validation_fraction=0.01", *overrides])


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"every": 0}, (), "--evaluate-every 1 works"),
        ({"by": None, "tasks": None}, (), "--evaluate-by domain works"),
        ({"hours": 0.0}, (), "--evaluate-hours 1 works"),
        ({}, ("checkpoint.interval=null",), "checkpoint.interval=1000 works"),
        ({}, ("data.validation_fraction=0.0",), "data.validation_fraction=0.001 works"),
        ({"packed": "not there"}, (), "may be left out"),
        ({"packed": "."}, (), "has no packed.json"),
        ({"tasks": None}, (), r"--evaluate-fewshot \(3\) belongs to --evaluate-tasks"),
        ({"tasks": "a,,b"}, (), "--evaluate-tasks hellaswag,arc_easy works"),
        ({"tasks": ""}, (), "--evaluate-tasks hellaswag,arc_easy works"),
        ({"tasks": "a,a"}, (), "each once"),
        ({"limit": 0}, (), "--evaluate-limit 1 works"),
        ({"fewshot": -1}, (), "--evaluate-fewshot 0 works"),
        ({"limit": 10**24}, (), "--evaluate-limit 1000 works"),
        ({"fewshot": 10**5}, (), "--evaluate-fewshot 5 works"),
    ],
)
def test_what_could_not_run_is_refused(
    changes: dict[str, object], overrides: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        checked_evaluations(replace(WANTED, **changes), a_run(*overrides), container="", workdir=tmp_path)
    assert checked_evaluations(WANTED, a_run(), container="", workdir=tmp_path) == WANTED


def test_an_option_without_every_says_so() -> None:
    assert evaluations_of({"nodes": 2, "evaluate_every": None, "evaluate_by": None}) == {"nodes": 2}
    assert evaluations_of({"nodes": 2, "evaluate_every": 3, "evaluate_by": "host"}) == {
        "nodes": 2, "evaluations": Evaluations(every=3, by="host"),
    }  # fmt: skip
    with pytest.raises(UserError, match=r"--evaluate-by needs --evaluate-every, .*--evaluate-every 1 works"):
        evaluations_of({"evaluate_every": None, "evaluate_by": "host"})


def test_a_run_that_deletes_what_is_to_be_evaluated_is_warned() -> None:
    keeps = ("checkpoint.interval=10", "checkpoint.keep_last=2")
    warning = may_be_deleted(WANTED, a_run(*keeps, "checkpoint.keep_every_steps=null"))
    assert warning is not None and "checkpoint.keep_every_steps=20 keeps those" in warning
    assert may_be_deleted(WANTED, a_run(*keeps, "checkpoint.keep_every_steps=20")) is None
