"""What runs say of a plan: factors on the times of its parts, fitted to the steps that runs logged, kept in a file for a machine.

Four factors: products; memory, which is elementwise kernels, attention and the update; communication; the host. The time of a
step is one figure, and a few runs cannot tell all parts apart, so that factors are drawn towards 1: of those that explain the runs
the least are taken, by the sum of the squares of their logarithms (ridge regression: Hoerl and Kennard, 1970). Bubbles follow from
the other parts.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import yaml
from omegaconf import MISSING

from fanal.errors import UserError, user_path
from fanal.files import write_whole
from pretrain.config.load import read_mapping, typed
from pretrain.plan.estimate import StepEstimate, estimate_step, on_device_of
from pretrain.plan.machine import FigureConfig, MachineConfig
from pretrain.plan.run_log import LoggedRun

FIGURES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "products": (("product_fraction", "fp32_product_fraction"), ()),
    "memory": (
        ("memory_fraction", "attention_fraction", "flash3_fraction", "fp32_memory_fraction", "fp32_attention_fraction"),
        (),
    ),
    "communication": (
        ("collective_fraction", "sum_fraction"),
        ("node_latency_us", "node_sum_latency_us", "network_latency_us"),
    ),
    "host": ((), ("host_ms_per_layer",)),
}
"""Of each factor, the figures of a machine that it divides, and those that it multiplies."""
ERROR = 0.02
"""Spread of the logarithm of a step's time that the plan's arithmetic leaves, as the fit takes it."""
SPREAD = math.log(2)
"""Spread of the logarithm of a factor, as the fit takes it before it has seen a run."""
MOST = 1e6
"""Largest factor that a plan reads, and its inverse the least: what is beyond was not fitted to a run."""
MOST_OFF = 2.0
"""How many times as long as planned, or as short, the steps of a run that factors are kept of may be."""
ROUNDS = 20
STEP = 0.01
"""Change of a factor's logarithm by which its effect is found."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """By what the planned time of each part is multiplied."""

    products: float = 1.0
    memory: float = 1.0
    communication: float = 1.0
    host: float = 1.0


@dataclass(frozen=True, kw_only=True)
class CalibratedRun:
    """A run that factors were fitted to."""

    run_dir: str = MISSING
    num_ranks: int = MISSING
    steps: int = MISSING
    step_s: float = MISSING
    """Seconds of a step, as it logged them."""
    before_s: float = MISSING
    """The same as planned without factors."""
    after_s: float = MISSING


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Factors of a machine, and the runs that they are from."""

    machine: str = MISSING
    """Its description."""
    date: str = MISSING
    factors: Factors = field(default_factory=Factors)
    runs: list[CalibratedRun] = field(default_factory=list)

    @property
    def worst_before(self) -> float:
        """Largest error of a plan without factors, as a part of what the run took."""
        return max(abs(one.before_s / one.step_s - 1) for one in self.runs)

    @property
    def worst_after(self) -> float:
        """The same with them."""
        return max(abs(one.after_s / one.step_s - 1) for one in self.runs)


def calibrated(machine: MachineConfig, factors: Factors) -> MachineConfig:
    """Return a machine that takes so many times as long for each part. A fraction may then be above 1."""
    changes: dict[str, FigureConfig] = {}
    for part, (divided, multiplied) in FIGURES.items():
        factor = getattr(factors, part)
        for name in (*divided, *multiplied):
            figure: FigureConfig | None = getattr(machine, name)
            if figure is None:
                continue
            value = figure.value / factor if name in divided else figure.value * factor
            changes[name] = FigureConfig(value=value, source=f"calibrated, {part} x {factor:.3g}, from {figure.source}")
    return replace(machine, **changes)


def plan_of(logged: LoggedRun, machine: MachineConfig) -> StepEstimate:
    """Return what a machine's figures say of a run in its own layout, by parts."""
    of_a_node = FigureConfig(value=logged.ranks_per_node, source="the run's own nodes")
    return estimate_step(on_device_of(logged.run, machine), replace(machine, gpus_per_node=of_a_node), logged.num_ranks)


def calibrate(runs: Sequence[LoggedRun], machine: MachineConfig, *, date: str) -> Calibration:
    """Fit the factors of a machine to the steps of runs.

    Raises: UserError if a run was on another kind of device, or had more ranks on a node than the machine has room for, or if no
        factors explain its steps.
    """
    for logged in runs:
        _refuse_another_machine(logged, machine)
    factors = fit(runs, machine)
    after = calibrated(machine, factors)
    found = Calibration(
        machine=machine.description,
        date=date,
        factors=factors,
        runs=[
            CalibratedRun(
                run_dir=one.run_dir, num_ranks=one.num_ranks, steps=one.steps, step_s=one.step_s,
                before_s=plan_of(one, machine).step_s, after_s=plan_of(one, after).step_s,
            )
            for one in runs
        ],
    )  # fmt: skip
    worst = max(found.runs, key=lambda one: abs(math.log(one.after_s / one.step_s)))
    if _misfit(found) or not 1 / MOST_OFF <= worst.after_s / worst.step_s <= MOST_OFF:
        raise UserError(
            f"--calibrate ({worst.run_dir}) took {worst.step_s:.3g} s a step, which no factors of {machine.description} explain: "
            f"{worst.before_s:.3g} s is planned without, {worst.after_s:.3g} s with them; the log of another run works"
        )
    return found


