"""What goes wrong with the saves of a run, step by step, and the rank that has it go wrong."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fanal.run_folder import REASON, checkpoints_dir, part_name
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.checkpoint.saving import save, writer
from pretrain.config.schema import RunConfig
from pretrain.train.loop import train
from tests.runs.disks import fill

SHORT_S, LONG_S = 1.5, 120.0
"""What a stage may take: of a writer that will hang, and of all others, however busy the machine is."""


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """What happens at one save."""

    name: str
    act: str = ""
    """Of ACTS, by rank 0 before the save; undone after it."""
    order: tuple[int, str, str] | None = None
    """(rank, stage, act) for a writer process: faulty_writer.py."""
    failure: str | None = None
    """What the report must say (a pattern); None if the save must succeed."""
    warning: str | None = None
    leaves_part: bool = False
    """Whether ``step-N.part`` must be there afterwards, with its reason."""

    @property
    def hangs(self) -> bool:
        return self.order is not None and self.order[2] in ("hang", "stop")


class Disturber:
    """Hooks into every save of this rank: makes things go wrong, and notes what it finds before the next one."""

    def __init__(self, run: RunConfig, disturbances: dict[int, Disturbance], notes: Path) -> None:
        self.rank = int(os.environ["RANK"])
        self.folder, self.disturbances, self.notes = checkpoints_dir(run.run_dir), disturbances, notes
        self.done: set[int] = set()
        self.last: tuple[int, Disturbance] | None = None

    def install(self) -> None:
        """Before the run starts."""
        writer.MODULE = "tests.dist.faulty_writer"
        os.environ |= {"WRITER_FAULT": "as_ordered", "ORDERS": str(self.notes)}
        begin = save.Saver.begin

        def disturbed(saver: Any, state: Any, position: Any) -> None:
            now = self.disturbances.get(state.step)
            if now is not None and now.act == f"kill rank {self.rank}":
                os.kill(os.getpid(), signal.SIGKILL)
            saver.settle()  # on all ranks, so what follows finds no save under way
            if state.step not in self.done:
                self._before(saver, state.step)
            begin(saver, state, position)

        save.Saver.begin = disturbed  # type: ignore[method-assign]

    def _before(self, saver: Any, step: int) -> None:
        self.done.add(step)
        process = saver._writer._process
        with (self.notes / f"rank-{self.rank}.jsonl").open("a") as stream:
            stream.write(
                json.dumps({"step": step, "writer": process and process.pid, "descriptors": _descriptors()}) + "\n"
            )
        if self.rank == 0:
            self._look_back(step)
        now = self.disturbances.get(step)
        saver._writer._stage_timeout_s = LONG_S
        if now is None:
            return
        if now.order is not None and now.order[0] == self.rank:
            saver._writer._stage_timeout_s = SHORT_S if now.hangs else LONG_S
            new = self.notes / "new"
            new.write_text("/".join(now.order[1:]))
            new.rename(self.notes / f"{step}-{self.rank}")
        if now.act.startswith("kill the idle writer") and now.act.endswith(str(self.rank)):
            os.kill(process.pid, signal.SIGKILL)
            # Until it is dead: on a busy machine the next job would reach it before the signal does, and be lost with it.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        elif self.rank == 0 and now.act in ACTS:
            ACTS[now.act][0](self.folder)
            self.last = (step, now)

    def _look_back(self, step: int) -> None:
        """Rank 0: undo the last disturbance and note what is there."""
        before = self.disturbances.get(step - 1)
        if before is not None and before.leaves_part:
            reason = self.folder / f"{part_name(step - 1)}.{REASON}"
            deadline = time.monotonic() + 30
            while not reason.is_file() and time.monotonic() < deadline:
                time.sleep(0.01)
        names = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        problems = [
            problem for path in checkpoints_in(self.folder) for problem in verify_checkpoint(path, deep=True).problems
        ]
        with (self.notes / "found.jsonl").open("a") as stream:
            stream.write(json.dumps({"before": step, "names": names, "problems": problems}) + "\n")
        if self.last is not None:
            ACTS[self.last[1].act][1](self.folder)
            self.last = None
        (self.folder / "ballast").unlink(missing_ok=True)  # of a writer that filled the disk


def disturbed_rank(run: RunConfig, disturbances: dict[int, Disturbance], notes: Path) -> int:
    """One rank of a run whose saves are disturbed."""
    torch.set_num_threads(1)
    Disturber(run, disturbances, notes).install()
    return int(train(run))


def _descriptors() -> dict[str, int]:
    """How many open files this process has, and how many of them are memory for checkpoints."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        if path.is_symlink():  # not the one that lists them
            links.append(str(path.readlink()))
    return {"all": len(links), "memory": sum("memfd:fanal" in link for link in links)}


def _use_up_inodes(folder: Path) -> None:
    (folder / "many").mkdir()
    try:
        for number in range(100_000):
            (folder / "many" / str(number)).touch()
    except OSError:
        return


def _remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def _away(run_dir: Path) -> Path:
    return run_dir.with_name(f"{run_dir.name}-away")


ACTS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "fill the disk": (fill, lambda folder: (folder / "ballast").unlink(missing_ok=True)),
    "use up the inodes": (_use_up_inodes, lambda folder: shutil.rmtree(folder / "many")),
    "make it read-only": (lambda folder: _remount(folder, "ro"), lambda folder: _remount(folder, "rw")),
    "remove the checkpoints": (lambda folder: shutil.rmtree(folder), lambda folder: None),
    "remove the run folder": (
        lambda folder: folder.parent.rename(_away(folder.parent)),
        lambda folder: _away(folder.parent).rename(folder.parent),
    ),
}
"""(What rank 0 does to the folder of checkpoints, how it takes it back)."""
