"""Stop signals are noted, not obeyed; a second Ctrl-C is. Each case is a process of its own."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

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
    asleep, deadline = 0, time.monotonic() + 30
    while asleep < 3:
        assert time.monotonic() < deadline, "the child never came to its read"
        time.sleep(0.02)
        asleep = asleep + 1 if psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING else 0


@pytest.mark.parametrize(("restart", "first"), [(False, signal.SIGUSR1), (True, signal.SIGINT)])
def test_signals_are_remembered_and_nothing_is_interrupted(restart: bool, first: signal.Signals) -> None:
    """Where a call is restarted, Python looks after it has ended, at all signals by their number."""
    process = child(f"signals.catch_stop_signals(restart_system_calls={restart})" + WAIT)
    wait_until_it_reads(process)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        time.sleep(0.1)
    output, _ = process.communicate("q", timeout=30)
    assert (process.returncode, output) == (0, f"{int(first)}\n")


def test_a_second_sigint_ends_the_process_as_usual_but_not_one_of_the_same_key_press() -> None:
    process = child("signals.catch_stop_signals()" + WAIT)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    time.sleep(2.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == -signal.SIGINT


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
        [sys.executable, "-c", START + parent], capture_output=True, text=True, timeout=30, check=True
    )
    assert result.stdout == "SIGTERM\n 0 None\n"


def test_after_the_exit_code_is_decided_no_signal_changes_it() -> None:
    process = child("signals.catch_stop_signals(); signals.ignore_stop_signals()" + WAIT)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate("q", timeout=30)
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
