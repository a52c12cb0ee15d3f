"""What a site says of a whole run: how long its jobs are, which disks a run may lie on, its power."""

from dataclasses import dataclass
from pathlib import Path

from fanal.errors import UserError
from launch.planning.place import Nodes
from launch.sites.hours import check_slice_hours, takes
from launch.sites.reach import file_systems_of
from launch.sites.schema import QosConfig, SiteConfig
from pretrain.config.schema import RunConfig
from pretrain.plan.energy import EnergyFacts
from pretrain.plan.whole_run import Disk, SiteFacts


@dataclass(frozen=True, kw_only=True)
class WholeRunRequest:
    """The options of ``fanal plan`` that speak of the whole run."""

    tokens: int | None = None
    slice_hours: float | None = None
    qos: str | None = None
    """The QoS whose slots the jobs have; None: the first for chains that is wide enough."""
    failures_per_1000_gpu_hours: float | None = None
    own: bool = False
    """Whether the layout is the config's own."""


def site_facts(nodes: Nodes, run: RunConfig, asked: WholeRunRequest) -> SiteFacts | None:
    """Return what a plan takes of a site; None without one. Raises: UserError if it allows no such job."""
    site, site_name = nodes.site, nodes.site_name
    if site is None or site_name is None:
        if asked.slice_hours is not None:
            raise UserError(
                f"--slice-hours ({asked.slice_hours:g}) must stand beside --site, which says what a job's start and end take; "
                "--site jean-zay-h100 --nodes 2 in place of --gpus and --gpu works"
            )
        if asked.qos is not None:
            raise UserError(
                f"--qos ({asked.qos}) must stand beside --site, which says what a QoS allows; --site jean-zay-h100 --nodes 2 --qos "
                "qos_gpu_h100-t3 in place of --gpus and --gpu works"
            )
        if asked.failures_per_1000_gpu_hours is not None:
            raise UserError(
                f"--failures-per-1000-gpu-hours ({asked.failures_per_1000_gpu_hours:g}) must stand beside --site, which says how "
                "long the jobs are that fail; --site jean-zay-h100 --nodes 2 in place of --gpus and --gpu works"
            )
        return None
    hours, longest, said_by = _slot(site, site_name, asked, nodes.num_gpus)
    if hours is None and asked.failures_per_1000_gpu_hours is not None:
        raise UserError(
            f"--failures-per-1000-gpu-hours ({asked.failures_per_1000_gpu_hours:g}) must stand beside --slice-hours, since no qos "
            f"of {site_name} says how long the jobs are that fail; --slice-hours 20 works"
        )
    plan = site.plan
    return SiteFacts(
        name=site_name, gpus_per_node=int(nodes.machine.gpus_per_node.value), slot_h=hours, longest_h=longest, slot_name=said_by,
        stop_margin_s=site.stop_margin_s, start_up_s=plan.start_up_s, preflight_s=plan.preflight_s, disks=_disks(site, run),
        energy=EnergyFacts(node_watts=plan.node_watts, pue=plan.pue, co2_g_per_kwh=plan.co2_g_per_kwh),
    )  # fmt: skip


def _slot(
    site: SiteConfig, site_name: str, request: WholeRunRequest, num_gpus: int
) -> tuple[float | None, float | None, str]:
    """Return (hours of a job, the most that the site allows, what says so): of the first QoS for chains that is wide enough."""
    asked = request.slice_hours
    check_slice_hours(asked, works=20)
    wide = [qos for qos in site.qos if qos.chain and takes(qos, num_gpus)]
    if request.qos is not None:
        named = [qos for qos in wide if qos.name == request.qos]
        if not named:
            can = f"--qos {wide[0].name} works" if wide else "leave it out and say --slice-hours"
            raise UserError(
                f"--qos ({request.qos}) must be a QoS of {site_name} for chains of jobs of {num_gpus:,} GPUs (there are: "
                f"{', '.join(qos.name for qos in wide) or 'none'}); {can}"
            )
        wide = named
    if not wide:
        return asked, None, "--slice-hours"
    if asked is None:
        of_launch = (
            "" if wide[0] is site.qos[0] or request.qos else f", for which fanal launch needs --qos {wide[0].name}"
        )
        return wide[0].max_hours, wide[0].max_hours, f"max_hours of qos {wide[0].name}{of_launch}"
    widest: QosConfig = max(wide, key=lambda qos: qos.max_hours)
    if asked > widest.max_hours:
        raise UserError(
            f"--slice-hours ({asked:g}) must not be above the {widest.max_hours:g} h that qos {widest.name} of {site_name} allows "
            f"a job of {num_gpus:,} GPUs; --slice-hours {widest.max_hours:g} works"
        )
    return asked, widest.max_hours, "--slice-hours"


def _disks(site: SiteConfig, run: RunConfig) -> tuple[Disk, ...]:
    """Return the file systems that all nodes share."""
    lies_on = {file_system.name for _, file_system in file_systems_of(Path.cwd() / run.run_dir, site)[-1:]}
    return tuple(
        Disk(
            name=one.name,
            quota_bytes=None if one.quota_gb is None else int(one.quota_gb * 1e9),
            quota_files=one.quota_files,
            write_gb_per_s=one.write_gb_per_s,
            holds_run=one.name in lies_on,
        )
        for one in site.file_systems
        if one.shared and one.on_compute_nodes
    )
