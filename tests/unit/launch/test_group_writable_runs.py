"""A run folder into which a colleague may write: he stops the run, and cannot run a line as its owner, forge what jobs read, or
reach the owner's other files."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from fanal.errors import UserError
from fanal.run_folder import JOBS_FILE, LAUNCH_DIR
from launch import slurm
from launch.__main__ import cli
from launch.chain import job, jobs_file
from launch.chain.rank_codes import rank_exit_codes
from launch.status.status import status
from tests.two_users import COLLEAGUE, GROUP, as_colleague, colleague, needs_two_users, share, shared_place

ROOT = Path(__file__).parents[3]
RAN = "touch ../../ran-as-$(id -u)"
"""What a colleague wants the owner's job to run."""
EXCHANGE = f"mv launch gone && mkdir -m 777 launch && cp gone/[!l]* launch && echo '{RAN}' >launch/node.sh"


@dataclass
class SharedRun:
    """A run that the owner, this user, has rendered into a folder to which a group may write."""

    place: Path
    config: Path

    @property
    def run_dir(self) -> Path:
        return self.place / "run"

    @property
    def launch(self) -> Path:
        return self.run_dir / LAUNCH_DIR

    def submits(self, command: str = "render", *options: str) -> str:
        """What the command says; the script that Slurm keeps is a copy."""
        keys = [f"run_dir={self.run_dir}", "parallel.device=cpu"]
        arguments = [
            command,
            str(self.config),
            *keys,
            "--site",
            "local",
            "--nodes",
            "1",
            "--hours",
            "1",
            "--no-preflight",
            *options,
        ]
        done = CliRunner().invoke(cli, arguments)
        if done.exit_code == 0:
            (self.place / "spooled").write_text((self.launch / "job.sbatch").read_text())
        return done.output

    def starts(self) -> "subprocess.CompletedProcess[str]":
        """The job starts, on a Slurm that is made up; its node runs node.sh as srun would."""
        tools = self.place / "bin"
        if not tools.exists():
            tools.mkdir()
            srun = 'cd "$FANAL_ATTEMPT"; exec "${@:2}"'
            for name, text in {"scontrol": "echo n1", "squeue": "", "scancel": "", "srun": srun, "sacct": ""}.items():
                (tools / name).write_text(f"#!/bin/bash\n{text}\n")
                (tools / name).chmod(0o755)
        slurm_says = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1"}
        environment = {**os.environ, **slurm_says, "PATH": f"{tools}:{os.environ['PATH']}"}
        said = self.place / "said"  # a file: the script leaves a `sleep` behind, which would keep a pipe open
        with said.open("w") as stream:
            done = subprocess.run(["bash", str(self.place / "spooled")], env=environment, stderr=stream, timeout=300)
        return subprocess.CompletedProcess(done.args, done.returncode, "", said.read_text())

    def ran(self) -> list[str]:
        return [path.name for path in (*self.place.rglob("ran-as-*"),)]


@pytest.fixture
def run(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedRun]:
    before = os.umask(0o002)
    with shared_place() as place:
        share(place / "run")
        yield SharedRun(place, small_run)
    os.umask(before)


@needs_two_users
def test_a_colleague_cannot_change_what_a_job_runs_or_reads(run: SharedRun) -> None:
    run.submits()
    jobs_file.note(run.launch, "submitted", jobs=["7"])
    files = {path: path.read_bytes() for path in run.launch.iterdir()}
    assert {"config.yaml", "site.yaml", "job.json", "node.sh", "job.sbatch", "jobs.jsonl"} <= {
        path.name for path in files
    }
    done = colleague(
        "for file in launch/*; do echo forged >>$file; rm -f $file; done; touch launch/new; mv launch gone", run.run_dir
    )
    assert "Permission denied" in done.stderr
    assert {path: path.read_bytes() for path in run.launch.iterdir()} == files
    assert colleague("touch STOP requests/STOP", run.run_dir).returncode == 0, "this he may"


@needs_two_users
def test_a_launch_folder_that_was_exchanged_is_not_run(run: SharedRun) -> None:
    run.submits()
    run.run_dir.chmod(0o2770)  # as `chmod -t`, or a version before, left it
    assert colleague(EXCHANGE, run.run_dir).returncode == 0
    done = run.starts()
    assert (done.returncode, run.ran()) == (2, []), done.stderr
    assert f"error: {run.launch} must be a folder of user 0, not a link, that nobody else may write to" in done.stderr
    assert "fanal launch submit" in done.stderr
    assert colleague("mv gone back", run.run_dir).returncode != 0, "from the first start on he may rename nothing"


