"""The list of nodes to avoid: what people and jobs write into it, and what it does to waiting jobs of a Slurm that is made up."""

import json
import os
import re
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from fanal.errors import UserError
from fanal.run_folder import JOBS_FILE
from launch import slurm
from launch.__main__ import cli
from launch.chain import avoid, jobs_file
from launch.chain.avoid import permitted
from launch.chain.blame import sick_nodes
from launch.chain.decide import run_exit_code
from launch.chain.node_list import Entry, edit_list, list_path, read_list

NOW = datetime.now(UTC)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list."""
    monkeypatch.setenv("FANAL_NODES_FILE", str(tmp_path / "nodes.txt"))
    return tmp_path / "nodes.txt"


class Slurm:
    """Nodes n1 to n4 and waiting jobs, each of a chain with a launch folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, jobs: dict[str, int]) -> None:
        """Args: jobs: number of each with the nodes that it needs."""
        self.excluded: dict[str, str] = dict.fromkeys(jobs, "(null)")
        self.jobs, self.folder, self.nodes = jobs, folder, ["n1", "n2", "n3", "n4"]
        for job in jobs:
            (folder / job).mkdir()
            (folder / job / "job.json").write_text("{}")
        self.command = {job: str(folder / job / "job.sbatch") for job in jobs}
        monkeypatch.setattr(slurm, "ask", self.ask)

    def ask(self, *command: str) -> str:
        match command:
            case ("squeue", *_):
                return "".join(f"{job} PENDING fanal-{job}-abcdef\n" for job in self.jobs)
            case ("sinfo", *options):
                long = any("%T" in option for option in options)
                return "".join(f"{node} idle (null)\n" if long else f"{node}\n" for node in self.nodes)
            case ("scontrol", "show", "hostnames", nodes):
                return nodes.replace(",", "\n")
            case ("scontrol", "show", "job", _, job):
                fields = f"JobId={job} NumNodes={self.jobs[job]} Features=(null) ExcNodeList={self.excluded[job]}"
                return f"{fields} Command={self.command[job]}\n"
            case ("scontrol", "update", job, nodes):
                self.excluded[job.partition("=")[2]] = nodes.partition("=")[2] or "(null)"
                return ""
        raise slurm.SlurmError(f"{command[0]}: no answer")


def test_a_line_says_node_end_reason_author_and_date_and_reads_back(path: Path) -> None:
    now = datetime.now(UTC)  # not NOW: the tests before this one may have taken minutes
    new = Entry.beginning_now("n1", hours=48, reason="a | b\nc", by="job 7-0")
    edit_list(path, add=[new])
    (back,), faults = read_list(path)
    assert faults == [] and (back.node, back.until, back.reason, back.by) == ("n1", new.until, "a / b c", "job 7-0")
    assert timedelta(hours=48) <= back.until - now < timedelta(hours=48, minutes=2)  # type: ignore[operator]
    assert back.holds(now) and not back.holds(now + timedelta(hours=49))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("n1 | tomorrow", "'tomorrow' is not a time such as 2026-12-31 12:00"),
        ("n[1-3]", "'n[1-3]' is not the name of one node"),
        ("n1 n2", "'n1 n2' is not the name of one node"),
        ("-n1", "'-n1' is not the name of one node"),
        ("n1 | | why | me | today | more", "there are more than five fields"),
    ],
)
def test_a_broken_line_is_one_line_of_advice_and_stays(line: str, message: str, path: Path) -> None:
    path.write_text(f"n7\n{line}\n")
    entries, (fault,) = read_list(path)
    assert [entry.node for entry in entries] == ["n7"] and f"{path}, line 2" in fault and message in fault
    works = re.search(r"'([^']+)' works", fault)
    assert works
    shown = CliRunner().invoke(cli, ["nodes"])
    assert shown.exit_code == 2 and shown.stderr.count("\n") == 1 and message in shown.stderr
    edit_list(path, add=[Entry(node="n9")])
    assert path.read_text() == f"n7\n{line}\nn9\n"
    path.write_text(works[1])
    assert CliRunner().invoke(cli, ["nodes"]).exit_code == 0


