"""A plan for a site or a number of GPUs: what the options mean, and what a site says of its nodes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fanal.errors import UserError, user_path
from launch.planning.scaling_picture import check_picture, draw
from launch.planning.whole_run import WholeRunRequest, site_facts
from launch.sites.schema import SiteConfig
from launch.sites.site import known_sites, load_site
from pretrain.config.load import load_run
from pretrain.plan.estimate import StepEstimate
from pretrain.plan.layout_file import write_layout
from pretrain.plan.machine import FigureConfig, MachineConfig, known_machines, load_machine
from pretrain.plan.plan import plan
from pretrain.plan.scaling import scale_up, words
from pretrain.plan.table import Plan
from pretrain.plan.whole_run import failure_rate, whole_run, with_tokens


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
    asked: WholeRunRequest = WholeRunRequest(),  # noqa: B008, frozen
) -> Plan:
    """Return the plan that the command asks for. Args: as the options of ``fanal plan``. Raises: UserError."""
    run = with_tokens(load_run(config, overrides), asked.tokens)
    failures = failure_rate(asked.failures_per_1000_gpu_hours)  # refused before a search takes its time
    machine, name, num_gpus = _where(gpus, gpu, site_name, nodes)
    facts = site_facts(site_name, run, asked, num_gpus=num_gpus)
    made = plan(config, run, machine, name, num_gpus=num_gpus, top=top, rehearsals=rehearsals)
    estimate = _layout_of(made, own=asked.own)
    return replace(made, whole_run=whole_run(estimate, machine, facts, failures=failures, is_own=asked.own))


def make_scaling(
    config: str,
    overrides: Sequence[str],
    *,
    gpus: int | None,
    gpu: str | None,
    site_name: str | None,
    nodes: int | None,
    target: Path,
) -> str:
    """Return the tables of strong and weak scaling, and draw them. Args: as the options of ``fanal plan``. Raises: UserError."""
    check_picture(target)
    run = load_run(config, overrides)
    machine, _, num_gpus = _where(gpus, gpu, site_name, nodes)
    points = scale_up(run, machine, num_gpus)
    draw(target, points, f"Planned scaling of {config} on {machine.description}")
    return words(points)


def write(target: Path, made: Plan) -> None:
    """Write the fastest layout of a plan. Raises: UserError if there is no such folder, or the target is one."""
    with user_path(target):
        if target.suffix not in (".yaml", ".yml"):
            raise UserError(f"--write ({target}) must name a YAML file; --write {target}.yaml works")
        write_layout(target, made.best[0], made.machine_name)


def _layout_of(made: Plan, *, own: bool) -> StepEstimate:
    if own and made.own is None:
        raise UserError(
            f"--own plans the whole run in the config's own layout, which does not fit {made.best[0].num_gpus:,} GPUs; without "
            "--own the fastest that fits is taken"
        )
    return made.own if own and made.own is not None else made.best[0]


def _where(
    gpus: int | None, gpu: str | None, site_name: str | None, nodes: int | None
) -> tuple[MachineConfig, str, int]:
    """Return the machine, its name and the number of GPUs."""
    if site_name is None:
        return _without_site(gpus, gpu)
    found = _on_site(site_name, nodes, gpu)
    if gpus is not None:
        raise UserError(f"--gpus ({gpus}) must be left out beside --site, whose --nodes say it; --nodes {nodes} works")
    return found


def _without_site(gpus: int | None, gpu: str | None) -> tuple[MachineConfig, str, int]:
    if gpus is None or gpu is None:
        raise UserError(
            f"fanal plan needs --gpus and --gpu, or --site and --nodes; --gpus 8 --gpu h100 works (known: "
            f"{', '.join(known_machines())})"
        )
    return load_machine(gpu), gpu, gpus


def _on_site(site_name: str, nodes: int | None, gpu: str | None) -> tuple[MachineConfig, str, int]:
    """Return the machine of a site, its name and the number of GPUs. Raises: UserError if no QoS of the site allows so many."""
    site = load_site(site_name)
    if nodes is None or nodes < 1:
        raise UserError(f"--nodes ({nodes}) must say how many nodes the run has, at least 1; --nodes 1 works")
    name = gpu or site.machine
    if not site.gpus_per_node or not name:
        with_machine = [one for one in known_sites() if load_site(one).machine]
        raise UserError(
            f"site {site_name} does not say which machine its nodes are (machine, known: {', '.join(known_machines())}); --gpu "
            f"h100 works where they have H100, and so do the sites {', '.join(with_machine)}"
        )
    num_gpus = nodes * site.gpus_per_node
    _check_qos(site, site_name, num_gpus)
    source = f"site {site_name}"
    machine = replace(load_machine(name), gpus_per_node=FigureConfig(value=site.gpus_per_node, source=source))
    if site.gpu_memory_gib:
        machine = replace(machine, memory_gib=FigureConfig(value=site.gpu_memory_gib, source=source))
    return machine, name, num_gpus


def _check_qos(site: SiteConfig, site_name: str, num_gpus: int) -> None:
    """Refuse more GPUs than any QoS for long runs allows a job."""
    chains = [qos for qos in site.qos if qos.chain] or site.qos
    if not chains or any(qos.max_gpus is None or qos.max_gpus >= num_gpus for qos in chains):
        return
    widest = max(chains, key=lambda qos: qos.max_gpus or 0)
    most = (widest.max_gpus or 0) // site.gpus_per_node
    raise UserError(
        f"--nodes ({num_gpus // site.gpus_per_node}) are {num_gpus:,} GPUs, and no qos of {site_name} allows a job more than "
        f"{widest.max_gpus:,} ({widest.name}); --nodes {most} works"
    )