def test_a_file_that_is_not_the_one_that_was_submitted_is_not_run(run: SharedRun) -> None:
    run.submits()
    for name in ("node.sh", "config.yaml", "site.yaml", "job.json"):
        whole = (run.launch / name).read_text()
        (run.launch / name).write_text(f"{whole}\n# changed")
        done = run.starts()
        assert done.returncode == 2 and f"error: {run.launch / name} is not the file that was submitted" in done.stderr
        (run.launch / name).write_text(whole)


def test_the_archive_of_code_is_compared_as_well(run: SharedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    # A whole Python takes 1.7 GB (tests/unit/launch/test_node_local.py packs a small one).
    monkeypatch.setattr("launch.chain.render.pack_environment", lambda *places: places[-1].write_bytes(b"code"))
    run.submits("render", "--node-local")
    with (run.launch / "environment.tar").open("ab") as stream:
        stream.write(b"\0")
    done = run.starts()
    assert done.returncode == 2 and "environment.tar is not the file that was submitted" in done.stderr


def test_an_unchanged_job_starts_and_makes_nothing_that_others_may_write(run: SharedRun) -> None:
    run.submits()
    (run.launch / "node.sh").write_text(node := 'echo 0 >"$PRETRAIN_EXIT_CODES/rank-00000"\n')
    script, sha256 = (
        run.place / "spooled",
        subprocess.run(["sha256sum"], input=node, capture_output=True, text=True).stdout[:64],
    )
    old = next(line for line in script.read_text().splitlines() if line.endswith("  node.sh"))
    script.write_text(script.read_text().replace(old, f"{sha256}  node.sh"))
    done = run.starts()
    assert "job 7: finish: the run is complete" in done.stderr and done.returncode == 0, done.stderr
    open_to_others = [path for path in (run.launch, *run.launch.rglob("*")) if path.stat().st_mode & 0o022]
    assert open_to_others == []


@needs_two_users
@pytest.mark.parametrize("theirs", ["a folder", "a link"])
def test_a_launch_folder_of_a_colleague_is_refused(theirs: str, run: SharedRun) -> None:
    (run.place / "mine").mkdir()
    colleague("mkdir -m 777 launch" if theirs == "a folder" else "ln -s ../mine launch", run.run_dir)
    said = run.submits()
    assert f"error: the launch folder ({run.launch}) must be a folder of your own" in said, said
    assert list((run.place / "mine").iterdir()) == []
    colleague("mv launch theirs" if theirs == "a folder" else "rm launch", run.run_dir)
    assert "job.sbatch: 1 job(s)" in run.submits(), "the advice works"


@needs_two_users
def test_links_of_a_colleague_in_a_launch_folder_of_before_lead_nowhere(run: SharedRun) -> None:
    share(run.launch)
    precious = run.place / "key"
    precious.write_text("private")
    names = [
        f"{name}.part" for name in ("config.yaml", "site.yaml", "job.json", "node.sh", "job.sbatch", "environment.tar")
    ]
    for name in (*names, "config.yaml", "job.sbatch"):
        assert colleague(f"ln -sfn {precious} launch/{name}", run.run_dir).returncode == 0
    assert "job.sbatch: 1 job(s)" in run.submits()
    assert precious.read_text() == "private" and not (run.launch / "config.yaml").is_symlink()
    assert colleague("touch launch/new", run.run_dir).returncode != 0


@needs_two_users
def test_a_run_folder_of_a_colleague_is_refused(run: SharedRun) -> None:
    os.chown(run.run_dir, COLLEAGUE, GROUP)
    assert f"error: run_dir ({run.run_dir}) must be a folder of your own" in run.submits()
    assert not run.launch.exists()


@needs_two_users
def test_forged_lines_about_jobs_are_not_believed(run: SharedRun, capsys: pytest.CaptureFixture[str]) -> None:
    run.submits()
    jobs_file.note(run.launch, "submitted", jobs=["7"])
    line = {
        "event": "decided",
        "job": "7",
        "restart": 0,
        "action": "finish",
        "reason": "forged",
        "exit_code": 0,
        "step": 0,
    }
    line |= {"time_utc": jobs_file.now_utc(), "restarts_without_checkpoint": 0, "exclude": ["n1"]}
    text = json.dumps(line)
    colleague(f"echo '{text}' >{JOBS_FILE}; echo '{text}' >>launch/{JOBS_FILE}", run.run_dir)
    assert [record["event"] for record in jobs_file.read_run(run.run_dir)] == ["submitted"]
    assert f"{run.run_dir / JOBS_FILE} is not believed: it belongs to user {COLLEAGUE}" in capsys.readouterr().err
    (run.run_dir / JOBS_FILE).unlink()
    (run.run_dir / JOBS_FILE).write_text(text + "\n")  # of version 0.1, by the owner
    (run.run_dir / JOBS_FILE).chmod(0o644)
    assert [record["event"] for record in jobs_file.read_run(run.run_dir)] == ["decided", "submitted"]
    (run.run_dir / JOBS_FILE).chmod(0o664)
    assert [record["event"] for record in jobs_file.read_run(run.run_dir)] == ["submitted"]


@needs_two_users
def test_lines_of_a_file_that_was_open_to_others_are_not_believed_later(run: SharedRun) -> None:
    run.submits()
    jobs_file.note(run.launch, "submitted", jobs=["7"])
    (run.launch / JOBS_FILE).chmod(0o664)  # `chmod -R g+w`
    with (run.launch / JOBS_FILE).open("a") as held:  # as a colleague's process may keep it, whatever its mode becomes
        jobs_file.note(run.launch, "submitted", jobs=["8"])
        held.write(json.dumps({"event": "submitted", "time_utc": jobs_file.now_utc(), "jobs": ["forged"]}) + "\n")
    assert [record["jobs"] for record in jobs_file.read_run(run.run_dir)] == [["8"]]
    (aside,) = run.launch.glob(f"{JOBS_FILE}.not-believed-*")
    assert "forged" in aside.read_text()


@needs_two_users
def test_exit_codes_that_a_colleague_left_count_for_nothing(run: SharedRun) -> None:
    attempt = share(run.run_dir / "attempt")
    codes = share(attempt / "exit-codes")
    assert colleague("echo 0 >exit-codes/rank-00000", attempt).returncode == 0
    assert rank_exit_codes(attempt) == {}
    for folder in (attempt, codes):
        folder.chmod(0o755)
    assert rank_exit_codes(attempt) == {}
    (codes / "rank-00001").write_text("75")
    (codes / "rank-00001").chmod(0o644)
    assert rank_exit_codes(attempt) == {1: 75}


@needs_two_users
def test_a_colleague_reads_the_status_of_the_run(run: SharedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run.submits()
    jobs_file.note(run.launch, "submitted", jobs=["7"])
    monkeypatch.setattr(slurm, "ask", lambda *command: "")
    assert as_colleague(lambda: status(run.run_dir)["state"] + str(len(status(run.run_dir)["submitted"]))) == "gone1"


@needs_two_users
def test_a_colleague_stops_a_chain_that_waits_through_the_folder_of_requests(
    run: SharedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.submits()
    jobs_file.note(run.launch, "submitted", jobs=["7"])
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "ask", lambda *command: "n1\n" if command[0] == "scontrol" else "")
    assert colleague("touch requests/STOP", run.run_dir).returncode == 0
    assert job.begin(run.launch) is None
    assert jobs_file.read_run(run.run_dir)[-1]["action"] == "stop" and not (run.run_dir / "requests" / "STOP").exists()


def test_two_submissions_at_once_queue_one_chain(run: SharedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    said: list[str] = []

    def ask(*command: str) -> str:
        asked.append(command[0])
        if command[0] == "sbatch" and asked.count("sbatch") == 1:
            said.append(run.submits("submit"))  # while the first one is just about to queue its job
        return "7\n" if command[0] == "sbatch" else ""

    monkeypatch.setattr(slurm, "ask", ask)
    assert "queued 7" in run.submits("submit")
    assert asked.count("sbatch") == 1
    assert f"error: {run.launch} must have one `fanal launch` at a time" in said[0]


def test_the_script_is_not_queued_again_once_others_may_have_changed_it(run: SharedRun) -> None:
    from launch.chain.launch_folder import own_script

    run.submits()
    assert own_script(run.launch, "job.sbatch") == run.launch / "job.sbatch"
    (run.launch / "job.sbatch").chmod(0o664)
    with pytest.raises(
        UserError, match=r"job.sbatch must be what this user wrote there, .* its group may write to it \(mode 664\)"
    ):
        own_script(run.launch, "job.sbatch")