def fit(runs: Sequence[LoggedRun], machine: MachineConfig) -> Factors:
    """Return the factors with which the plans of runs are nearest to what these took, each drawn towards 1."""
    names = [one.name for one in fields(Factors)]
    logs = np.zeros(len(names))

    def misses(at: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        made = calibrated(machine, Factors(**dict(zip(names, np.exp(at).tolist(), strict=True))))
        errors = [math.log(plan_of(one, made).step_s / one.step_s) / ERROR for one in runs]
        return np.array([*errors, *(at / SPREAD)])

    for _ in range(ROUNDS):  # Gauss-Newton
        now = misses(logs)
        slopes = np.stack([(misses(logs + STEP * unit) - now) / STEP for unit in np.eye(len(names))], axis=1)
        change = np.linalg.lstsq(slopes, -now, rcond=None)[0]
        logs = logs + np.clip(change, -1, 1)
        if np.abs(change).max() < 1e-6:
            break
    return Factors(**dict(zip(names, np.exp(logs).tolist(), strict=True)))


def _refuse_another_machine(logged: LoggedRun, machine: MachineConfig) -> None:
    if not machine.device_name or not logged.device_name.startswith(machine.device_name):
        stated = machine.device_name or "not stated"
        raise UserError(
            f"--calibrate ({logged.run_dir}) ran on {logged.device_name}, and the device_name of {machine.description} is "
            f"{stated}: a run calibrates its own machine alone; --gpu with a file whose device_name is the run's works"
        )
    room = int(machine.gpus_per_node.value)
    if logged.ranks_per_node > room:
        raise UserError(
            f"--calibrate ({logged.run_dir}) had {logged.ranks_per_node} ranks on a node, and {machine.description} has room for "
            f"{room} (gpus_per_node): what ranks that share a device take says nothing of it; a run of at most {room} a node works"
        )


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration, whole or not at all."""
    head = "# By what a plan multiplies the times of a machine's parts: fitted to runs by fanal plan --calibrate.\n"
    write_whole(path, head + yaml.safe_dump(asdict(calibration), sort_keys=False, width=130, allow_unicode=True))


def read_calibration(path: Path, machine: MachineConfig) -> Calibration | None:
    """Return the calibration that a file keeps for a machine; None if there is no file.

    Raises: UserError if the file cannot be read, or is of another machine.
    """
    found = _read(path)
    if found is None:
        return None
    if said := _misfit(found):
        raise UserError(
            f"calibration {path}: {said}; fanal plan --calibrate RUN_DIR writes it anew, and --no-calibration plans without it"
        )
    if found.machine != machine.description:
        raise UserError(
            f"calibration {path} is of {found.machine}, and this machine is {machine.description}; --no-calibration plans without "
            "it, and --calibrate RUN_DIR replaces it"
        )
    return found


def machine_in(path: Path) -> str | None:
    """Return the description of the machine that a file's factors are of; None if there is no file. Raises: UserError."""
    found = _read(path)
    return None if found is None else found.machine


def _read(path: Path) -> Calibration | None:
    with user_path(path):
        if not path.exists():
            return None
    tree = read_mapping(path, Calibration, what="calibration", example="machine: NVIDIA H100 SXM, 80 GB")
    return typed([tree], Calibration, where=str(path), variable="${}")


def _misfit(found: Calibration) -> str:
    """Return what a calibration that was read breaks; empty if it may be used."""
    wrong = {name: value for name, value in asdict(found.factors).items() if not 1 / MOST <= value <= MOST}
    if wrong:
        return f"factors must be from {1 / MOST:g} to {MOST:g} ({wrong})"
    if not found.runs:
        return "runs must name those it is from"
    for one in found.runs:
        times = {"step_s": one.step_s, "before_s": one.before_s, "after_s": one.after_s}
        if not all(0 < value < math.inf for value in times.values()):
            return f"times of a run must be above 0 and finite ({one.run_dir}: {times})"
    return ""


def words(calibration: Calibration, path: Path) -> str:
    """Return what a plan says of its calibration."""
    factors = ", ".join(f"{name} x{value:.2f}" for name, value in asdict(calibration.factors).items())
    runs = ", ".join(one.run_dir for one in calibration.runs)
    return (
        f"Calibrated by {path} ({calibration.date}): {factors}; from {runs}, where the worst error was "
        f"{calibration.worst_before:.1%} before and is {calibration.worst_after:.1%} after. --no-calibration leaves it out."
    )


def comparison(calibration: Calibration) -> list[str]:
    """Return a line for each run: what its steps took, and what was planned before and after."""
    rows = [f"{'s a step':>9} {'before':>9} {'error':>7} {'after':>9} {'error':>7}   run"]
    rows += [
        f"{one.step_s:>9.3f} {one.before_s:>9.3f} {one.before_s / one.step_s - 1:>+7.1%} {one.after_s:>9.3f} "
        f"{one.after_s / one.step_s - 1:>+7.1%}   {one.run_dir}: {one.num_ranks} ranks, {one.steps} steps"
        for one in calibration.runs
    ]
    return rows
