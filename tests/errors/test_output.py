"""Standard output that nobody reads, that is full or closed: commands end as Unix tools do, and a trainer outlives its terminal."""

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fanal.run_folder import checkpoints_dir
from pretrain.checkpoint.disk.retention import checkpoints_in

ROOT = Path(__file__).parents[2]
TINY = "configs/tiny.yaml"
FULL = "error: standard output cannot be written: No space left on device; a file where there is room works\n"


@pytest.fixture
def unread() -> Iterator[int]:
    """The writing end of a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def command(*words: object, stdout: int, stderr: int = subprocess.PIPE, **variables: str) -> tuple[int, str]:
    """(The exit code of ``python -m ...``, what it said on standard error)."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=ROOT, stdout=stdout, stderr=stderr, text=True, timeout=120, check=False, env={**os.environ, **variables},
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.fixture
def commands(data_folder: Path) -> list[list[object]]:
    """A command of each package that prints and is soon done."""
    return [
        ["fanal", "--help"],
        ["fanal", "completion", "bash"],
        ["fanal", "show", TINY],
        ["pretrain", "show", TINY],
        ["tokenizer", "verify", data_folder / "shards" / "train-code"],
        ["fanal", "tokenizer", "--help"],
        ["launch", "preflight", TINY, "--site", "local"],
    ]


def test_a_command_whose_reader_has_gone_ends_quietly(commands: list[list[object]], unread: int) -> None:
    for words in commands:
        for variables in ({}, {"PYTHONUNBUFFERED": "1"}):
            assert command(*words, stdout=unread, **variables) == (141, ""), words


def test_a_command_whose_output_is_full_says_so_in_one_line(commands: list[list[object]]) -> None:
    with Path("/dev/full").open("w") as full:
        for words in commands:
            assert command(*words, stdout=full.fileno()) == (2, FULL), words


def test_an_error_that_cannot_be_shown_keeps_its_exit_code(unread: int) -> None:
    with Path("/dev/full").open("w") as full:
        for output in (unread, full.fileno()):
            for words in (
                ["fanal", "show", "none.yaml"],
                ["tokenizer", "train", "none", "--input", "none", "--output", "none"],
                ["launch", "status", "none"],
            ):
                assert command(*words, stdout=subprocess.DEVNULL, stderr=output)[0] == 2, words


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_stream_leads_nowhere_and_changes_nothing(closed: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -m fanal show {TINY} {closed}", shell=True, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == ("1>&-" not in closed)


INTERRUPTED = """
import sys
from pretrain import __main__
import pretrain.inspect.show
def wait(*_):
    raise KeyboardInterrupt
pretrain.inspect.show.show = wait
sys.argv = ["pretrain", "show", "configs/tiny.yaml"]
__main__.cli()
"""


def test_a_ctrl_c_ends_a_command_with_130_and_not_with_prove_s_code_for_a_difference() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


TALKER = """
import sys
from pathlib import Path
from fanal.output import outlive_output, let_go_of_output
outlive_output(Path(sys.argv[1]))
for number in range(3):
    print("a word", flush=True)
let_go_of_output()
sys.exit(75)
"""


def test_a_trainer_s_output_is_lost_with_one_line_in_its_log(unread: int, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "rank-00000.log"
    done = subprocess.run(
        [sys.executable, "-c", TALKER, str(log)], cwd=ROOT, stdout=unread, stderr=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stderr) == (75, "")
    (line,) = log.read_text().splitlines()
    assert (
        "standard output is gone (Broken pipe), and the run continues without it; a file requests/STOP in the run folder stops it"
        in line
    )


def test_a_trainer_whose_output_is_full_says_so_once_and_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "rank-00000.log"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", TALKER, str(log)], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    said = "standard output cannot be written, and the run continues: No space left on device\n"
    assert (done.returncode, done.stderr) == (75, said)
    (line,) = log.read_text().splitlines()
    assert "standard output cannot be written (No space left on device), and the run continues without it" in line


def is_complete(run_dir: Path, steps: int) -> None:
    assert [path.name for path in checkpoints_in(checkpoints_dir(run_dir))] == [f"step-{steps:08d}"]
    log = (run_dir / "logs" / "rank-00000.log").read_text()
    assert log.count("standard output is gone") == 1 and "Traceback" not in log, log


def train(config: Path, run_dir: Path) -> list[str]:
    overrides = (f"run_dir={run_dir}", "train.train_steps=30", "parallel.data_parallel_size=1")
    return [sys.executable, "-m", "fanal", "train", str(config), *overrides]


def one_thread() -> dict[str, str]:
    """The environment of a run beside other tests: two threads that wait for each other on busy cores take minutes."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_trainer_outlives_the_reader_of_its_output(small_run: Path, tmp_path: Path) -> None:
    """As with ``train ... 2>&1 | head -1``."""
    process = subprocess.Popen(
        train(small_run, tmp_path),
        cwd=ROOT,
        env=one_thread(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None and "parameters" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    is_complete(tmp_path, 30)


def test_a_trainer_outlives_its_terminal(small_run: Path, tmp_path: Path) -> None:
    """A window that is closed: SIGHUP to all that runs in it, and errors for whoever writes there."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(sys.executable, train(small_run, tmp_path), one_thread())
    seen = b""
    while b"step  2/30" not in seen:
        seen += os.read(terminal, 65_536)
    os.close(terminal)
    give_up_at = time.monotonic() + 120
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < give_up_at
        time.sleep(0.1)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    is_complete(tmp_path, 30)
