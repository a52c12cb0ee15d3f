"""Several runs: which folders they are, and the status of each. One that cannot be read leaves the others be."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import FanalError, exit_code_of
from fanal.exit_codes import FINISHED
from fanal.shown import on_one_line
from launch.status.queue import Queue, ask_once
from launch.status.status import facts_of, is_run, status


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a look at one run found."""

    run_dir: Path
    found: dict[str, Any] | None
    """Its status; None if it cannot be read."""
    problem: str = ""
    """Why not."""
    exit_code: int = FINISHED


def runs_of(paths: Sequence[Path]) -> list[Path]:
    """Return the folders of runs that paths name: themselves, and of a folder that is none the runs in it, by name."""
    runs: list[Path] = []
    for path in paths:
        inside = [] if _may_be_run(path) else _inside(path)
        runs += inside or [path]
    return list(dict.fromkeys(runs))


def is_folder_of_runs(path: Path) -> bool:
    """Whether a path is no run and has runs in it."""
    return not _may_be_run(path) and bool(_inside(path))


def _inside(path: Path) -> list[Path]:
    try:
        return sorted(inner for inner in path.iterdir() if inner.is_dir() and _may_be_run(inner))
    except OSError:
        return []  # the status of the folder says what is wrong with it


def _may_be_run(path: Path) -> bool:
    try:
        return is_run(path)
    except OSError:
        return True  # nobody may look: a row says so


def look_at(runs: Sequence[Path]) -> list[Look]:
    """Return the status of each run, in their order. Slurm is asked once for all."""
    facts = {run: facts for run in runs if (facts := _facts(run)) is not None}
    queues = ask_once(facts)
    return [_look(run, queues) for run in runs]


def _facts(run: Path) -> dict[str, Any] | None:
    try:
        return facts_of(run)
    except OSError:
        return None


def _look(run: Path, queues: Queue) -> Look:
    try:
        return Look(run_dir=run, found=status(run, queue=queues))
    except Exception as error:  # a folder may hold anything: it is one row, and no end of the table
        said = str(error) if isinstance(error, FanalError) else f"{type(error).__name__}: {error}"
        return Look(run_dir=run, found=None, problem=on_one_line(said), exit_code=exit_code_of(error))


def tree_of(looks: Sequence[Look]) -> list[dict[str, Any]]:
    """Return the looks for JSON: each a status, or the folder with the problem."""
    return [look.found or {"run_dir": str(look.run_dir.absolute()), "problem": look.problem} for look in looks]
