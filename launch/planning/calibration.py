"""Where calibrations are kept, and what ``fanal plan --calibrate`` does with a run."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import UserError
from fanal.files import writing
from fanal.settings_folder import settings_folder
from launch.planning.place import Nodes
from pretrain.plan.calibration import (
    Calibration,
    calibrated,
    comparison,
    machine_in,
    read_calibration,
    words,
    write_calibration,
)
from pretrain.plan.machine import MachineConfig, load_machine


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest:
    """What the options of ``fanal plan`` ask."""

    run_dirs: Sequence[str] = ()
    """Runs to fit factors to, all at once, in place of those that are kept."""
    ignored: bool = False
    """Whether the machine's figures are taken as they are."""


def calibration_path(*, site: str | None, machine: str, is_own: bool = True) -> Path:
    """Return the file of a site's calibration; of a machine's where there is no site; of both for a machine that is not the site's.

    A site or a machine that is a file of its own has it beside it; one that goes by its name, in the user's folder of settings.
    Args: is_own: whether the machine is the one that the site names.
    """
    if site is None or is_own:
        return _kept_under(site or machine)
    return _kept_under(machine, site) if _is_file(machine) else _kept_under(site, machine)


def _kept_under(name: str, beside: str = "") -> Path:
    """Return the file of a name. Args: beside: a second name, whose stem becomes part of the file's."""
    second = f".{Path(beside).stem}" if beside else ""
    if _is_file(name):
        return Path(name).with_suffix(f"{second}.calibration.yaml")
    return settings_folder() / "calibrations" / f"{name}{second}.yaml"


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


@dataclass(frozen=True, kw_only=True)
class CalibratedMachine:
    """A machine with the factors that are kept, or are fitted now."""

    machine: MachineConfig
    said: str = ""
    """What a plan says of the factors."""
    fitted: Sequence[str] = ()
    """The lines of a fit."""
    new: Calibration | None = None
    """A fit that is to be kept, once all else that was asked for is done."""
    path: Path | None = None
    """Where it is to be kept."""

    def keep(self) -> None:
        """Keep a fit. Raises: UserError if the disk does not take it."""
        if self.new is not None and self.path is not None:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_calibration(self.path, self.new)


def calibrated_machine(nodes: Nodes, asked: CalibrationRequest) -> CalibratedMachine:
    """Return the machine with the factors that are kept or are fitted now. Nothing is written.

    Raises: UserError if a run cannot be taken, or what is kept is not readable or is another machine's.
    """
    machine = nodes.machine
    if asked.ignored:
        if asked.run_dirs:
            raise UserError(
                f"--calibrate ({asked.run_dirs[0]}) must stand without --no-calibration; leave out one of the two"
            )
        return CalibratedMachine(machine=machine)
    path = calibration_path(site=nodes.site_name, machine=nodes.machine_name, is_own=nodes.is_own_machine)
    if asked.run_dirs:
        new = _fit(machine, asked.run_dirs)
        return CalibratedMachine(
            machine=calibrated(machine, new.factors), said=words(new, path), new=new, path=path,
            fitted=[*comparison(new), f"kept in {path}, which plans of this machine read from now on", ""],
        )  # fmt: skip
    path = path if nodes.is_own_machine or path.exists() else _of_the_site_alone(nodes, otherwise=path)
    kept = read_calibration(path, machine)
    if kept is None:
        return CalibratedMachine(machine=machine)
    return CalibratedMachine(machine=calibrated(machine, kept.factors), said=words(kept, path))


def _of_the_site_alone(nodes: Nodes, *, otherwise: Path) -> Path:
    """Return the file that is named by the site alone, where it must be of this machine: earlier versions kept there whatever
    ``--gpu`` named. Factors of the site's own machine stay its own, also where both machines have one description.
    """
    older = calibration_path(site=nodes.site_name, machine=nodes.machine_name)
    if not older.is_file() or (
        nodes.own_machine and load_machine(nodes.own_machine).description == nodes.machine.description
    ):
        return otherwise
    return older if machine_in(older) == nodes.machine.description else otherwise


def _fit(machine: MachineConfig, run_dirs: Sequence[str]) -> Calibration:
    from pretrain.plan.calibration import calibrate
    from pretrain.plan.run_log import logged_run

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return calibrate([logged_run(one) for one in run_dirs], machine, date=today)
