"""Stop signals are noted, not obeyed; a second Ctrl-C is. Each case is a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pretrain.parallel import signals

ROOT = Path(__file__).parents[3]

START = """
import os, signal, subprocess, sys, time
from pretrain.parallel import signals
signals.AGAIN_S = 2.0
"""
WAIT = """
print("ready", flush=True)
while sys.stdin.read(1) != "q":
    pass
print(signals.stop_signal())
"""


def child(script: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", START + script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def wait_until_it_reads(process: subprocess.Popen[str]) -> None:
    """Between "ready" and the read there is Python, which would see the first signal at once; asleep three times over is in the read."""
    asleep, deadline = 0, time.monotonic() + 120
    while asleep < 3:
        assert time.monotonic() < deadline, "the child never came to its read"
        time.sleep(0.02)
        asleep = asleep + 1 if psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING else 0


@pytest.mark.parametrize("restart", [False, True])
def test_signals_are_remembered_in_their_order_and_nothing_is_interrupted(restart: bool) -> None:
    """Where a call is restarted, Python's handlers run after it has ended, for all signals by their number."""
    process = child(f"signals.catch_stop_signals(restart_system_calls={restart})" + WAIT)
    wait_until_it_reads(process)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        time.sleep(0.1)
    output, _ = process.communicate("q", timeout=120)
    assert (process.returncode, output) == (0, f"{int(signal.SIGUSR1)}\n")


def test_a_second_sigint_ends_the_process_as_usual_but_not_one_of_the_same_key_press() -> None:
    process = child("signals.catch_stop_signals()" + WAIT)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    time.sleep(2.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == -signal.SIGINT


def stuck(script: str = "", *, restart: bool = True) -> subprocess.Popen[str]:
    """A process whose main thread is in a call that a signal does not interrupt, as in a wait inside a C++ library."""
    process = child(
        f"signals.AGAIN_S = 0.2; signals.catch_stop_signals(restart_system_calls={restart}); {script}{WAIT}"
    )
    wait_until_it_reads(process)
    return process


def test_a_second_sigint_ends_a_process_whose_main_thread_never_comes_back_from_c() -> None:
    process = stuck()
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130


@pytest.mark.parametrize("restart", [False, True], ids=["in Python", "in C"])
def test_a_second_sigint_after_the_run_has_stopped_ends_with_the_code_of_the_stop(restart: bool) -> None:
    process = stuck("signals.keep_exit_code(75)", restart=restart)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 75


def test_a_closed_terminal_ends_neither_a_run_nor_what_it_starts() -> None:
    born = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print('lives')"
    start = (
        f"signals.catch_stop_signals(); young = subprocess.run([sys.executable, '-c', {born!r}], capture_output=True)"
    )
    process = child(start + WAIT + "print(young.stdout)")
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate("q", timeout=120)
    assert (process.returncode, output) == (0, "None\nb'lives\\n'\n")


def test_a_process_that_is_born_while_signals_are_held_back_gets_them_when_it_catches_them() -> None:
    born = "from pretrain.parallel import signals; import sys; print('ready', flush=True); sys.stdin.readline(); "
    born += "signals.catch_stop_signals(); print(signals.stop_signal().name)"
    parent = f"""
signals.catch_stop_signals()
with signals.hold_back_stop_signals():
    young = subprocess.Popen([sys.executable, "-c", {born!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
young.stdout.readline()
young.send_signal(signal.SIGTERM)
print(young.communicate("go\\n")[0], young.returncode, signals.stop_signal())
"""
    result = subprocess.run(
        [sys.executable, "-c", START + parent], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout == "SIGTERM\n 0 None\n"


def test_after_the_exit_code_is_decided_no_signal_changes_it() -> None:
    process = child("signals.catch_stop_signals(); signals.ignore_stop_signals()" + WAIT)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate("q", timeout=120)
    assert (process.returncode, output) == (0, "None\n")


REAPED = """
import os, signal
from types import SimpleNamespace
from pretrain.parallel.local import _forward_signals
pid = os.fork() or os._exit(0)
os.waitpid(pid, 0)
told = []
ranks = [SimpleNamespace(pid=pid, is_alive=lambda: True), SimpleNamespace(pid=0, is_alive=lambda: told.append(1))]
with _forward_signals(ranks):
    os.kill(os.getpid(), signal.SIGTERM)
print(told)
"""


def test_a_rank_that_was_reaped_a_moment_ago_keeps_the_signal_from_none_of_the_others() -> None:
    result = subprocess.run([sys.executable, "-c", REAPED], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "[1]\n"), result.stderr


LAUNCHER = """
import sys
from pathlib import Path
from pretrain.parallel.local import run_local_ranks
from pretrain.parallel.signals import catch_stop_signals, end_as_interrupted
from tests.unit.parallel import test_stop_signals
catch_stop_signals(last_word_s=10.0)
work = getattr(test_stop_signals, sys.argv[1])
code, failure = run_local_ranks(work, preload=[], num_ranks=2, device_type="cpu", log_dir=Path(sys.argv[2]))
assert failure is None, failure
if code == 130:
    end_as_interrupted()
sys.exit(code)
"""


def saves_and_is_slow_to_go() -> int:
    """A rank's work: it stops as it was asked to, and its process takes a while to end."""
    print("ready", flush=True)
    assert signals.stop_signal_comes_within(60)
    signals.keep_exit_code(75)
    time.sleep(60)
    return 75


def saves_and_saves() -> int:
    """A rank's work: its last checkpoint is not written yet."""
    print("ready", flush=True)
    time.sleep(60)
    return 75


@pytest.mark.parametrize(("work", "code"), [(saves_and_is_slow_to_go, 75), (saves_and_saves, -signal.SIGINT)])
def test_two_ctrl_c_end_a_run_with_75_once_its_checkpoint_is_written_and_as_interrupted_before(
    work: Callable[[], int], code: int, tmp_path: Path
) -> None:
    """A terminal sends each to the command and to every rank."""
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, work.__name__, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    log, give_up_at = tmp_path / "rank-00001.log", time.monotonic() + 60
    while not (log.is_file() and "ready" in log.read_text()):
        assert time.monotonic() < give_up_at, "rank 1 never came"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code and not errors, errors
