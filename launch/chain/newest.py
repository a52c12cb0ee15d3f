"""Progress of a run as its folder shows it. The folders and files are the trainer's: names come from its rooms."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fanal.run_folder import COMPLETE, checkpoints_dir, step_name, step_of
from pretrain.log.run_dir import METRICS_FILE


def newest_step(run_dir: Path) -> int:
    """Return the step of the newest complete checkpoint; 0 if there is none."""
    return max(whole_steps(run_dir), default=0)


def whole_steps(run_dir: Path) -> list[int]:
    """Return the steps of the checkpoints that are marked as complete, oldest first. Their bytes are not read."""
    folder = checkpoints_dir(run_dir)
    steps = (step_of(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(step for step in steps if step is not None and (folder / step_name(step) / COMPLETE).is_file())


def metrics(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Return the complete lines of metrics.jsonl, oldest first; none if there is no file."""
    with (
        contextlib.suppress(FileNotFoundError),
        (run_dir / METRICS_FILE).open(encoding="utf-8", errors="replace") as stream,
    ):
        for line in stream:
            with contextlib.suppress(ValueError, RecursionError):  # digits or nesting beyond what Python reads
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record
