"""What ``fanal launch status`` prints: one run whole, or several as a table; once or until Ctrl-C; for people or as JSON."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.text import Text

from fanal.console import Console, Group, RenderableType
from fanal.exit_codes import FINISHED
from launch.status.several import Look, is_folder_of_runs, look_at, runs_of, tree_of
from launch.status.status import finite, status
from launch.status.table import lines as table_lines
from launch.status.text import drawn, show
from launch.status.watch import redraw, write_lines


def show_once(run_dirs: Sequence[Path], *, as_json: bool) -> int:
    """Print the status of one run, or of several; returns the exit code. Raises: UserError for one that cannot be read."""
    if _is_one(run_dirs):
        found = status(run_dirs[0])
        if as_json:
            print(json.dumps(finite(found), indent=2, allow_nan=False))
        else:
            show(found)
        return FINISHED
    looks = look_at(runs_of(run_dirs))
    if as_json:
        print(json.dumps(finite(tree_of(looks)), indent=2, allow_nan=False))
    else:
        print(*_table(looks, Console()), sep="\n")
    return max(look.exit_code for look in looks)


def show_until_interrupted(run_dirs: Sequence[Path], *, as_json: bool, every_s: float) -> int:
    """Print it every so many seconds, until Ctrl-C. A run that cannot be read is said, and looked at again."""
    if _is_one(run_dirs):
        status(run_dirs[0])  # a wrong path is refused at once
    if as_json:
        write_lines(lambda: _json_lines(run_dirs), every_s=every_s)
    elif Console().is_terminal:
        redraw(lambda console: _drawn(run_dirs, console), every_s=every_s)
    else:
        write_lines(lambda: _text_lines(run_dirs), every_s=every_s)
    return FINISHED


def _is_one(run_dirs: Sequence[Path]) -> bool:
    return len(run_dirs) == 1 and not is_folder_of_runs(run_dirs[0])


def _table(looks: Sequence[Look], console: Console) -> list[str]:
    return table_lines(looks, console.width if console.is_terminal else None)


def _drawn(run_dirs: Sequence[Path], console: Console) -> RenderableType:
    looks = look_at(runs_of(run_dirs))
    if _is_one(run_dirs) and looks[0].found is not None:
        return drawn(looks[0].found)
    return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in _table(looks, console)))


def _json_lines(run_dirs: Sequence[Path]) -> Iterator[str]:
    """Yield a line for each run."""
    for one in tree_of(look_at(runs_of(run_dirs))):
        yield json.dumps({"time_utc": _now(), **finite(one)}, allow_nan=False)


def _text_lines(run_dirs: Sequence[Path]) -> Iterator[str]:
    """Yield the lines of the table, each with the time."""
    now = _now()
    for line in table_lines(look_at(runs_of(run_dirs)), None):
        yield f"{now} {line}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
