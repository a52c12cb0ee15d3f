"""What the watchdog allows, and how it ends a process: each case is a process of its own."""

import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import ctypes, threading, time
from pathlib import Path
from pretrain.config.schema import WatchdogConfig
from pretrain.train import watchdog
watchdog.LOOK_EVERY_S, watchdog.GRACE_S, watchdog.NO_GIL_S = 0.05, 0.3, 0.5
limits = WatchdogConfig(init_s=0.4, step_s={step_s}, validation_s=None, save_s=0)
dog = watchdog.Watchdog(limits, rank=3, stacks=Path({stacks!r}))
dog.start()
def stuck_here():
    {hang}
{act}
dog.close()
print("ended well")
"""
HANG = "time.sleep(60)"


def run(tmp_path: Path, act: str, hang: str = HANG, step_s: float = 0.4) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(stacks=str(tmp_path / "logs" / "stacks.txt"), act=act, hang=hang, step_s=step_s)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)


def test_an_act_past_its_limit_ends_the_process_with_77_and_its_stacks(tmp_path: Path) -> None:
    result = run(tmp_path, "print('last words'); stuck_here()")
    assert result.returncode == 77, result.stderr
    first = result.stderr.splitlines()[0]
    assert first.startswith(
        "watchdog: rank 3 has been at init for 0 s, longer than train.watchdog.init_s allows (0.4 s)"
    )
    assert "in stuck_here" in result.stderr
    assert "in stuck_here" in (tmp_path / "logs" / "stacks.txt").read_text()
    assert "last words" in result.stdout, "what was printed is not lost"


def test_each_step_starts_the_clock_again_and_acts_without_a_limit_go_on(tmp_path: Path) -> None:
    act = """
for _ in range(8):
    dog.enter("step")
    time.sleep(0.4)
with dog.during("validation"):
    time.sleep(0.5)
with dog.during("save"):
    time.sleep(0.5)
"""
    result = run(tmp_path, act, step_s=2.0)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "ended well\n" and not (tmp_path / "logs").exists()


def test_the_first_step_may_take_the_time_of_the_start_as_well(tmp_path: Path) -> None:
    result = run(tmp_path, "dog.enter('step'); time.sleep(0.6); dog.enter('step'); stuck_here()")
    assert result.returncode == 77
    assert "train.watchdog.step_s allows (0.4 s)" in result.stderr


def test_a_main_thread_that_wakes_while_it_is_cut_off_does_not_end_in_another_way(tmp_path: Path) -> None:
    result = run(tmp_path, "time.sleep(0.6)")
    assert result.returncode == 77 and "ended well" not in result.stdout


def test_what_holds_the_interpreter_s_lock_is_ended_too(tmp_path: Path) -> None:
    started = time.monotonic()
    result = run(tmp_path, "stuck_here()", hang="ctypes.PyDLL(None).sleep(60)")
    assert result.returncode == 1 and time.monotonic() - started < 40
    assert "Timeout" in result.stderr and "in stuck_here" in result.stderr


def test_a_file_system_that_cannot_take_the_stacks_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    result = run(tmp_path, "stuck_here()")
    assert result.returncode == 77 and "in stuck_here" in result.stderr
