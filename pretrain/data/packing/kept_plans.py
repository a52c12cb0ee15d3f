"""The plans of a run, kept in a folder of its own: shards may lie where nobody writes, and another run packs other rows of them.

The first process that needs a plan makes it, and the others wait for its lock and open what it made. Where the file system has no
locks each makes the same bytes, and the last rename stands.
"""

import os
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from fanal.files import sync, sync_path, writing
from fanal.locks import take_lock
from fanal.new_files import open_to_lock
from fanal.plain_files import plain_stream
from fanal.run_folder import LOCK, PACKING_DIR
from pretrain.data.packing.plan import Plan, PlanKey, map_plan, write_plan
from tokenizer.shards.shard import Shard

LOOK_EVERY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class PlanFolder:
    """The place where a run keeps its plans."""

    path: Path
    writes: bool
    """False, of a command that only looks at a run, makes a plan that is not there for itself alone."""

    def plan(self, shard: Shard, key: PlanKey) -> Plan:
        """Open a plan; make it if it is not there. Raises: DamageError for a file that is not the plan of this key."""
        path = self.path / key.file_name
        if (found := _kept(path, key)) is not None:
            return found
        if not self.writes:
            with tempfile.TemporaryFile() as stream:
                write_plan(stream, shard, key)
                return map_plan(stream, key, name=path.name)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open_to_lock(self.path / LOCK)
        with lock:
            while not os.path.lexists(path) and not take_lock(lock.fileno()):
                time.sleep(LOOK_EVERY_S)
            if not os.path.lexists(path):
                _make(path, shard, key)
        found = _kept(path, key)  # without the lock: all others read the file, and its hash, at the same time
        assert found is not None, f"{path} was made"
        return found


def plan_folder(run_dir: str | Path, *, writes: bool) -> PlanFolder:
    """The folder of a run's plans. Args: writes: whether plans may be kept there, and the run folder made for them."""
    return PlanFolder(path=Path(run_dir) / PACKING_DIR, writes=writes)


def _kept(path: Path, key: PlanKey) -> Plan | None:
    if not os.path.lexists(path):
        return None
    with plain_stream(path) as stream:
        return map_plan(stream, key, name=str(path))


def _make(path: Path, shard: Shard, key: PlanKey) -> None:
    # A random name: containers may share a host's name and a process's number, and a killed one leaves its file.
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        with writing(path), part.open("x+b") as stream:
            write_plan(stream, shard, key)
            sync(stream)
            part.replace(path)
        sync_path(path.parent)
    finally:
        part.unlink(missing_ok=True)
