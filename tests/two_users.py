"""A second user, who shares a group with the owner of a folder: acts of his are real processes with his rights. Needs root."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COLLEAGUE, GROUP = 65534, 4242
needs_two_users = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")


def colleague(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a shell command in a folder as the colleague."""
    own = ["setpriv", f"--reuid={COLLEAGUE}", f"--regid={GROUP}", "--clear-groups", "bash", "-c", command]
    return subprocess.run(own, cwd=folder, capture_output=True, text=True, timeout=60)


def as_colleague(act: Callable[[], str]) -> str:
    """Return what a function returns in a process of the colleague's; an error's text if it fails."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(COLLEAGUE)
            answer = act()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    return answer


@contextmanager
def shared_place() -> Iterator[Path]:
    """A folder that both can reach, and that its owner alone may write to: pytest's own are closed to all others."""
    place = Path(tempfile.mkdtemp(prefix="fanal-two-users-", dir="/tmp"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place)


def share(folder: Path, mode: int = 0o2770) -> Path:
    """Make a folder of the owner's that the group may write to, as `chmod g+w` does."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:  # else it is the group of who runs the tests
        os.chown(folder, -1, GROUP)
    folder.chmod(mode)
    return folder
