"""The git checkout that this code runs from: its commit, and whether a file of it was changed since.

The commit is read from git's files, so that it needs no git. Whether something was changed only git can say quickly.
"""

import contextlib
import os
import re
import subprocess
from pathlib import Path

from fanal.plain_files import read_plain

ROOT = Path(__file__).resolve().parents[1]
"""The checkout, if there is one: this package lies in its top folder."""
PACKAGES = ("fanal", "kernels", "launch", "pretrain", "tokenizer")
"""Folders of the checkout that hold code."""
GIT_LIMIT_S = 10.0
"""Seconds for git's answer, which takes hundredths of one where the disk answers."""
MAX_BYTES = 16 << 20
"""Largest file of git's that is read: the list of all packed references."""
_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def checkout_commit(root: Path = ROOT) -> str | None:
    """Return the commit of the checkout in this folder; None where there is none, as of an installed package, or where git keeps it
    in another way."""
    with contextlib.suppress(OSError, ValueError):
        place = root / ".git"
        if place.is_file():  # a worktree: the file says where its own files are
            place = root / _text(place).removeprefix("gitdir:").strip()
        head = _text(place / "HEAD")
        if _COMMIT.fullmatch(head):
            return head
        shared = place / _text(place / "commondir") if (place / "commondir").is_file() else place
        return _commit_of(head.removeprefix("ref:").strip(), (place, shared))
    return None


def is_checkout_modified(root: Path = ROOT) -> bool | None:
    """Return whether a file of the code in this checkout differs from its commit; None where git does not say."""
    if not (root / ".git").exists():
        return None
    ask = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(root)]
    ask += ["status", "--porcelain", "--untracked-files=no", "--", *PACKAGES]
    # Whoever starts a run from a hook of git has these set, of another checkout.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(
            ask, capture_output=True, stdin=subprocess.DEVNULL, check=True, timeout=GIT_LIMIT_S, env=environment
        )
        return bool(answer.stdout.strip())
    return None


def _commit_of(reference: str, folders: tuple[Path, ...]) -> str | None:
    for folder in folders:
        if (folder / reference).is_file() and _COMMIT.fullmatch(found := _text(folder / reference)):
            return found
    packed = folders[-1] / "packed-refs"
    for line in _text(packed).splitlines() if packed.is_file() else ():
        commit, _, name = line.partition(" ")
        if name == reference and _COMMIT.fullmatch(commit):
            return commit
    return None


def _text(path: Path) -> str:
    return read_plain(path, max_bytes=MAX_BYTES).decode().strip()
