"""A plan for a site or a number of GPUs: what the options mean, and what a site says of its nodes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fanal.errors import UserError
from fanal.files import writing
from launch.planning.calibration import CalibrationRequest, calibrated_machine, calibration_path
from launch.planning.expected import machine_of_site
from launch.planning.scaling_picture import draw
from launch.planning.target import check_target
from launch.planning.whole_run import WholeRunRequest, site_facts
from launch.sites.hours import takes
from launch.sites.schema import QosConfig, SiteConfig
from launch.sites.site import known_sites, load_site, machine_key
from pretrain.config.load import load_run
from pretrain.plan.estimate import StepEstimate
from pretrain.plan.layout_file import write_layout
from pretrain.plan.machine import MachineConfig, known_machines, load_machine
from pretrain.plan.plan import plan
from pretrain.plan.scaling import scale_up, words
from pretrain.plan.table import Plan
from pretrain.plan.whole_run import failure_rate, whole_run, with_tokens

MOST_GPUS = 1_048_576
"""GPUs that a plan takes; more is a slip of the hand."""


def make_plan(
    config: str,
    overrides: Sequence[str],
    *,
    gpus: int | None,
    gpu: str | None,
    site_name: str | None,
    nodes: int | None,
    top: int,
    rehearsals: int,
    document_tokens: int | None = None,
    asked: WholeRunRequest = WholeRunRequest(),  # noqa: B008, frozen
    calibration: CalibrationRequest = CalibrationRequest(),  # noqa: B008, frozen
) -> Plan:
    """Return the plan that the command asks for. Args: as the options of ``fanal plan``. Raises: UserError."""
    run = with_tokens(load_run(config, overrides), asked.tokens)
    failures = failure_rate(asked.failures_per_1000_gpu_hours)  # refused before a search takes its time
    machine, name, num_gpus = where(gpus, gpu, site_name, nodes)
    path = calibration_path(site=site_name, machine=name)
    machine, said, fitted = calibrated_machine(machine, path, calibration)
    facts = site_facts(site_name, run, asked, num_gpus=num_gpus)
    made = plan(config, run, machine, name, num_gpus=num_gpus, top=top, rehearsals=rehearsals,
                document_tokens=document_tokens)  # fmt: skip
    estimate = _layout_of(made, own=asked.own)
    whole = whole_run(estimate, machine, facts, failures=failures, is_own=asked.own)
    return replace(made, whole_run=whole, calibration=said, fitted=fitted)


def make_scaling(
    config: str,
    overrides: Sequence[str],
    *,
    gpus: int | None,
    gpu: str | None,
    site_name: str | None,
    nodes: int | None,
    target: Path,
    calibration: CalibrationRequest = CalibrationRequest(),  # noqa: B008, frozen
) -> str:
    """Return the tables of strong and weak scaling, and draw them. Args: as the options of ``fanal plan``. Raises: UserError."""
    check_target("--scaling", target, (".svg",), may_replace=True)
    run = load_run(config, overrides)
    machine, name, num_gpus = where(gpus, gpu, site_name, nodes)
    path = calibration_path(site=site_name, machine=name)
    machine, said, fitted = calibrated_machine(machine, path, calibration)
    points = scale_up(run, machine, num_gpus)
    draw(target, points, f"Planned scaling of {config} on {machine.description}")
    return "\n".join([*fitted, words(points), *([said] if said else [])])


def write(target: Path, made: Plan) -> None:
    """Write the fastest layout, to a target that ``check_target`` took. Raises: UserError if the disk does not take it."""
    with writing(target):
        write_layout(target, made.best[0], made.machine_name)


def _layout_of(made: Plan, *, own: bool) -> StepEstimate:
    if own and made.own is None:
        raise UserError(
            f"--own plans the whole run in the config's own layout, which does not fit {made.best[0].num_gpus:,} GPUs; without "
            "--own the fastest that fits is taken"
        )
    return made.own if own and made.own is not None else made.best[0]


def where(
    gpus: int | None, gpu: str | None, site_name: str | None, nodes: int | None
) -> tuple[MachineConfig, str, int]:
    """Return the machine, its name and the number of GPUs."""
    if site_name is None:
        if nodes is not None:
            raise UserError(
                f"--nodes ({nodes}) must stand beside --site; without a site, --gpus {gpus or 8} --gpu h100 works"
            )
        return _without_site(gpus, gpu)
    if gpus is not None:
        raise UserError(
            f"--gpus ({gpus}) must be left out beside --site, whose --nodes say it; --site {site_name} --nodes {nodes or 1} works"
        )
    return _on_site(site_name, nodes, gpu)


def _without_site(gpus: int | None, gpu: str | None) -> tuple[MachineConfig, str, int]:
    if gpus is None or gpu is None:
        raise UserError(
            f"fanal plan needs --gpus and --gpu, or --site and --nodes; --gpus 8 --gpu h100 works (known: "
            f"{', '.join(known_machines())})"
        )
    if gpus > MOST_GPUS:
        raise UserError(f"--gpus ({gpus}) must be at most {MOST_GPUS:,}; --gpus {MOST_GPUS} works")
    return load_machine(gpu), gpu, gpus


def _on_site(site_name: str, nodes: int | None, gpu: str | None) -> tuple[MachineConfig, str, int]:
    """Return the machine of a site, its name and the number of GPUs. Raises: UserError if no QoS of the site allows so many."""
    site = load_site(site_name)
    if nodes is None or nodes < 1:
        said = "is missing and" if nodes is None else f"({nodes})"
        raise UserError(f"--nodes {said} must say how many nodes the run has, at least 1; --nodes 1 works")
    name, key = gpu or site.machine, "--gpu" if gpu else machine_key(site_name)
    on_cores = bool(name) and not site.gpus_per_node and load_machine(name, key=key).device == "cpu"
    if name and not (site.gpus_per_node or on_cores):
        raise UserError(
            f"site {site_name} has no GPUs (gpus_per_node), and {name} is a machine of GPUs; without --site, "
            f"--gpus {min(nodes * 8, MOST_GPUS)} --gpu {name} works"
        )
    if not name:
        with_machine = [one for one in known_sites() if load_site(one).machine]
        raise UserError(
            f"site {site_name} does not say which machine its nodes are (machine, known: {', '.join(known_machines())}); --gpu "
            f"h100 works where they have H100, and so do the sites {', '.join(with_machine)}"
        )
    if on_cores:
        machine = load_machine(name, key=key)
        return machine, name, nodes * int(machine.gpus_per_node.value)
    num_gpus = nodes * site.gpus_per_node
    _check_qos(site, site_name, num_gpus)
    if num_gpus > MOST_GPUS:
        most = MOST_GPUS // site.gpus_per_node
        raise UserError(
            f"--nodes ({nodes}) must be at most {most:,}, which have {MOST_GPUS:,} GPUs; --nodes {most} works"
        )
    return machine_of_site(site, site_name, name, key=key), name, num_gpus


def _check_qos(site: SiteConfig, site_name: str, num_gpus: int) -> None:
    """Refuse so many GPUs as no QoS for long runs takes."""
    chains = [qos for qos in site.qos if qos.chain] or site.qos
    if not chains or any(takes(qos, num_gpus) for qos in chains):
        return
    per_node = site.gpus_per_node
    fewer = [qos.max_gpus // per_node for qos in chains if qos.max_gpus is not None and qos.max_gpus < num_gpus]
    more = [math.ceil(qos.min_gpus / per_node) for qos in chains if qos.min_gpus > num_gpus]
    works = sorted(fewer)[-1:] + sorted(more)[:1]
    raise UserError(
        f"--nodes ({num_gpus // per_node}) are {num_gpus:,} GPUs, and no qos of {site_name} for long runs takes a job of so many ("
        + ", ".join(f"{qos.name}: {_range(qos)}" for qos in chains)
        + f"); --nodes {' and --nodes '.join(map(str, works))} work{'s' * (len(works) == 1)}"
    )


def _range(qos: QosConfig) -> str:
    """How many GPUs a QoS takes, in words."""
    least = f"from {qos.min_gpus:,} " if qos.min_gpus else ""
    return f"{least}{f'up to {qos.max_gpus:,}' if qos.max_gpus is not None else 'any more'}".strip()
