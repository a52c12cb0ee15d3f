"""A rank's handle on its writer process: start it, give it a job, read its answers, end it. Nothing here waits for it."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pretrain.checkpoint.saving.staging import Staging
from pretrain.checkpoint.saving.write_job import DELETING, Job, job_to_text

MODULE = "pretrain.checkpoint.saving.writer_process"
ROOT = Path(__file__).parents[3]
"""Folder in which the writer process finds this package, installed or not."""


class WriterProcess:
    """The writer process of a rank. It is started when it is needed, and again after it was ended. To be closed.

    ``failure`` says why the last job failed; ``warning`` what went wrong after it succeeded.
    """

    def __init__(self, staging: Staging, *, stage_timeout_s: float) -> None:
        self._staging, self._stage_timeout_s = staging, stage_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""
        self._stage, self._stage_started = "", 0.0
        self.is_busy = False
        self.failure: str | None = None
        self.warning: str | None = None
        self._start()

    def write(self, job: Job) -> None:
        """Start a job; what is in the staging memory must stay until it has ended."""
        assert not self.is_busy, "one job at a time"
        self.failure = self.warning = None
        start, length = self._staging.note(job_to_text(job).encode())
        self._stage, self._stage_started, self.is_busy = "starting", time.monotonic(), True
        self._send(act="write", start=start, length=length)

    def set_aside(self, folder: str, step: int, reason: str) -> None:
        """Have the reason of a failed job written beside its folder; whether that works does not matter."""
        assert not self.is_busy, "one job at a time"
        self._send(act="set aside", folder=folder, step=step, reason=reason)

    def poll(self) -> None:
        """Read what the writer has answered; ends a job that is past its deadline, or whose process died."""
        if not self.is_busy:
            return
        assert self._process is not None and self._process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._process.stdout.fileno(), 1 << 16):
                self._heard += data
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            self._hear(json.loads(line))
        if not self.is_busy:
            return
        code = self._process.poll()
        if code is not None:
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            self.fail(f"the writer process died ({how}) while {self._stage}")
        elif time.monotonic() - self._stage_started > self._stage_timeout_s:
            self.fail(
                f"{self._stage} took more than checkpoint.phase_timeout_s ({self._stage_timeout_s:g} s), so its writer process "
                "was ended"
            )

    def fail(self, reason: str) -> None:
        """End the process and with it its job, which has failed unless the checkpoint was complete already."""
        is_complete = self._stage == DELETING
        self.failure, self.warning = (
            (None, f"old checkpoints may not have been deleted: {reason}") if is_complete else (reason, None)
        )
        self.is_busy = False
        self._end()

    def close(self) -> None:
        """End the process."""
        self.is_busy = False
        self._end()

    def _hear(self, event: dict[str, Any]) -> None:
        if "stage" in event:
            self._stage, self._stage_started = event["stage"], time.monotonic()
        else:
            self.is_busy = False
            self.failure, self.warning = event.get("failed"), event.get("done")

    def _send(self, **command: Any) -> None:
        line = json.dumps(command).encode() + b"\n"
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        try:
            # An idle writer has an empty pipe, so this never waits.
            os.write(self._process.stdin.fileno(), line)
        except BrokenPipeError:  # it died this very moment; poll() will see that
            return

    def _start(self) -> None:
        self._end()
        descriptor = self._staging.descriptor
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(descriptor), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(descriptor,),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._heard = b""

    def _end(self) -> None:
        """End the process if there is one. One that waits for a hung disk may outlive this: it is killed when the disk answers."""
        if self._process is None:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.5)
        self._process = None
