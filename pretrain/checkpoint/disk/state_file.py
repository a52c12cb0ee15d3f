"""``state.json``: the progress of a run when its checkpoint was written."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from fanal.errors import DamageError
from fanal.run_folder import STATE
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, read_small_file
from pretrain.state import Recent, TrainState

YOUNGER = {"skipped_spikes", "recent"}
"""Fields that checkpoints from before spike detection do not have; they start as in a new run."""


def state_text(state: TrainState) -> str:
    """Return the content of ``state.json``. Python writes a float so that reading it gives the same bits."""
    return json.dumps(dataclasses.asdict(state), indent=1, allow_nan=False) + "\n"


def read_state(folder: Path, *, step: int) -> TrainState:
    """Read the state in a checkpoint's folder, which must be that of ``step``.

    Raises: DamagedCheckpointError naming the file if a field is missing or unknown, a counter is not an integer from 0, a recent
    value is not a finite number, or the step is another.
    """
    path = folder / STATE
    names = [field.name for field in dataclasses.fields(TrainState)]
    try:
        fields = json.loads(read_small_file(path))
        if isinstance(fields, dict) and not YOUNGER & fields.keys():
            fields |= {"skipped_spikes": 0, "recent": {"losses": [], "grad_norms": []}}
        if not isinstance(fields, dict) or sorted(fields) != sorted(names):
            raise DamageError(f"it must hold {', '.join(names)}")
        recent = _recent(fields.pop("recent"))
        for name, value in fields.items():
            if type(value) is not int or value < 0:  # true is an int in Python, and no count
                raise DamageError(f"{name} ({value!r}) must be an integer from 0")
        if fields["step"] != step:
            raise DamageError(f"step ({fields['step']}) must be {step}, that of the checkpoint's manifest")
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} is not the state of this checkpoint: {error}") from None
    return TrainState(**fields, recent=recent)


def _recent(found: Any) -> Recent:
    """Parse the recent values. Raises: DamageError for anything but lists of finite floats under the right names."""
    names = [field.name for field in dataclasses.fields(Recent)]
    if not isinstance(found, dict) or sorted(found) != sorted(names):
        raise DamageError(f"recent must hold {', '.join(names)}")
    for name, values in found.items():
        if not isinstance(values, list):
            raise DamageError(f"recent.{name} must be a list")
        for value in values:
            if type(value) is not float or not math.isfinite(value):
                raise DamageError(
                    f"recent.{name} holds {value!r}; every value must be a finite number written with a decimal point"
                )
    return Recent(**{name: tuple(values) for name, values in found.items()})
