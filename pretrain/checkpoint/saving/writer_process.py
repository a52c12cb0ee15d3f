"""The process beside a rank that writes its part of every checkpoint: ``python -m pretrain.checkpoint.saving.writer_process``.

A process, since a thread that waits for a hung disk can be neither ended nor left behind, and since a rank that is killed must
take its writer with it. It reads one line per checkpoint, where its job lies in the shared memory, and answers with lines of
JSON: {"stage": NAME} as each stage begins, then {"done": null or a warning} or {"failed": REASON}.
"""

import json
import mmap
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from fanal.errors import FanalError, run_guarded
from fanal.exit_codes import FINISHED
from fanal.parent_death import follow_parent
from pretrain.checkpoint.saving.write_job import job_from_text, set_part_aside, write_checkpoint

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""A terminal or Slurm sends these to every process of a run; the rank decides when its writer ends."""


def main(descriptor: int, parent: int) -> None:
    """Serve until the rank closes the pipe, or is gone.

    Args: descriptor: of the shared memory; parent: the rank's process id.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    follow_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it went before we asked to follow
        return
    serve(descriptor)


def serve(descriptor: int) -> None:
    """Do what each line of standard input asks for, until it ends."""
    for line in sys.stdin:
        # Whatever an error is, the rank must hear of it, and says it; the process can go on.
        run_guarded(partial(_obey, descriptor, json.loads(line)), speaks=lambda: False, then=_tell_failure)


def _obey(descriptor: int, command: dict[str, Any]) -> int:
    if command["act"] == "set aside":
        set_part_aside(Path(command["folder"]), command["step"], command["reason"])
    else:
        _tell(done=_write(descriptor, command["start"], command["length"]))
    return FINISHED


def _tell_failure(error: Exception) -> None:
    _tell(failed=str(error) if isinstance(error, FanalError) else f"{type(error).__name__}: {error}")


def _write(descriptor: int, start: int, length: int) -> str | None:
    # Not closed here: an error on its way out has views of it, and it goes when the last one does.
    memory = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    job = job_from_text(memory[start : start + length])
    return write_checkpoint(job, memoryview(memory), lambda stage: _tell(stage=stage))


def _tell(**event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
