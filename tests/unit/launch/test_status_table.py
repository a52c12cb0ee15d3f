"""Several runs in one table, and a status that is shown again and again."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from launch import slurm
from launch.__main__ import cli
from launch.status.several import look_at, runs_of
from launch.status.table import lines, short
from tests.unit.launch.run_folder import RunFolder, end, started, step, submitted

WAIT_S = 120


@pytest.fixture
def folder(tmp_path: Path, config: str) -> Path:
    """A folder with a running run, a finished one, one whose log nobody can read, and a file and a folder that are no runs."""
    runs = tmp_path / "runs"
    running = RunFolder(runs / "a-run-with-a-long-name-1", config)
    running.jobs(submitted("11", "12"), started("11"))
    running.metrics(*(step(number) for number in range(1, 401)))
    finished = RunFolder(runs / "finished", config)
    finished.metrics(step(1000), end(1000, "finished"))
    broken = RunFolder(runs / "broken", config)
    (broken.path / "metrics.jsonl").mkdir()
    (runs / "notes").mkdir()
    (runs / "notes.txt").write_text("none")
    return runs


@pytest.mark.usefixtures("no_slurm")
def test_a_folder_of_runs_is_a_table_with_a_line_each_and_the_reason_of_one_that_is_broken(folder: Path) -> None:
    looks = look_at(runs_of([folder]))
    assert [look.run_dir.name for look in looks] == ["a-run-with-a-long-name-1", "broken", "finished"]
    title, running, broken, finished = lines(looks, 80)
    assert title.split() == [
        "run",
        "state",
        "step/of",
        "tokens",
        "loss",
        "t/s/GPU",
        "x",
        "plan",
        "seen",
        "job",
        "to",
        "go",
    ]
    row = r"…g-name-1 running        400/1k   400k      3    62.5      - +\d+[sm]       11   20m"
    assert re.fullmatch(row, running)
    assert "broken" in broken and "metrics.jsonl must be readable" in broken and broken.endswith("…")
    assert finished.split()[:3] == ["finished", "finished", "1k/1k"] and finished.split()[-1] == "-"
    assert max(map(len, (title, running, broken, finished))) <= 80


@pytest.mark.usefixtures("no_slurm")
def test_a_pipe_gets_whole_names_and_whole_reasons_and_the_code_of_the_broken_run(folder: Path) -> None:
    done = CliRunner().invoke(cli, ["status", str(folder)])
    assert done.exit_code == 2
    assert "a-run-with-a-long-name-1 running" in done.output and "files as the run has written them work" in done.output
    good = CliRunner().invoke(cli, ["status", str(folder / "finished"), str(folder / "a-run-with-a-long-name-1")])
    assert good.exit_code == 0 and len(good.output.splitlines()) == 3


@pytest.mark.usefixtures("no_slurm")
def test_json_of_several_runs_is_an_array_of_their_statuses(folder: Path) -> None:
    one = json.loads(CliRunner().invoke(cli, ["status", "--json", str(folder / "finished")]).output)
    several = json.loads(CliRunner().invoke(cli, ["status", "--json", str(folder)]).output)
    assert [run.get("state") for run in several] == ["running", None, "finished"]
    assert several[1].keys() == {"run_dir", "problem"} and "must be readable" in several[1]["problem"]
    assert {**several[2], "metrics_age_s": 0} == {**one, "metrics_age_s": 0}


@pytest.mark.usefixtures("no_slurm")
def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, config: str) -> None:
    paths = [RunFolder(tmp_path / name / "run", config).path for name in ("one", "two")]
    assert [line.split()[0] for line in lines(look_at(paths), None)] == ["run", "one/run", "two/run"]
    assert runs_of([*paths, paths[0]]) == paths


def test_slurm_is_asked_once_for_all_runs_and_each_gets_its_own_jobs(
    tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for name in ("one", "two"):
        run = RunFolder(tmp_path / name, config)
        run.jobs(submitted("11"), started("11"))
        facts = {"name": f"fanal-{name}", "minutes": 600, "run_dir": str(run.path)}
        (run.path / "launch" / "job.json").write_text(json.dumps(facts))

    def ask(*command: str) -> str:
        asked.append(command)
        return f"21|RUNNING|None|2026-03-01T11:00:00|9:00:00|n1||{os.getuid()}|fanal-two\n22|RUNNING|None|N|9|n1||77|fanal-one\n"

    monkeypatch.setattr(slurm, "ask", ask)
    one, two = look_at([tmp_path / "one", tmp_path / "two"])
    assert len(asked) == 1 and "--name=fanal-one,fanal-two" in asked[0]
    assert one.found is not None and one.found["state"] == "gone", "job 22 is another user's"
    assert two.found is not None and [job["job"] for job in two.found["jobs_running"]] == ["21"]


@pytest.mark.usefixtures("no_slurm")
def test_what_no_status_foresees_is_one_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("loss")

    monkeypatch.setattr("launch.status.status.timeline", fail)
    looks = look_at([folder / "finished"])
    assert (looks[0].found, looks[0].problem, looks[0].exit_code) == (None, "KeyError: 'loss'", 70)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (999.7, "1k"), (12_345, "12.3k"), (999_600, "1M"), (62.5, "62.5"), (3_100_000_000_000, "3.1T")],
)  # fmt: skip
def test_a_count_takes_five_characters(value: float, text: str) -> None:
    assert short(value) == text and len(text) <= 5


@pytest.mark.parametrize(
    ("options", "rule"),
    [(["--every", "5"], "stand beside --watch"), (["--watch", "--every", "0.5"], "be from 1 to"), (["--watch", "--every", "nan"], "be from 1 to")],
)  # fmt: skip
def test_a_time_between_looks_that_is_none_is_refused(folder: Path, options: list[str], rule: str) -> None:
    done = CliRunner().invoke(cli, ["status", str(folder), *options])
    assert done.exit_code == 2 and rule in done.output and "--watch --every 30 works" in done.output


def watching(run: Path, *options: str, output: int) -> subprocess.Popen[bytes]:
    """``fanal launch status --watch`` as a process of its own."""
    command = [sys.executable, "-m", "launch", "status", str(run), "--watch", "--every", "1", *options]
    return subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "30"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background jobs ignore it
    )  # fmt: skip


def until(process: subprocess.Popen[bytes], source: int, words: bytes, *, times: int = 1) -> bytes:
    """Read until words have come so often."""
    found, give_up = b"", time.monotonic() + WAIT_S
    while found.count(words) < times:
        assert time.monotonic() < give_up and process.poll() is None, found
        if select.select([source], [], [], 1)[0]:
            found += os.read(source, 65536)
    return found


def test_watch_writes_lines_into_a_pipe_and_ends_at_ctrl_c(folder: Path) -> None:
    read, write = os.pipe()
    process = watching(folder, output=write)
    os.close(write)
    text = until(process, read, b"/1k", times=3)
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) == 0
    assert b"\x1b" not in text and b"Traceback" not in text + os.read(read, 65536)
    os.close(read)


def test_watch_redraws_a_terminal_sees_new_steps_and_gives_the_screen_back(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.metrics(step(7))
    ours, theirs = pty.openpty()
    process = watching(run.path, output=theirs)
    os.close(theirs)
    assert b"\x1b[?1049h" in until(process, ours, b"7 of 1,000")
    run.metrics(step(8))
    until(process, ours, b"8 of 1,000")
    process.send_signal(signal.SIGINT)
    rest = b""
    while piece := read_or_nothing(ours):
        rest += piece
    assert process.wait(WAIT_S) == 0
    assert b"8 of 1,000" in rest.partition(b"\x1b[?1049l")[2], "the last status stays on the terminal's own screen"
    os.close(ours)


def read_or_nothing(source: int) -> bytes:
    try:
        return os.read(source, 65536)
    except OSError:  # a terminal whose other side is closed
        return b""
