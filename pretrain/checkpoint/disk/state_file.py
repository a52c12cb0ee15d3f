"""``state.json``: the progress of a run when its checkpoint was written."""

import dataclasses
import json
import math
from pathlib import Path

from fanal.records import MisfitError, record_of
from fanal.run_folder import STATE
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, read_small_file
from pretrain.state import Recent, TrainState

YOUNGER = {"skipped_spikes", "recent"}
"""Fields that checkpoints from before spike detection do not have; they start as in a new run."""


NAMES = (
    *(field.name for field in dataclasses.fields(TrainState)),
    *(f"recent.{field.name}" for field in dataclasses.fields(Recent)),
)
"""Every field of the file."""


def state_text(state: TrainState) -> str:
    """Return the content of ``state.json``. Python writes a float so that reading it gives the same bits."""
    return json.dumps(dataclasses.asdict(state), indent=1, allow_nan=False) + "\n"


def read_state(folder: Path, *, step: int) -> TrainState:
    """Read the state in a checkpoint's folder, which must be that of ``step``.

    Raises: DamagedCheckpointError naming the file if a field is missing or unknown, a counter is not an integer from 0, a recent
    value is not a finite number, or the step is another.
    """
    path = folder / STATE
    content = read_small_file(path)
    try:
        fields = json.loads(content)
        if isinstance(fields, dict) and not YOUNGER & fields.keys():
            fields |= {"skipped_spikes": 0, "recent": {"losses": [], "grad_norms": []}}
        if isinstance(fields, dict):
            fields.setdefault("decay_start_sample", None)  # a checkpoint from before there were such decays lacks it
        state = record_of(TrainState, fields)
        stated = {*fields, *(f"recent.{name}" for name in fields.get("recent", ()))}
        missing = [name for name in NAMES if name not in stated]
        if missing:  # a new run has defaults for them, which say nothing of this one
            raise MisfitError(f"it lacks {', '.join(missing)}")
        _check(state, step)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} is not the state of this checkpoint: {error}") from None
    return state


def _check(state: TrainState, step: int) -> None:
    """Check the values. Raises: MisfitError."""
    counters = {name: value for name, value in vars(state).items() if name != "recent"}
    for name, value in counters.items():
        if value is not None and value < 0:
            raise MisfitError(f"{name} ({value!r}) must be an integer from 0")
    if state.step != step:
        raise MisfitError(f"step ({state.step}) must be {step}, that of the checkpoint's manifest")
    for name, values in vars(state.recent).items():
        for value in values:
            if type(value) is not float or not math.isfinite(value):
                raise MisfitError(
                    f"recent.{name} holds {value!r}; every value must be a finite number written with a decimal point"
                )
