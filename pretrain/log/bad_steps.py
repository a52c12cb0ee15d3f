"""``spikes.jsonl``: the steps that went wrong, with the place of each of their samples, and a line for people."""

import dataclasses
import json
from pathlib import Path

from fanal.new_files import append, open_to_append
from fanal.run_folder import SPIKES_FILE
from pretrain.config.schema import SpikeConfig
from pretrain.data.forensics import sample_places
from pretrain.data.read import TrainData
from pretrain.log.record import BadStepRecord
from pretrain.log.sinks import json_value
from pretrain.log.stamp import Stamp
from pretrain.state import TrainState

MAX_BYTES = 64 * 2**20
"""Size beyond which the file takes steps without their samples: at some 180 bytes a sample, 370 steps of 1,024 samples fit."""


def list_bad_step(
    run_dir: str | Path, record: BadStepRecord, data: TrainData, stamp: Stamp, *, max_bytes: int = MAX_BYTES
) -> str:
    """Append a step to the run's file. One rank calls it; it computes the places of the samples of all ranks.

    Returns: a line for people.
    """
    path = Path(run_dir) / SPIKES_FILE
    full = path.is_file() and path.stat().st_size >= max_bytes
    places = None if full else sample_places(data, first_sample=record.first_sample, num_samples=record.num_samples)
    fields = {name: json_value(value) for name, value in dataclasses.asdict(record).items()}
    fields |= stamp.fields(step=record.step)
    fields["samples"] = None if places is None else [dataclasses.asdict(place) for place in places]
    where = f"left out of {SPIKES_FILE}, which is full" if full else f"are in {SPIKES_FILE}"
    try:
        with open_to_append(path) as stream:
            append(stream, (json.dumps(fields, allow_nan=False) + "\n").encode())
    except OSError as error:  # a full disk must not end the run
        where = f"could not be listed in {path}: {error.strerror}"
    return _line(record, where)


def budget_line(spikes: SpikeConfig, state: TrainState) -> str:
    """Return the line for a spike that is trained on because no more may be skipped."""
    return (
        f"WARNING: the spike of step {state.step} was trained on: {state.skipped_spikes} spikes have been skipped, and "
        f"train.spikes.max_skipped_spikes ({spikes.max_skipped_spikes}) allows no more. So many spikes have another cause, "
        "such as too high an optim.lr; to skip more, stop the run and resume it with a larger number"
    )


def _line(record: BadStepRecord, where: str) -> str:
    what = "spike" if record.reason == "spike" else "gradient not finite"
    samples = f"samples {record.first_sample} to {record.first_sample + record.num_samples - 1}"
    return (
        f"{what} at step {record.step}, {'skipped' if record.skipped else 'trained on'}: "
        f"loss {record.loss:.4f}{_z(record.loss_z)}, grad norm {record.grad_norm:.3f}{_z(record.grad_norm_z)}; "
        f"{samples} {where}"
    )


def _z(score: float | None) -> str:
    return "" if score is None else f" (z {score:.1f})"
