"""The file of figures that ``fanal launch preflight --write-machine`` measures of this node."""

import datetime
import json
import os
from pathlib import Path
from statistics import median

from fanal.errors import UserError
from fanal.files import writing
from fanal.node_name import node_name
from fanal.target_file import check_target
from launch.chain.blame import PREFLIGHT_RESULT
from launch.preflight.nodes import result_folder
from launch.sites.schema import SiteConfig
from pretrain.plan.machine import load_machine
from pretrain.plan.measured_machine import machine_of, write_machine


def check_machine_file(target: Path, site: SiteConfig, site_name: str) -> None:
    """Refuse a file that could not be written, or a measurement that could not be made here, before anything is checked.

    Raises: UserError naming the option, its value, the rule and what works.
    """
    check_target("--write-machine", target, (".yaml", ".yml"), may_replace=False)
    if site.gpus_per_node and "SLURM_JOB_ID" not in os.environ:
        raise UserError(
            f"--write-machine ({target}) measures a node of {site_name}, and this is not a job there; in a job of it, or in "
            "`salloc`, it works, and with --site local it measures the cores of this machine"
        )


def measure_machine(target: Path, site: SiteConfig, run_dir: Path, *, precision: str) -> str:
    """Measure this node and write its figures; returns what was done, in words.

    Args: precision: train.precision of the run, in which the host's time for a layer is measured; rates are in bf16 and in fp32.
    Raises: PassingError if a rank fails; UserError if the disk does not take the file.
    """
    from pretrain.plan.measure import measure  # imports torch and megatron-core, which take seconds

    measured = measure(
        device="cuda" if site.gpus_per_node else "cpu", precision="bf16" if precision == "bf16" else "fp32"
    )
    base = load_machine(site.machine) if site.gpus_per_node and site.machine else None
    machine = machine_of(
        measured, base, node=node_name(), date=datetime.datetime.now(datetime.UTC).date(),
        exchange_gb_per_s=exchange_of(result_folder(run_dir) / PREFLIGHT_RESULT),
    )  # fmt: skip
    with writing(target):
        write_machine(target, machine)
    return f"machine: {target} has the figures of {measured.ranks} ranks of this node; fanal plan CONFIG --gpu {target} reads it"


def exchange_of(result: Path) -> float | None:
    """Return the median of what nodes exchange with a neighbour, GB/s, as the check of this job found it; None of a single node."""
    if "SLURM_JOB_ID" not in os.environ or not result.is_file():
        return None
    found = [rate for node in json.loads(result.read_text())["nodes"] for rate in node["exchange_gb_per_s"]]
    return median(found) if found else None
