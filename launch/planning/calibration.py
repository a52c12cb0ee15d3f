"""Where calibrations are kept, and what ``fanal plan --calibrate`` does with a run."""

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import UserError
from fanal.files import writing
from pretrain.plan.calibration import Calibration, calibrated, comparison, read_calibration, words, write_calibration
from pretrain.plan.machine import MachineConfig


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest:
    """What the options of ``fanal plan`` ask."""

    run_dirs: Sequence[str] = ()
    """Runs to fit factors to, all at once, in place of those that are kept."""
    ignored: bool = False
    """Whether the machine's figures are taken as they are."""


def calibration_path(*, site: str | None, machine: str) -> Path:
    """Return the file of a site's calibration, or of a machine's where there is no site.

    A site or a machine that is a file of its own has it beside it; one that goes by its name, in the user's folder of settings.
    """
    named = site or machine
    if named.endswith((".yaml", ".yml")):
        return Path(named).with_suffix(".calibration.yaml")
    settings = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(settings).expanduser() / "fanal" / "calibrations" / f"{named}.yaml"


def calibrated_machine(
    machine: MachineConfig, path: Path, asked: CalibrationRequest
) -> tuple[MachineConfig, str, list[str]]:
    """Return the machine with the factors that are kept or are fitted now, what a plan says of them, and the lines of a fit.

    Raises: UserError if a run cannot be taken, or what is kept is not readable or is another machine's.
    """
    if asked.ignored:
        if asked.run_dirs:
            raise UserError(
                f"--calibrate ({asked.run_dirs[0]}) must stand without --no-calibration; leave out one of the two"
            )
        return machine, "", []
    said: list[str] = []
    kept: Calibration | None
    if asked.run_dirs:
        kept = _fit(machine, path, asked.run_dirs)
        said = [*comparison(kept), f"kept in {path}, which plans of this machine read from now on", ""]
    else:
        kept = read_calibration(path, machine)
    if kept is None:
        return machine, "", said
    return calibrated(machine, kept.factors), words(kept, path), said


def _fit(machine: MachineConfig, path: Path, run_dirs: Sequence[str]) -> Calibration:
    from pretrain.plan.calibration import calibrate
    from pretrain.plan.run_log import logged_run

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    found = calibrate([logged_run(one) for one in run_dirs], machine, date=today)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_calibration(path, found)
    return found
