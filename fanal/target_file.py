"""The file that an option names, looked at before a search or a download takes its time."""

import os
from pathlib import Path

from fanal.errors import UserError, user_path

KINDS = {".yaml": "a YAML", ".svg": "an SVG", ".tar": "a tar"}
EXAMPLES = {".yaml": "layout.yaml", ".svg": "scaling.svg", ".tar": "environment.tar"}


def check_target(option: str, target: Path, suffixes: tuple[str, ...], *, may_replace: bool) -> None:
    """Refuse a file that could not be written, or that is there already and may be somebody's.

    Args: suffixes: endings that the name may have, the first for advice; may_replace: whether a file that is there is replaced.
    Raises: UserError naming the option, its value, the rule and what works.
    """
    example = f"{option} {EXAMPLES[suffixes[0]]} works"
    with user_path(target):
        if target.suffix not in suffixes:
            works = f"{option} {target}{suffixes[0]} works" if target.name else example
            raise UserError(f"{option} ({target}) must name {KINDS[suffixes[0]]} file; {works}")
        folder = target.absolute().parent
        if target.is_dir() or not folder.is_dir():
            raise UserError(f"{option} ({target}) must name a file in a folder that exists; {example}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{option} ({target}) must name a file in a folder that you may write; {example}")
        if not may_replace and os.path.lexists(target):
            other = target.with_name(f"{target.stem}-2{target.suffix}")
            raise UserError(f"{option} ({target}) must not be there yet; {option} {other} works")
