"""Requests of a program to file systems, as strace sees them: those with a path, which a shared file system's server answers."""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

LINE = re.compile(r"""^\d+ +(\w+)\((?:\w+, |\w+<[^>]*>, )?"([^"]*)""")
OF_DESCRIPTORS = re.compile(r"^\d+ +(getdents64|getdents)\(\d+<([^>]*)>")
CALLS = "trace=%file,getdents64"
"""Calls with a path, and lists of folders. What an open file is asked (read, fstat, lseek) the node's own cache answers, or the
server of its bytes."""


def requests_of(
    command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, timeout_s: float = 600
) -> list[tuple[str, str]]:
    """Run a command with all its processes, and return (call, absolute path) of every request.

    Raises: CalledProcessError if it fails; FileNotFoundError without strace.
    """
    with tempfile.NamedTemporaryFile("r", errors="replace") as log:
        traced = ["strace", "-f", "-y", "-s", "4096", "-e", CALLS, "-e", "signal=none", "-o", log.name]
        subprocess.run([*traced, *command], env=dict(env), cwd=cwd, timeout=timeout_s, check=True, capture_output=True)
        return [found for line in log if (found := _request(line, cwd)) is not None]


def _request(line: str, cwd: Path) -> tuple[str, str] | None:
    if match := OF_DESCRIPTORS.match(line):
        return match[1], match[2]
    match = LINE.match(line)
    if match is None or not match[2]:  # without a path: a question to an open file
        return None
    return match[1], str(cwd / match[2])


def below(requests: Sequence[tuple[str, str]], *folders: str | Path) -> list[tuple[str, str]]:
    """Return the requests for these folders and what lies in them."""
    inside = tuple(f"{str(folder).rstrip('/')}/" for folder in folders)
    return [(call, path) for call, path in requests if f"{path}/".startswith(inside)]


def by_call(requests: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return how often each call is made, the most frequent first."""
    return dict(Counter(call for call, _ in requests).most_common())
