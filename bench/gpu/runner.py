"""Run one stage as a program of its own, with a time limit, and keep the report up to date meanwhile."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bench.gpu.found import LEFT_OUT, read_findings
from bench.gpu.report import FAILED, PASSED, RUNNING, TIMED_OUT, Result
from bench.gpu.setting import Setting
from bench.gpu.stages import Stage
from fanal.parent_death import follow_parent

ROOT = Path(__file__).parents[2]
LOG = "gpu-report.log"
"""Output of all stages, one after the other."""
LAST_LINES = 25
LOOK_EVERY_S = 0.5
GRACE_S = 3.0
"""Between Ctrl-C, at which Python and pytest say where they were, and the end."""


def run_stage(
    stage: Stage, setting: Setting, limit_s: float, changed: Callable[[Result], None] = lambda _: None
) -> Result:
    """Run a stage until it ends or its time is over; whatever it has started ends with it.

    Args: changed, called with the result so far whenever the stage has found something.
    """
    setting.folder.mkdir(parents=True, exist_ok=True)
    found, log = setting.folder / f"gpu-found-{stage.name}.jsonl", setting.folder / LOG
    found.unlink(missing_ok=True)
    own = replace(setting, found=found.absolute(), folder=setting.folder.absolute())
    # What a pytest around this one says of itself is not for a stage that is pytest.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**inherited, **own.environment(), "PYTHONUNBUFFERED": "1"}
    result = Result(name=stage.name, title=stage.title, status=RUNNING, limit_s=limit_s)
    began = time.monotonic()
    with log.open("a") as stream:
        print(f"\n===== {stage.name}: {' '.join(stage.arguments)}", file=stream, flush=True)
        begin = stream.tell()
        process = subprocess.Popen(
            stage.command(), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            start_new_session=True,
            preexec_fn=_begin,
        )  # fmt: skip
        try:
            while process.poll() is None and time.monotonic() - began < limit_s:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(LOOK_EVERY_S, max(0.01, limit_s - (time.monotonic() - began))))
                now = read_findings(found)
                if len(now) > len(result.findings):
                    result.findings, result.seconds = now, time.monotonic() - began
                    changed(result)
            code = process.poll()
        finally:
            _end(process)
    result.findings, result.seconds = read_findings(found), time.monotonic() - began
    found.unlink(missing_ok=True)
    if code == 0:
        reasons = [finding["text"] for finding in result.findings if finding["kind"] == LEFT_OUT]
        result.status, result.reason = (LEFT_OUT, "; ".join(reasons)) if reasons else (PASSED, "")
        return result
    result.status = TIMED_OUT if code is None else FAILED
    result.reason = f"cut off after {limit_s:.0f} s" if code is None else _how(code)
    result.last_lines = _last_lines(log, begin)
    return result


def _begin() -> None:
    """Have a stage end with this process, which a session of its own would outlive, and hear Ctrl-C where nohup has it ignored."""
    follow_parent(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end(process: subprocess.Popen) -> None:
    """End a stage that still runs, first as Ctrl-C does, and in any case every process of its session's group."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _last_lines(log: Path, begin: int) -> Sequence[str]:
    """Return the end of what a stage has written since its first byte of the log."""
    with log.open("rb") as stream:
        stream.seek(max(begin, stream.seek(0, os.SEEK_END) - 20_000))
        text = stream.read().decode(errors="replace")
    return [line[:400] for line in text.replace("```", "'''").splitlines() if line.strip()][-LAST_LINES:]
