"""Where a run is planned to be: the options that say it, and the nodes that they name."""

import math
from dataclasses import dataclass, replace

from fanal.errors import UserError
from launch.sites.hours import takes
from launch.sites.schema import QosConfig, SiteConfig
from launch.sites.site import known_sites, load_site, machine_key
from pretrain.plan.machine import FigureConfig, MachineConfig, known_machines, load_machine

MOST_GPUS = 1_048_576
"""GPUs that a plan takes; more is a slip of the hand."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The options of ``fanal plan`` that say where a run is: a number of GPUs of a kind, or nodes of a site."""

    gpus: int | None = None
    gpu: str | None = None
    """Name or file of a machine; beside a site, in place of the site's own."""
    site_name: str | None = None
    nodes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """What they name."""

    machine: MachineConfig
    """With the GPUs of a node and their memory as the site has them, if there is one."""
    machine_name: str
    num_gpus: int
    site_name: str | None = None
    site: SiteConfig | None = None

    @property
    def own_machine(self) -> str:
        """The machine that the site names; empty if it names none, or there is no site."""
        return "" if self.site is None else self.site.machine

    @property
    def is_own_machine(self) -> bool:
        """Whether no other machine stands in place of the site's."""
        return self.site is None or self.machine_name == self.site.machine


def where(place: Place) -> Nodes:
    """Return what the options name. Raises: UserError if they name nothing, or what no QoS of the site allows."""
    if place.site_name is None:
        if place.nodes is not None:
            raise UserError(
                f"--nodes ({place.nodes}) must stand beside --site; without a site, --gpus {place.gpus or 8} --gpu h100 works"
            )
        return _without_site(place.gpus, place.gpu)
    if place.gpus is not None:
        raise UserError(
            f"--gpus ({place.gpus}) must be left out beside --site, whose --nodes say it; --site {place.site_name} "
            f"--nodes {place.nodes or 1} works"
        )
    return _on_site(place.site_name, place.nodes, place.gpu)


def _without_site(gpus: int | None, gpu: str | None) -> Nodes:
    if gpus is None or gpu is None:
        raise UserError(
            f"fanal plan needs --gpus and --gpu, or --site and --nodes; --gpus 8 --gpu h100 works (known: "
            f"{', '.join(known_machines())})"
        )
    if gpus > MOST_GPUS:
        raise UserError(f"--gpus ({gpus}) must be at most {MOST_GPUS:,}; --gpus {MOST_GPUS} works")
    return Nodes(machine=load_machine(gpu), machine_name=gpu, num_gpus=gpus)


def _on_site(site_name: str, nodes: int | None, gpu: str | None) -> Nodes:
    site = load_site(site_name)
    if nodes is None or nodes < 1:
        said = "is missing and" if nodes is None else f"({nodes})"
        raise UserError(f"--nodes {said} must say how many nodes the run has, at least 1; --nodes 1 works")
    name, key = (site.machine, machine_key(site_name)) if gpu is None else (gpu, "--gpu")
    if gpu == "":
        load_machine(gpu)  # refuses it
    on_cores = bool(name) and not site.gpus_per_node and load_machine(name, key=key).device == "cpu"
    if name and not (site.gpus_per_node or on_cores):
        raise UserError(
            f"site {site_name} has no GPUs (gpus_per_node), and {name} is a machine of GPUs; without --site, "
            f"--gpus {min(nodes * 8, MOST_GPUS)} --gpu {name} works"
        )
    if not name and not site.gpus_per_node:
        raise UserError(
            f"site {site_name} has no GPUs, and does not say which machine its cores are (machine); --gpu cores.yaml works, with "
            f"the file that fanal launch preflight CONFIG --site {site_name} --write-machine cores.yaml writes"
        )
    if not name:
        with_machine = [one for one in known_sites() if load_site(one).machine]
        raise UserError(
            f"site {site_name} does not say which machine its nodes are (machine, known: {', '.join(known_machines())}); --gpu "
            f"h100 works where they have H100, and so do the sites {', '.join(with_machine)}"
        )
    if on_cores:
        machine = load_machine(name, key=key)
        num_gpus = nodes * int(machine.gpus_per_node.value)
        _check_number(nodes, num_gpus)
        return Nodes(machine=machine, machine_name=name, num_gpus=num_gpus, site_name=site_name, site=site)
    num_gpus = nodes * site.gpus_per_node
    _check_qos(site, site_name, num_gpus)
    _check_number(nodes, num_gpus)
    machine = machine_of_site(site, site_name, name, key=key)
    return Nodes(machine=machine, machine_name=name, num_gpus=num_gpus, site_name=site_name, site=site)


def _check_number(nodes: int, num_gpus: int) -> None:
    if num_gpus > MOST_GPUS:
        most = MOST_GPUS // (num_gpus // nodes)
        raise UserError(
            f"--nodes ({nodes}) must be at most {most:,}, which have {MOST_GPUS:,} GPUs; --nodes {most} works"
        )


def machine_of_site(site: SiteConfig, site_name: str, machine: str, *, key: str = "machine") -> MachineConfig:
    """Return a machine with the GPUs of a node and their memory as a site has them.

    Raises: UserError, which names ``key``, if it cannot be read.
    """
    found, source = load_machine(machine, key=key), f"site {site_name}"
    if site.gpus_per_node:
        found = replace(found, gpus_per_node=FigureConfig(value=site.gpus_per_node, source=source))
    if site.gpu_memory_gib:
        found = replace(found, memory_gib=FigureConfig(value=site.gpu_memory_gib, source=source))
    return found


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
