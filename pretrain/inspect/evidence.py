"""The evidence that a run leaves: its logged steps, read as they come, and its last checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import DamageError
from fanal.run_folder import DATA, METRICS_FILE, checkpoints_dir
from fanal.run_progress import metrics, parse_metrics
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.checkpoint.disk.verify import Finding, verify_checkpoint
from pretrain.data.position import DataPosition, read_position

Record = dict[str, Any]


class StepReader:
    """Follows a run's metrics file while the run writes it."""

    def __init__(self, run_dir: Path) -> None:
        self._path, self._offset = run_dir / METRICS_FILE, 0
        self.last_step: int | None = None
        """The last step logged since the reader began; None before the first."""

    def skip_what_is_there(self) -> None:
        """Begin at the file's end."""
        self._offset = self._path.stat().st_size if self._path.is_file() else 0

    def read(self) -> None:
        """Take in what was written since."""
        if not self._path.is_file() or self._path.stat().st_size == self._offset:
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            new = stream.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        steps = [
            record["step"] for record in parse_metrics(whole.decode(errors="replace")) if record.get("kind") == "step"
        ]
        if steps:
            self.last_step = steps[-1]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One run's own account of itself."""

    run_dir: Path
    steps: list[Record]
    """Every record of a step, in the order written; a step that was trained again after a kill is there again."""
    validations: list[Record]
    checkpoint: Path | None
    """The newest one, by its name."""
    finding: Finding | None
    """Its deep verification."""
    position: DataPosition | None
    """Content of its data.json; None if it cannot be read."""


def read_evidence(run_dir: Path) -> Evidence:
    """Read a run that has ended. The checkpoint is verified, since comparing hashes in manifests proves no more than they."""
    records = list(metrics(run_dir))
    checkpoint = next(iter(checkpoints_in(checkpoints_dir(run_dir))), None)
    position = None
    if checkpoint is not None and (checkpoint / DATA).is_file():
        try:
            position = read_position(checkpoint / DATA)
        except DamageError:
            position = None  # the comparison says that it is missing
    return Evidence(
        run_dir=run_dir,
        steps=[record for record in records if record.get("kind") == "step"],
        validations=[record for record in records if record.get("kind") == "validation"],
        checkpoint=checkpoint,
        finding=None if checkpoint is None else verify_checkpoint(checkpoint, deep=True),
        position=position,
    )
