"""What a run folder says of the run's progress: its whole checkpoints, and the records of its metrics file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fanal.json_lines import parse_lines, read_lines
from fanal.run_folder import COMPLETE, METRICS_FILE, checkpoints_dir, step_name, step_of

RECORD_BEGINS = '{"kind": '
"""How every line of metrics.jsonl begins."""


def newest_step(run_dir: Path) -> int:
    """Step of the newest whole checkpoint; 0 if there is none."""
    return max(whole_steps(run_dir), default=0)


def whole_steps(run_dir: Path) -> list[int]:
    """Steps of the checkpoints that bear the mark of a whole one, oldest first. Their bytes are not read."""
    folder = checkpoints_dir(run_dir)
    steps = (step_of(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(step for step in steps if step is not None and (folder / step_name(step) / COMPLETE).is_file())


def metrics(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The records of metrics.jsonl, oldest first; none if there is no file."""
    return read_lines(run_dir / METRICS_FILE, begins=RECORD_BEGINS)


def parse_metrics(text: str) -> list[dict[str, Any]]:
    """The records in whole lines of metrics.jsonl."""
    return list(parse_lines(text.splitlines(), begins=RECORD_BEGINS))
