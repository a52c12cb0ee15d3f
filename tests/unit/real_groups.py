"""A real control group of version 1 or 2 for a program of a test, where this user may make one."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fanal.cgroups import groups_of, lines


@contextlib.contextmanager
def group_with(controller: str, limits: dict[str, str]) -> Iterator[Path]:
    """A group inside this process's own, with the first of these limits that its version has; skips where none may be made."""
    own = next(groups_of(Path("/"), controller), None)
    folder = own / f"fanal-test-{os.getpid()}" if own else None
    try:
        if folder is None:
            raise OSError("there are none")
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here for {controller}: {error}")
    try:
        name = next((name for name in limits if (folder / name).exists()), None)
        if name is None:
            pytest.skip(f"{folder} has no {' or '.join(limits)}: {controller} is not given to groups below {own}")
        (folder / name).write_text(limits[name])
        yield folder
    finally:
        folder.rmdir()


def said_inside(folder: Path, program: str) -> str:
    """What a program prints that runs in a group."""
    enter = f"echo $$ > {folder}/cgroup.procs && exec {sys.executable} -c '{program}'"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(["sh", "-c", enter], env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not lines(folder / "cgroup.procs"), "nothing is left in the group"
    return done.stdout
