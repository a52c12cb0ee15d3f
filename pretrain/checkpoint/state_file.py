"""``state.json``: where a run stood when its checkpoint was written."""

import dataclasses
import json
from pathlib import Path

from pretrain.checkpoint.manifest import DamagedCheckpointError, read_small_file
from pretrain.checkpoint.paths import STATE
from pretrain.state import TrainState


def state_text(state: TrainState) -> str:
    """The content of ``state.json``."""
    return json.dumps(dataclasses.asdict(state), indent=1) + "\n"


def read_state(folder: Path, *, step: int) -> TrainState:
    """The state in a checkpoint's folder, which must be that of ``step``.

    Raises: DamagedCheckpointError naming the file if a counter is missing, unknown or no integer from 0, or the step another.
    """
    path = folder / STATE
    names = [field.name for field in dataclasses.fields(TrainState)]
    try:
        fields = json.loads(read_small_file(path))
        if not isinstance(fields, dict) or sorted(fields) != sorted(names):
            raise ValueError(f"it must hold {', '.join(names)}")
        for name, value in fields.items():
            if type(value) is not int or value < 0:  # true is an int in Python, and no count
                raise ValueError(f"{name} ({value!r}) must be an integer from 0")
        if fields["step"] != step:
            raise ValueError(f"step ({fields['step']}) must be {step}, that of the checkpoint's manifest")
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} is not the state of this checkpoint: {error}") from None
    return TrainState(**fields)
