"""What a job reads and does before its run, with a Slurm that is made up."""

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from fanal.run_folder import JOBS_FILE
from launch import slurm
from launch.__main__ import cli
from launch.chain import job, jobs_file
from launch.chain.until import Until, write_until
from launch.sites.site import load_site

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
SITE = "description: a machine\ngpus_per_node: 0\ncores_per_node: 4\n"


def test_a_node_is_excluded_until_its_note_is_too_old_or_a_job_may_use_it_again() -> None:
    decision = {"time_utc": "2026-03-01T10:00:00Z", "event": "decided", "exclude": ["n1", "n2"]}
    freed = {"time_utc": "2026-03-01T11:00:00Z", "event": "nodes", "freed": ["n1"]}
    noted = jobs_file.time_of(decision["time_utc"])
    assert jobs_file.excluded([decision], since=noted) == ("n1", "n2")
    assert jobs_file.excluded([decision, freed], since=noted) == ("n2",)
    assert jobs_file.excluded([freed, decision], since=noted) == ("n1", "n2"), "noted once more"
    assert jobs_file.excluded([decision], since=noted + timedelta(seconds=1)) == ()


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
    assert (jobs_file.attempts(records), jobs_file.excluded(records, since=LONG_AGO)) == ([], ())
    assert jobs_file.restarts_without_checkpoint(records) == 0


@pytest.mark.parametrize(
    "field",
    [
        '"exclude": [{}]', '"exclude": "n1"', '"restart": true', '"step": -1', f'"step": {10**400}', f'"step": {"9" * 5000}',
        '"nodes": ' + "[" * 100_000,
    ],
)  # fmt: skip
def test_a_decision_with_a_field_of_another_kind_counts_for_nothing(tmp_path: Path, field: str) -> None:
    fields = {"job": "7", "restart": 0, "action": "stop", "reason": "", "step": 5, "restarts_without_checkpoint": 2}
    whole = json.dumps({"time_utc": "2026-03-01T10:00:00Z", "event": "decided", **fields, "exclude": ["n1"]})
    # Of two fields with one name, JSON takes the last.
    (tmp_path / "jobs.jsonl").write_text(f"{whole}\n{whole[:-1]}, {field}}}\n")
    records = jobs_file.read(tmp_path)
    assert len(records) == 1 and jobs_file.excluded(records, since=LONG_AGO) == ("n1",)


@pytest.mark.parametrize("nodes", [[3], ["n1", None], [["n1"]], {"n1": 1}])
def test_a_start_on_nodes_without_names_counts_for_nothing(tmp_path: Path, nodes: object) -> None:
    jobs_file.note(tmp_path, "started", job="7", restart=0, nodes=nodes, step=0)
    assert jobs_file.attempts(jobs_file.read(tmp_path)) == []


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
    monkeypatch.setenv("FANAL_NODES_FILE", str(tmp_path / "nodes.txt"))
    jobs_file.note(folder, "submitted", jobs=["7", "8"])
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
    decided = jobs_file.read_run(run_dir)[-1]
    assert (decided["action"], decided["job"]) == ("stop", "7") and "STOP file" in decided["reason"]
    assert not (run_dir / "STOP").exists()


