"""``average.json``: which checkpoints a checkpoint is the mean of. Only averages have it (pretrain/convert/averaging).

State, position, config and origin beside it are those of the newest checkpoint that was averaged; what is written here says so,
and has the same of each of the others, so that an auditor needs none of them.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.records import MisfitError, record_of
from fanal.run_folder import AVERAGE
from pretrain.checkpoint.disk.manifest import read_record

FORMAT_VERSION = 1
ARITHMETIC = "sum in float64 in the order of the sources, divided by their number, rounded once to float32"


@dataclass(frozen=True, kw_only=True)
class AveragedSource:
    """One of the checkpoints."""

    checkpoint: str
    """The folder, as an absolute path."""
    manifest_sha256: str
    """Hash of its manifest, as in its COMPLETE, and so of every byte of it."""
    step: int
    """Optimizer steps of its run."""
    consumed_samples: int
    consumed_tokens: int
    """Tokens that its run had predicted, without those of the runs before."""
    data: dict[str, Any] | None
    """The content of its data.json: which shards, by hash, and how far into each."""


@dataclass(frozen=True, kw_only=True)
class Average:
    """What a checkpoint is the mean of."""

    format_version: int
    state: str
    """What was averaged, by its name in the checkpoints: ``param``, the master weights, or ``ema``, their moving average."""
    arithmetic: str
    sources: tuple[AveragedSource, ...]
    """In the order of their steps."""


def average_text(average: Average) -> str:
    """Return the content of ``average.json``."""
    return json.dumps(dataclasses.asdict(average), indent=1) + "\n"


def read_average(folder: Path) -> Average | None:
    """Read what a checkpoint is the mean of; None for one that was trained or imported.

    Raises: DamagedCheckpointError naming the file if it is not such a record.
    """
    return read_record(folder / AVERAGE, _checked, what="an average")


def _checked(content: Any) -> Average:
    found = record_of(Average, content)
    if found.format_version != FORMAT_VERSION or not found.sources:
        raise MisfitError(f"version {found.format_version} of {len(found.sources)} sources, expected {FORMAT_VERSION}")
    return found


def described(average: Average) -> str:
    """Return a description of an average in one line."""
    what = "the weights" if average.state == "param" else "the moving average of the weights"
    sources = ", ".join(f"step {part.step:,} (manifest {part.manifest_sha256[:12]})" for part in average.sources)
    if len(average.sources) == 1:
        return f"{what} of 1 checkpoint: {sources}"
    return f"mean of {what} of {len(average.sources)} checkpoints: {sources}"
