"""The control groups of this process: where the kernel states what a container or a Slurm job may have of a machine."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def groups_of(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's groups of version 2, and of version 1's for a controller, each from its own to the
    outermost.

    Args: root, that of the machine; controller, such as memory or cpu.
    """
    for group in lines(root / "proc/self/cgroup"):
        hierarchy, controllers, path = [*group.split(":", 2), "", ""][:3]
        kind = "cgroup2" if hierarchy == "0" else "cgroup"
        if kind == "cgroup" and controller not in controllers.split(","):
            continue
        for line in lines(root / "proc/self/mountinfo"):
            fields, _, rest = line.partition(" - ")
            mounted, options = rest.split(" ")[0], rest.split(" ")[-1].split(",")
            if mounted != kind or (kind == "cgroup" and controller not in options):
                continue
            top, at = (_as_path(field) for field in fields.split(" ")[3:5])  # the group that is mounted, and where
            # Not below it: a container that sees only its own group, mounted as the root.
            with contextlib.suppress(ValueError):
                inner = PurePosixPath(path).relative_to(top)
                yield from (root / at.lstrip("/") / part for part in (inner, *inner.parents) if str(part) != ".")
            yield root / at.lstrip("/")


def lines(path: Path) -> list[str]:
    """Return the lines of a file of the kernel; none where there is no such file."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _as_path(field: str) -> str:
    """Return a path of mountinfo, which writes spaces and line ends as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def number(path: Path) -> int | None:
    """Return the number in a file; None where there is none, or the word max."""
    text = "".join(lines(path)[:1]).strip()
    return int(text) if text.isascii() and text.isdigit() else None
