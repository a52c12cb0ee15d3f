"""What a job reads and does before its run, with a Slurm that is made up."""

import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from launch import job, jobs_file, slurm
from launch.site import load_site

SITE = "description: a machine\ngpus_per_node: 0\ncores_per_node: 4\n"


def test_a_line_after_a_torn_one_is_not_lost(tmp_path: Path) -> None:
    jobs_file.note(tmp_path, "merged", parts=3)
    with (tmp_path / "jobs.jsonl").open("a") as stream:
        stream.write('{"time_utc": "2026')
    jobs_file.note(tmp_path, "merged", parts=4)
    assert [record["parts"] for record in jobs_file.read(tmp_path)] == [3, 4]


def test_lines_that_are_none_of_ours_count_for_nothing(tmp_path: Path) -> None:
    lines = ["", "[]", "7", '{"event": "decided"}', '{"event": "started", "time_utc": "yesterday"}', '{"event": 7}']
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    records = jobs_file.read(tmp_path)
    assert (jobs_file.attempts(records), jobs_file.excluded(records)) == ([], ())
    assert jobs_file.restarts_without_checkpoint(records) == 0


@pytest.fixture
def launch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a run of job 7, which begins on n1."""
    folder = tmp_path / "launch"
    folder.mkdir()
    facts = {"name": "fanal-mine", "run_dir": str(tmp_path), "nodes": 1, "ranks_per_node": 1, "code_dir": str(tmp_path)}
    (folder / "job.json").write_text(json.dumps(facts))
    (folder / "site.yaml").write_text(SITE)
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1"}.items():
        monkeypatch.setenv(name, value)
    jobs_file.note(tmp_path, "submitted", jobs=["7", "8"])
    return folder


def asked(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> list[str]:
    """Commands of Slurm's that were called; those without an answer fail."""
    called: list[str] = []

    def ask(*command: str) -> str:
        called.append(" ".join(command))
        if command[0] not in answers:
            raise slurm.SlurmError(f"{command[0]}: no answer")
        return answers[command[0]]

    monkeypatch.setattr(slurm, "ask", ask)
    return called


def test_a_stop_file_that_came_while_the_chain_waited_ends_it(
    launch_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = launch_folder.parent
    called = asked(monkeypatch, {"scontrol": "n1\n", "squeue": "8\n", "scancel": ""})
    (run_dir / "STOP").touch()
    assert job.begin(launch_folder) is None
    assert "scancel 8" in called
    decided = jobs_file.read(run_dir)[-1]
    assert (decided["action"], decided["job"]) == ("stop", "7") and "STOP file" in decided["reason"]
    assert not (run_dir / "STOP").exists()


def test_a_stop_file_from_before_the_submission_does_not(launch_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(monkeypatch, {"scontrol": "n1\n"})
    (launch_folder.parent / "STOP").touch()
    os.utime(launch_folder.parent / "STOP", (1e9, 1e9))
    assert job.begin(launch_folder)


def test_a_job_whose_slurm_is_silent_at_its_end_has_said_what_became_of_it(
    launch_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(monkeypatch, {"scontrol": "n1\n"})
    job.begin(launch_folder)
    monkeypatch.setenv("FANAL_RANKS_PER_NODE", "2")  # the script of this job; rendered anew since
    codes = launch_folder / "7-0" / "exit-codes"
    for rank in range(2):
        (codes / f"rank-{rank}").write_text("75")

    def no_room(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "_tidy", no_room)
    called = asked(monkeypatch, {"scontrol": ""})
    assert job.end(launch_folder, before_training=None, walltime=True) == 75
    decided = jobs_file.read(launch_folder.parent)[-1]
    assert (decided["action"], decided["exit_code"]) == ("requeue", 75)
    assert "scontrol requeue 7" in called
    assert "No space left" in capsys.readouterr().err


def test_nodes_are_asked_for_at_once_whatever_variables_a_person_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
        [ -z "${SBATCH_NO_REQUEUE:-}${SLURM_RESTART_COUNT:-}" ] && [ "$SLURM_TIME_FORMAT" = standard ] || exit 1
        [ "$*" = "show node --oneliner n1,n2,n3" ] || exit 1
        echo "NodeName=n1 State=IDLE SlurmdStartTime=2026-01-01T00:00:00"
        echo "NodeName=n2 State=DOWN+NOT_RESPONDING SlurmdStartTime=None"
        echo "NodeName=n3 State=ALLOCATED SlurmdStartTime=2026-01-03T00:00:00"
    """
    (tmp_path / "scontrol").write_text(f"#!/bin/bash\n{text}")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name, value in {"SBATCH_NO_REQUEUE": "other", "SLURM_RESTART_COUNT": "2", "SLURM_TIME_FORMAT": "%s"}.items():
        monkeypatch.setenv(name, value)
    assert slurm.lost_nodes(["n1", "n2", "n3"], datetime(2026, 1, 2)) == ("n2", "n3")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('constraint: "a\\nb"', r"constraint \('a\\nb'\) must be one word"),
        ('qos: [{name: "a b", max_hours: 3}]', "name of qos a b .* must be one word"),
        ("environment: {A: {value: 'x\"y', reason: z}}", "environment.A.value .* must be one line"),
    ],
)
def test_a_site_whose_words_would_not_stay_words_is_refused(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE + line + "\n")
    with pytest.raises(ValueError, match=message):
        load_site(str(tmp_path / "site.yaml"))
