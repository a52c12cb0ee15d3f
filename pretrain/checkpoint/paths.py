"""Names inside a run folder. Pure: nothing is opened here."""

import re
from pathlib import Path

COMPLETE = "COMPLETE"
"""Marker written last: a step folder without it is not a checkpoint."""
STATE = "state.json"
DATA = "data.json"
"""Where the run stood in its data (pretrain/data/position.py)."""
CONFIG = "config.yaml"
SHARDS = "shards"
"""Subfolder of megatron's distributed checkpoint: model and optimizer."""

_STEP = re.compile(r"step-(\d{8,})")


def checkpoints_dir(run_dir: str | Path) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(run_dir) / "checkpoints"


def step_name(step: int) -> str:
    """Folder of the checkpoint taken after ``step`` optimizer steps."""
    return f"step-{step:08d}"


def part_name(step: int) -> str:
    """Its name while it is being written."""
    return step_name(step) + ".part"


def step_of(name: str) -> int | None:
    """The step in a checkpoint folder's name; None for any other name, ``.part`` included."""
    match = _STEP.fullmatch(name)
    return int(match.group(1)) if match else None
