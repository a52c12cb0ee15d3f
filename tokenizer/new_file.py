"""A file that a user asks a command to write: it must not exist, and its folder must."""

from pathlib import Path

from fanal.errors import UserError, user_path


def check_new_file(option: str, path: Path) -> None:
    """Raises: UserError naming the option."""
    with user_path(path):
        exists, has_folder = path.exists(), path.absolute().parent.is_dir()
    if exists:
        raise UserError(f"{option} {path} exists, and nothing is overwritten; remove it, or name another")
    if not has_folder:
        raise UserError(f"{option} {path}: folder {path.parent} does not exist; make it, or name another")