def test_a_chain_of_before_whose_files_are_open_to_the_group_goes_on_and_is_closed(
    launch_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(monkeypatch, {"scontrol": "n1\n"})
    launch_folder.chmod(0o2775)
    (launch_folder / "site.yaml").chmod(0o664)
    assert job.begin(launch_folder)
    assert launch_folder.stat().st_mode & 0o7777 == 0o2755
    assert (launch_folder / "site.yaml").stat().st_mode & 0o777 == 0o644


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

    monkeypatch.setattr(job, "tidy", no_room)
    called = asked(monkeypatch, {"scontrol": ""})
    assert job.end(launch_folder, before_training=None, walltime=True) == 75
    decided = jobs_file.read_run(launch_folder.parent)[-1]
    assert (decided["action"], decided["exit_code"]) == ("requeue", 75)
    assert "scontrol requeue 7" in called
    assert "No space left" in capsys.readouterr().err


def test_a_stop_file_ends_a_job_that_was_added_to_the_chain_by_hand(
    launch_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    asked(monkeypatch, {"scontrol": "n1\n", "squeue": "", "scancel": ""})
    (launch_folder.parent / "STOP").touch()
    assert job.begin(launch_folder) is None
    assert jobs_file.read_run(launch_folder.parent)[-1]["action"] == "stop"


@pytest.mark.parametrize(("age_s", "runs"), [(-10, True), (10, False)], ids=["before the script", "after it"])
def test_without_a_submission_a_stop_file_is_meant_if_it_is_newer_than_the_script(
    age_s: int, runs: bool, launch_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (launch_folder / JOBS_FILE).unlink()
    asked(monkeypatch, {"scontrol": "n1\n", "squeue": "", "scancel": ""})
    (launch_folder / "job.sbatch").touch()
    os.utime(launch_folder / "job.sbatch", (2e9, 2e9))
    (launch_folder.parent / "STOP").touch()
    os.utime(launch_folder.parent / "STOP", (2e9 + age_s, 2e9 + age_s))
    assert bool(job.begin(launch_folder)) is runs


@pytest.mark.parametrize("fault", ["no room", "a folder"])
def test_a_decision_that_cannot_be_noted_is_carried_out_all_the_same(
    fault: str, launch_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(monkeypatch, {"scontrol": "n1\n"})
    job.begin(launch_folder)

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device") if fault == "no room" else IsADirectoryError(21, "Is a directory")

    monkeypatch.setattr(jobs_file, "note", fails)
    called = asked(monkeypatch, {"scontrol": "", "squeue": ""})
    assert job.end(launch_folder, before_training=None, walltime=False) == 70
    assert "scontrol requeue 7" in called
    assert "'decided' is not noted in" in capsys.readouterr().err


@pytest.mark.parametrize(("restarts", "action"), [(0, "requeue"), (1, "requeue"), (2, "stop")])
def test_a_job_that_could_not_even_begin_is_tried_again_as_often_as_one_that_crashes(
    restarts: int, action: str, launch_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a checkpoint, but it is no progress of this job's. Its starts are in no file, so that Slurm's count is what counts."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    monkeypatch.setattr(job, "newest_step", lambda _: 8)
    (launch_folder / f"7-{restarts}" / "exit-codes").mkdir(parents=True)
    asked(monkeypatch, {"scontrol": f"Restarts={restarts} JobState=RUNNING", "squeue": "", "scancel": ""})
    job.end(launch_folder, before_training=70, walltime=False)
    assert jobs_file.read_run(launch_folder.parent)[-1]["action"] == action


def test_a_controller_that_is_silent_at_the_start_is_no_wrong_input(
    launch_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(monkeypatch, {})
    done = CliRunner().invoke(cli, ["job", "begin", str(launch_folder)])
    assert (done.exit_code, done.stdout) == (70, "")


def test_a_chain_that_has_ended_does_not_begin_again_where_slurm_is_silent(
    launch_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(monkeypatch, {"scontrol": "n1\n"})
    job.begin(launch_folder)
    (launch_folder / "7-0" / "exit-codes" / "rank-0").write_text("0")
    job.end(launch_folder, before_training=None, walltime=False)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert job.begin(launch_folder) is None


def test_how_a_job_ended_that_slurm_has_forgotten_is_in_its_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"sacct": "CANCELLED by 1000\n"}
    asked(monkeypatch, answers)
    assert slurm.why_ended("7") == "cancelled"
    answers.clear()
    assert slurm.why_ended("7") == "itself"


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


def test_a_start_on_a_listed_node_puts_itself_back_once_and_outlives_its_own_requeue(
    launch_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nodes.txt").write_text("n1 | | slow fan\n")
    called: list[str] = []

    def ask(*command: str) -> str:
        called.append(" ".join(command))
        if command[:2] == ("scontrol", "requeue"):
            os.kill(os.getpid(), signal.SIGTERM)  # as Slurm does to the processes of the job
        return {"sinfo": "n1 idle (null)\nn2 idle (null)\n", "scontrol": "n1\n"}.get(command[0], "")

    def ended(*_: object) -> None:
        raise AssertionError("SIGTERM ends the process")

    monkeypatch.setattr(slurm, "ask", ask)
    before = signal.signal(signal.SIGTERM, ended)
    try:
        assert job.begin(launch_folder) is None
    finally:
        signal.signal(signal.SIGTERM, before)
    decided = jobs_file.read_run(tmp_path)[-1]
    assert (decided["action"], decided["reason"]) == ("requeue", "n1 is to be avoided (slow fan, for good)")
    assert called[-1].startswith("squeue"), "and then it looked for waiting jobs to keep off the node"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert job.begin(launch_folder), "given the node once more, it runs"


def test_a_chain_whose_condition_is_met_finishes_after_a_job_and_before_one(
    launch_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = asked(monkeypatch, {"scontrol": "n1\n", "squeue": "8\n", "scancel": ""})
    write_until(launch_folder, Until(step=5))
    assert job.begin(launch_folder)
    (launch_folder / "7-0" / "exit-codes" / "rank-0").write_text("75")
    (tmp_path / "checkpoints" / "step-00000005").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000005" / "COMPLETE").touch()
    assert job.end(launch_folder, before_training=None, walltime=False) == 0
    why = "--until-step 5 is reached: the newest checkpoint is of step 5"
    decided = jobs_file.read_run(tmp_path)[-1]
    assert (decided["action"], decided["reason"]) == ("finish", why) and "scancel 8" in called
    jobs_file.note(launch_folder, "submitted", jobs=["9"])
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert job.begin(launch_folder) is None
    assert (jobs_file.read_run(tmp_path)[-1]["job"], jobs_file.read_run(tmp_path)[-1]["reason"]) == ("9", why)


@pytest.mark.parametrize(
    ("codes", "down", "listed"),
    [
        ({0: 71, 1: 71, 2: 70, 3: 70}, (), ["n1", "n2"]),
        ({0: 71, 1: 71}, ("n1", "n3", "n4"), ["n1", "n2"]),
        ({}, ("n3",), ["n3"]),
        ({}, ("n3", "n4"), []),
        ({0: 71}, ("n3",), ["n3", "n1"]),
    ],
    ids=["two devices", "two devices and a maintenance", "a lost node", "a maintenance", "a device and a lost node"],
)
def test_nodes_of_an_attempt_that_decided_nothing_are_listed_unless_several_were_but_restarted(
    codes: dict[int, int],
    down: tuple[str, ...],
    listed: list[str],
    launch_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [f"n{number}" for number in range(1, 10)]

    def ask(*command: str) -> str:
        match command:
            case ("scontrol", "show", "node", *_):
                return "".join(f"NodeName={node} State={'DOWN' if node in down else 'IDLE'}\n" for node in nodes[:4])
            case ("scontrol", "show", "hostnames", _):
                return "n9\n"
            case ("sinfo", *options):
                return "".join(f"{node} idle (null)\n" if "%T" in options[-1] else f"{node}\n" for node in nodes)
        return ""

    monkeypatch.setattr(slurm, "ask", ask)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    jobs_file.note(launch_folder, "started", job="7", restart=0, nodes=nodes[:4], step=0)
    attempt = launch_folder / "7-0"
    for rank, node in enumerate(nodes[:4]):
        (attempt / "logs" / node).mkdir(parents=True)
        (attempt / "logs" / node / "first-rank").write_text(str(rank))
    (attempt / "exit-codes").mkdir()
    for rank, code in codes.items():
        (attempt / "exit-codes" / f"rank-{rank}").write_text(str(code))
    assert job.begin(launch_folder)
    (decided,) = (record for record in jobs_file.read_run(tmp_path) if record["event"] == "decided")
    failed = [f"n{rank + 1}" for rank, code in codes.items() if code == 71]
    assert set(decided["exclude"]) == {*failed, *down} and decided["listed"] == listed
