"""Files that a job may read at any moment."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file completely or not at all: a reader sees the file before, or this one."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
