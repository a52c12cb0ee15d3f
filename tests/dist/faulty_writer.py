"""The writer process of a rank with a fault planted: ``WRITER_FAULT`` names a function of this file. The rest is real."""

import contextlib
import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fanal.run_folder import step_name
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.checkpoint.saving import write_job, writer_process


def file_of_step_10_loses_its_end() -> None:
    """After rank 1 has hashed what it wrote, as a full or failing file system may."""
    write_file = write_job._write_file

    def broken(part: Path, path: str, *args: Any) -> Any:
        entry = write_file(part, path, *args)
        if "00001" in path and part.name == "step-00000010.part":
            os.truncate(part / path, entry.bytes - 1)
        return entry

    write_job._write_file = broken


def disk_is_slow() -> None:
    """Not a fault: every stage of a save takes 40 ms longer, so that kills land in all of them, also on an idle machine."""
    write = writer_process.write_checkpoint

    def slow(job: Any, numbers: memoryview, enter: Callable[[str], None]) -> str | None:
        def entered(name: str) -> None:
            enter(name)
            time.sleep(0.04)

        return write(job, numbers, entered)

    writer_process.write_checkpoint = slow


def as_ordered() -> None:
    """A file ``STEP-RANK`` in the folder ``ORDERS`` says a stage, and what is to happen as it begins; it is obeyed once.

    The stage ``end`` is that after the last."""
    write = writer_process.write_checkpoint

    def broken(job: Any, numbers: memoryview, enter: Callable[[str], None]) -> str | None:
        order = Path(os.environ["ORDERS"]) / f"{job.step}-{job.rank}"
        stage, act = order.read_text().split("/") if order.is_file() else ("", "")

        def entered(name: str) -> None:
            enter(name)
            if name == stage:
                order.unlink()
                ACTS[act](job)

        result = write(job, numbers, entered)
        if stage == "end":
            order.unlink()
            ACTS[act](job)
        return result

    writer_process.write_checkpoint = broken


def fill_disk(job: Any) -> None:
    """Up to its last byte, but for a part of the rank's file, or all of it where another rank writes at the same time."""
    found = os.statvfs(job.folder)
    with contextlib.suppress(OSError), (Path(job.folder) / "ballast").open("wb") as stream:
        for _ in range((found.f_bavail * found.f_frsize - job.num_bytes // 2) // 4096):
            stream.write(bytes(4096))


def fail_in_the_middle(job: Any) -> None:
    """Half of the file is written, and then the disk has an error."""
    write, num_writes = os.write, 0

    def broken(descriptor: int, block: memoryview) -> int:
        nonlocal num_writes
        num_writes += 1
        if num_writes == 3:  # the header's is the first
            os.write = write
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return write(descriptor, block[: len(block) // 2] if num_writes == 2 else block)

    os.write = broken


def die_once_it_is_whole(job: Any) -> None:
    """This rank has said that its file is there, and dies when rank 0 has made a checkpoint of it and deleted older ones."""
    folder = Path(job.folder)
    while not (folder / step_name(job.step)).is_dir() or len(checkpoints_in(folder)) > 2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


ACTS: dict[str, Callable[[Any], None]] = {
    "fill the disk": fill_disk,
    "fail": fail_in_the_middle,
    "die": lambda job: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda job: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": lambda job: time.sleep(3600),
    "die once it is whole": die_once_it_is_whole,
    "remove the part": lambda job: shutil.rmtree(job.part, ignore_errors=True),
}

if __name__ == "__main__":
    globals()[os.environ["WRITER_FAULT"]]()
    writer_process.main(int(sys.argv[1]), int(sys.argv[2]))
