"""The checkpoint that is evaluated, and a record that says so before it has figures."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.node_name import node_name
from fanal.run_folder import checkpoints_dir, step_name, step_of
from pretrain.checkpoint.disk.origin import sealed_hash
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.checkpoint.disk.state_file import read_state
from pretrain.checkpoint.disk.verify import first_whole
from pretrain.log.evaluation_file import EvaluationFile

MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A complete checkpoint of a run."""

    run_dir: Path
    folder: Path
    step: int
    consumed_tokens: int
    manifest_sha256: str


def choose(run_dir: str | Path, step: int | None) -> Chosen:
    """Return the checkpoint of a step, or the newest complete one.

    Raises: UserError if the run has none, or not of this step; DamagedCheckpointError if it is not what was written.
    """
    folder = checkpoints_dir(run_dir)
    found = checkpoints_in(folder)
    if not found:
        raise UserError(
            f"RUN_DIR ({run_dir}) must be the folder of a run with a checkpoint in it, and it has none; runs/tiny works once that "
            "run has saved"
        )
    wanted = [path for path in found if step is None or path.name == step_name(step)]
    if not wanted:
        steps = [str(step_of(path.name)) for path in found[:MOST_NAMED]]
        raise UserError(
            f"--step ({step}) must be a step of which {run_dir} has a checkpoint; --step {steps[0]} works, and without --step it "
            f"is the newest (the newest here: {', '.join(steps)})"
        )
    finding, _ = first_whole(wanted, deep=False)
    assert finding.manifest is not None, "a complete checkpoint has a manifest"
    state = read_state(finding.folder, step=finding.manifest.step)
    return Chosen(
        run_dir=Path(run_dir),
        folder=finding.folder,
        step=state.step,
        consumed_tokens=state.consumed_tokens,
        manifest_sha256=sealed_hash(finding.folder),
    )


def begun(
    chosen: Chosen, kind: str, *, question: Mapping[str, Any], versions: Mapping[str, str], device: str
) -> EvaluationFile:
    """Return the record of an evaluation that has no figures yet."""
    return EvaluationFile(
        kind=kind,
        time_unix_s=time.time(),
        elapsed_s=0.0,
        step=chosen.step,
        consumed_tokens=chosen.consumed_tokens,
        checkpoint=chosen.folder.name,
        manifest_sha256=chosen.manifest_sha256,
        question=dict(question),
        versions=dict(versions),
        device=device,
        host=node_name(),
        job=os.environ.get("SLURM_JOB_ID"),
        figures=(),
    )
