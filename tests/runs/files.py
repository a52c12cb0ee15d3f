"""The files of a folder, such as a checkpoint's."""

from pathlib import Path


def files_below(folder: Path) -> list[str]:
    """Paths of all plain files in a folder, from the folder on, sorted; links are not followed."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path.relative_to(folder).as_posix() for path in found)