def test_what_expired_goes_with_the_next_change_and_a_job_shortens_nothing(path: Path) -> None:
    path.write_text("# mine\nn1 | 2020-01-01 00:00 | old\nn2 | 2999-01-01 | of a person\n\nn3 | 2020-01-01\n")
    edit_list(path, add=[Entry.beginning_now("n2", hours=1, reason="", by="job 1-0"), Entry(node="n3")])
    assert path.read_text() == "# mine\nn2 | 2999-01-01 | of a person\n\nn3\n"


def _add_ten(path: Path, writer: int) -> None:
    for number in range(10):
        edit_list(path, add=[Entry(node=f"n{writer}-{number}")], remove=[f"n{writer}-{number - 2}"])


def test_writers_at_once_lose_no_line(path: Path) -> None:
    with ProcessPoolExecutor(3) as pool:
        for done in [pool.submit(_add_ten, path, writer) for writer in range(3)]:
            done.result()
    assert sorted(entry.node for entry in read_list(path)[0]) == [
        f"n{writer}-{last}" for writer in range(3) for last in (8, 9)
    ]


def test_each_cluster_has_a_list_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FANAL_NODES_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "jean/zay")
    assert list_path() == tmp_path / "fanal" / "nodes-jean-zay.txt"
    monkeypatch.delenv("SLURM_CLUSTER_NAME")
    monkeypatch.setattr(slurm, "ask", lambda *_: "AuthType = munge\nClusterName             = lumi\n")
    assert list_path().name == "nodes-lumi.txt"
    assert list_path("/group/nodes.txt") == Path("/group/nodes.txt")


def test_waiting_jobs_of_all_chains_are_kept_off_and_freed_and_what_a_user_excluded_stays(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Slurm(tmp_path, monkeypatch, {"8": 1, "9": 2})
    cluster.excluded["8"] = "n4"
    path.write_text("n1 | 2999-01-01 | slow fan\n")
    changes = avoid.apply_list(path)
    assert cluster.excluded == {"8": "n1,n4", "9": "n1"}
    assert changes[0].words() == "job 8: kept off n1 (slow fan, until 2999-01-01 00:00 UTC)"
    assert avoid.apply_list(path) == [], "once is enough"
    path.write_text("n4\n")
    avoid.apply_list(path)
    assert cluster.excluded == {"8": "n4", "9": "n4"}
    path.write_text("n4 | 2020-01-01\n")
    avoid.apply_list(path)
    assert cluster.excluded == {"8": "n4", "9": "(null)"}, "job 8 was kept off n4 by a user"


def test_a_job_keeps_as_many_nodes_as_it_needs_and_the_newest_lines_count_first(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Slurm(tmp_path, monkeypatch, {"8": 2})
    path.write_text("n1\nn2\nn3\ndown1\n")
    (change,) = avoid.apply_list(path)
    assert cluster.excluded["8"] == "down1,n2,n3" and change.left_in == ("n1",)
    cluster.jobs["8"] = 4
    avoid.apply_list(path)
    assert cluster.excluded["8"] == "down1"


def test_a_job_that_has_just_lost_a_node_needs_as_many_as_it_was_queued_for(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Slurm(tmp_path, monkeypatch, {"8": 1})  # Slurm counts the nodes that are left
    (tmp_path / "8" / "job.json").write_text(json.dumps({"nodes": 3, "spare_nodes": 1}))
    path.write_text("n1\n")
    avoid.apply_list(path)
    assert cluster.excluded["8"] == "(null)"


def test_an_evaluation_that_waits_is_kept_off_and_freed_as_its_chain_is_and_needs_one_node_alone(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Slurm(tmp_path, monkeypatch, {"a chain": 3, "9": 1})
    cluster.jobs = {"9": 1}
    cluster.command["9"] = str(tmp_path / "a chain" / "evaluate.sbatch 20")
    (tmp_path / "a chain" / "job.json").write_text(json.dumps({"nodes": 4}))
    path.write_text("n1 | 2999-01-01 | slow fan\n")
    changes = avoid.apply_list(path)
    assert cluster.excluded["9"] == "n1" and changes[0].kept_off[0].node == "n1"
    avoid.note_changes(tmp_path / "a chain", changes)
    assert not (tmp_path / "a chain" / JOBS_FILE).exists(), "a chain decides by its own jobs alone"
    path.write_text("")
    avoid.apply_list(path)
    assert cluster.excluded["9"] == "(null)"
    cluster.command["9"] = str(tmp_path / "a chain" / "mine.sbatch 20")
    path.write_text("n1\n")
    assert avoid.apply_list(path) == [], "a script that is not ours"


def test_a_chain_with_another_list_and_jobs_of_others_are_left_alone(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Slurm(tmp_path, monkeypatch, {"8": 1, "9": 1, "10": 1})
    (tmp_path / "8" / "job.json").write_text(json.dumps({"nodes_file": "/group/nodes.txt"}))
    (tmp_path / "9" / "job.json").unlink()
    path.write_text("n1\n")
    avoid.apply_list(path)
    assert cluster.excluded == {"8": "(null)", "9": "(null)", "10": "n1"}


@pytest.mark.parametrize("is_done", [False, True], ids=["before Slurm did it", "after"])
def test_what_was_excluded_by_a_process_that_is_killed_is_taken_back(
    is_done: bool, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Slurm(tmp_path, monkeypatch, {"8": 1, "9": 1})
    cluster.excluded["8"] = "n4"

    def killed(*command: str) -> str:
        if command[:3] == ("scontrol", "update", "JobId=9"):
            if is_done:
                cluster.ask(*command)
            raise KeyboardInterrupt
        return cluster.ask(*command)

    path.write_text("n1\n")
    with monkeypatch.context() as patch:
        patch.setattr(slurm, "ask", killed)
        with pytest.raises(KeyboardInterrupt):
            avoid.apply_list(path)
    assert cluster.excluded == {"8": "n1,n4", "9": "n1" if is_done else "(null)"}
    path.write_text("")
    avoid.apply_list(path)
    assert cluster.excluded == {"8": "n4", "9": "(null)"}


def test_a_job_whose_list_slurm_does_not_tell_or_that_it_refuses_keeps_no_other_from_its_change(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Slurm(tmp_path, monkeypatch, {"7": 1, "8": 1, "9": 1})
    monkeypatch.delenv("FANAL_NODES_FILE")  # job 7 has the list of its cluster, and Slurm does not say which that is
    monkeypatch.delenv("SLURM_CLUSTER_NAME", raising=False)
    for job in ("8", "9"):
        (tmp_path / job / "job.json").write_text(json.dumps({"nodes_file": str(path)}))

    def refuses(*command: str) -> str:
        if command[:3] == ("scontrol", "update", "JobId=8"):
            raise slurm.SlurmError("no permission")
        return cluster.ask(*command)

    monkeypatch.setattr(slurm, "ask", refuses)
    path.write_text("n1\n")
    avoid.apply_list(path)
    assert cluster.excluded == {"7": "(null)", "8": "(null)", "9": "n1"}
    said = capsys.readouterr().err
    assert "warning: job 7 is left as it is: scontrol: no answer" in said
    assert "warning: job 8 is left as it is: no permission" in said


def test_a_node_of_the_list_that_a_chain_noted_before_counts_as_the_list_s(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Slurm(tmp_path, monkeypatch, {"8": 3})
    chosen = {"job": "7", "restart": 0, "nodes": ["n3"], "left_out": ["n1"], "reason": "n1 is broken"}
    jobs_file.note(tmp_path / "8", "chosen", **chosen, exclude=["n1", "n2"])
    path.write_text("n4\nn1\n")
    assert list(avoid.nodes_to_avoid(path, jobs_file.read(tmp_path / "8"))) == ["n2", "n4", "n1"]
    avoid.apply_list(path)
    assert cluster.excluded["8"] == "n1", "the job can do without one node"


def test_jobs_list_no_more_than_a_share_of_the_nodes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Slurm(tmp_path, monkeypatch, {})
    facts = {"nodes_file": str(path)}
    assert avoid.list_sick(facts, {"n1": "lost", "n2": "lost"}, by="job 7-0", partition="") == ("n1",)
    assert "n2 not listed" in capsys.readouterr().err
    assert avoid.list_sick(facts, {"n2": "lost"}, by="job 7-1", partition="") == ()
    cluster.nodes = [f"n{number}" for number in range(1, 9)]
    assert avoid.list_sick(facts, {"n2": "lost"}, by="job 7-1", partition="") == ("n2",)
    path.unlink()
    path.mkdir()
    assert avoid.list_sick(facts, {"n3": "lost"}, by="job 7-2", partition="") == (), (
        "a list that cannot be written fails no job"
    )
    assert "n3 cannot be listed for other chains" in capsys.readouterr().err


def test_notes_of_a_chain_alone_count_as_long_and_those_that_are_listed_are_the_list_s(tmp_path: Path) -> None:
    fields = {
        "job": "7",
        "restart": 0,
        "action": "requeue",
        "reason": "lost n1",
        "step": 0,
        "restarts_without_checkpoint": 1,
    }
    old = {
        "time_utc": (NOW - timedelta(hours=49)).strftime(jobs_file.TIME),
        "event": "decided",
        **fields,
        "exclude": ["n3"],
    }
    (tmp_path / JOBS_FILE).write_text(json.dumps(old) + "\n")
    jobs_file.note(tmp_path, "decided", **fields, exclude=["n1"])  # of a version without a list
    jobs_file.note(tmp_path, "decided", **fields, exclude=["n2"], listed=["n2"])
    assert [(entry.node, entry.reason) for entry in avoid.own_notes(jobs_file.read(tmp_path))] == [("n1", "lost n1")]


def test_a_node_that_a_chain_alone_has_noted_is_allowed_by_the_command_and_a_note_after_that_counts(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Slurm(tmp_path, monkeypatch, {"8": 1})
    chosen = {"job": "7", "restart": 0, "nodes": ["n2"], "left_out": ["n1"], "reason": "n1 is broken"}
    jobs_file.note(tmp_path / "8", "chosen", **chosen, exclude=["n1", "n3"])
    avoid.apply_list(path)
    assert cluster.excluded["8"] == "n1,n3"
    done = CliRunner().invoke(cli, ["nodes", "--allow", "n1"])
    assert done.exit_code == 0 and "n1 may be used again: it was not listed" in done.stdout
    assert cluster.excluded["8"] == "n3"
    later = (datetime.now(UTC) + timedelta(seconds=2)).strftime(jobs_file.TIME)
    monkeypatch.setattr(jobs_file, "now_utc", lambda: later)
    jobs_file.note(tmp_path / "8", "chosen", **chosen, exclude=["n1"])
    avoid.apply_list(path)
    assert cluster.excluded["8"] == "n1,n3"
    avoid.allow(path, ["n9"])
    assert avoid.allowed_nodes(path).keys() == {"n1", "n9"}
    path.with_name(f"{path.name}.allowed.json").write_text('{"n1": 3, "n9": "soon"}')
    assert avoid.allowed_nodes(path) == {}, "a damaged file allows nothing"


@pytest.mark.parametrize("option", ["--exclude", "--allow", "--apply"])
def test_where_slurm_does_not_answer_what_was_written_is_said(
    option: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*command: str) -> str:
        raise slurm.NoAnswerError(f"{command[0]}: no answer in 120 s")

    monkeypatch.setattr(slurm, "ask", ask)
    is_written = option != "--apply"
    done = CliRunner().invoke(cli, ["nodes", option, *(["n1"] if is_written else [])])
    assert done.exit_code == 70 and done.stderr.count("\n") == 1
    assert (f"{path} is written, and jobs obey it when they start" in done.stderr) is is_written
    assert "squeue: no answer in 120 s; `fanal launch nodes --apply` where Slurm answers changes them" in done.stderr
    assert ("n1" in path.read_text()) is (option == "--exclude") if is_written else not path.exists()


@pytest.mark.parametrize(
    ("codes", "sick"),
    [
        ({0: 70, 1: 70, 2: 71, 3: 70}, {"n2": "rank 2 there ended with exit code 71: its hardware failed"}),
        ({0: 77, 1: 77}, {"n2": "no rank there left an exit code, while all others ended a hang (77)"}),
        ({0: 77, 1: 77, 2: 77}, {}),
        ({0: 70, 1: 70}, {}),
        ({}, {}),
    ],
    ids=["a device failed", "a node stands still", "one rank stands still", "killed after a crash", "all killed"],
)
def test_exit_codes_blame_a_node_only_where_they_mean_its_hardware(
    codes: dict[int, int], sick: dict[str, str], tmp_path: Path
) -> None:
    for node, first in (("n1", "0"), ("n2", "2")):
        (tmp_path / "logs" / node).mkdir(parents=True)
        (tmp_path / "logs" / node / "first-rank").write_text(first)
    asked = {
        "attempt": tmp_path,
        "nodes": ("spare", "n1", "n2"),
        "codes": codes,
        "ranks_per_node": 2,
        "preflight": False,
    }
    assert sick_nodes(**asked, lost=()) == sick
    assert "n1" in sick_nodes(**asked, lost=("n1",))
    assert run_exit_code(codes, 4) in (70, 77)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--exclude", "n1", "--hours", "0"], "--hours (0) must be above 0"),
        (["--exclude", "n1", "--hours", "nan"], "--hours (nan) must be above 0"),
        (["--exclude", "n1;rm"], "--exclude ('n1;rm') must be names of nodes"),
        (["--exclude", "n1", "--allow", "n1"], "must not both name n1"),
        (["--hours", "3"], "must come with --exclude NODE"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: list[str], message: str, path: Path) -> None:
    done = CliRunner().invoke(cli, ["nodes", *options])
    assert (done.exit_code, done.stderr.count("\n"), path.exists()) == (2, 1, False) and message in done.stderr


@pytest.mark.parametrize(
    ("given", "message", "works"),
    [
        ("n[2-1]", "must count upwards, and 2-1 does not; 1-2 in its place works", "n[1-2]"),
        ("m1,n[1,3-2]x", "must count upwards, and 3-2 does not; 2-3 in its place works", "m1,n[1,2-3]x"),
        ("n[1-99999999]", "must name at most 10,000 nodes, and names 99,999,999; --exclude n[1-9] works", "n[1-9]"),
        ("n[99999999-1]", "must name at most 10,000 nodes, and names 99,999,999; --exclude n[1-9] works", "n[1-9]"),
        ("n[1-101][1-100]", "must name at most 10,000 nodes, and names 10,100; --exclude n[1-9] works", "n[1-9]"),
        (f"n[{'9' * 5000}]", "or groups such as n[7-9], with commas between; --exclude n7,n8 works", "n7,n8"),
        ("none[1-2]", "must name nodes, and Slurm finds none in it; --exclude n7,n8 works", "n7,n8"),
    ],
)
def test_a_group_that_names_no_nodes_or_too_many_is_refused(
    given: str, message: str, works: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Slurm(tmp_path, monkeypatch, {})
    monkeypatch.setattr(slurm, "hostnames", lambda group: () if group.startswith("none") else ("n1", "n2"))
    done = CliRunner().invoke(cli, ["nodes", "--exclude", given])
    assert (done.exit_code, done.stderr.count("\n"), path.exists()) == (2, 1, False) and message in done.stderr
    assert CliRunner().invoke(cli, ["nodes", "--exclude", works]).exit_code == 0 and path.exists()


def test_a_node_that_is_named_twice_is_said_once_with_its_reason_on_one_line(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Slurm(tmp_path, monkeypatch, {})
    reason = "slow | fan\ntwo \x1b[2J\udce9"
    done = CliRunner().invoke(cli, ["nodes", "--exclude", "n7,n7", "--reason", reason])
    first, last = done.stdout.splitlines()
    assert (
        first.startswith("n7 is avoided (slow / fan two \\x1b[2J\ufffd, until 2")
        and last == "no waiting job had to change"
    )
    assert path.read_text().count("n7") == 1


def test_bytes_that_are_not_text_and_ends_of_lines_of_another_system_stay(path: Path) -> None:
    written = b"# caf\xe9\r\n\r\nn2 | | ventilateur \xe9teint\r\nno node \xff\n# \xe2\x80\xa8 \x0c\n"
    path.write_bytes(written)
    edit_list(path, add=[Entry(node="n9")])
    assert path.read_bytes() == written + b"n9\n"
    entries, (fault,) = read_list(path)
    assert [(entry.node, entry.reason) for entry in entries] == [("n2", "ventilateur \ufffdteint"), ("n9", "")]
    assert f"{path}, line 4 ('no node \ufffd')" in fault


def test_a_list_that_would_be_longer_than_is_read_is_not_written(path: Path) -> None:
    path.write_text("# mine\n")
    new = [Entry(node=f"n{number}", reason="slow fan " * 20) for number in range(10_000)]
    with pytest.raises(UserError, match=r"at most 1,000,000 bytes, and would be more with 10,000 new lines; fewer"):
        edit_list(path, add=new)
    assert path.read_text() == "# mine\n"
    edit_list(path, add=[Entry(node=entry.node, reason="slow fan") for entry in new])
    assert len(read_list(path)[0]) == 10_000


def test_a_list_that_is_no_text_is_one_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(
        UserError, match=r"must be a list of nodes that you can read and write: Is a directory; FANAL_NODES_FILE=PATH"
    ):
        read_list(path)


def test_a_user_without_a_name_lists_nodes_by_number(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    Slurm(tmp_path, monkeypatch, {})
    monkeypatch.setattr("getpass.getuser", nameless)
    assert CliRunner().invoke(cli, ["nodes", "--exclude", "n1"]).exit_code == 0
    assert read_list(path)[0][0].by == f"user {os.geteuid()}"


@pytest.mark.parametrize("options", [[], ["--exclude", "n1"], ["--allow", "n1"], ["--apply"]])
def test_a_pipe_or_a_device_is_no_list_and_stays_what_it_is(options: list[str], path: Path) -> None:
    os.mkfifo(path)
    done = CliRunner().invoke(cli, ["nodes", *options])
    assert done.exit_code == 2 and f"{path} must be a file, and is a device, a pipe or the like" in done.stderr
    assert path.is_fifo() and not path.with_name(f".{path.name}.lock").exists()


@pytest.mark.parametrize(
    ("wanted", "usable", "needed", "avoided"),
    [
        (["n2"], {"n1", "n3"}, 2, {"n2"}),  # down, and the others suffice
        (["n2"], {"n1"}, 2, set()),  # down, and the job runs again only once it is back
        (["n1", "n2"], {"n1", "n2", "n3"}, 2, {"n2"}),  # the newest first
        (["n4", "n2"], {"n1", "n2", "n3"}, 2, {"n2", "n4"}),
        (["n1"], {"n1", "n2"}, 2, set()),
    ],
)
def test_a_job_is_kept_off_as_many_nodes_as_leave_it_those_that_it_needs(
    wanted: list[str], usable: set[str], needed: int, avoided: set[str]
) -> None:
    assert permitted(wanted, usable, needed=needed) == avoided
