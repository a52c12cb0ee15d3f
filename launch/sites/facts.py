"""What a site says for a plan: times of its jobs, power, and the electricity that it runs on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from fanal.errors import UserError
from pretrain.plan.machine import FigureConfig


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Figures of a site for ``fanal plan``, each with its source; null where not known, and then nothing is assumed."""

    start_up_s: FigureConfig | None = None
    """Seconds from a job's start to its first step, preflight aside: Python, process groups, reading the checkpoint."""
    preflight_s: FigureConfig | None = None
    """Seconds of the preflight of a job."""
    node_watts: FigureConfig | None = None
    """Watts of a node under load beside its GPUs."""
    pue: FigureConfig | None = None
    """Power usage effectiveness: energy of the site for one of its computers, at least 1."""
    co2_g_per_kwh: FigureConfig | None = None
    """Grams of CO2 equivalent of a kilowatt hour of its electricity."""


def check_facts(plan: PlanConfig, file_systems: Sequence[Any], where: str) -> None:
    """Refuse figures that are none. Raises: UserError naming the key, the value, the rule and what works."""
    for one in fields(plan):
        least, works = (1.0, 1.2) if one.name == "pue" else (0.0, 100)
        _check(getattr(plan, one.name), f"plan.{one.name}", where, least=least, works=works)
    for disk in file_systems:
        key = f"file system {disk.name}"
        for name, value, works in (("quota_gb", disk.quota_gb, 5000), ("quota_files", disk.quota_files, 500000)):
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{where}: {name} of {key} ({value:g}) must be above 0 and finite; {works} works")
        _check(disk.write_gb_per_s, f"write_gb_per_s of {key}", where, least=math.ulp(0.0), works=10)


def _check(figure: FigureConfig | None, key: str, where: str, *, least: float, works: float) -> None:
    if figure is None:
        return
    if not least <= figure.value < math.inf:
        rule = "above 0" if 0 < least < 1 else f"at least {least:g}"
        raise UserError(f"{where}: value of {key} ({figure.value:g}) must be {rule} and finite; {works:g} works")
    if not figure.source.strip():
        raise UserError(f"{where}: source of {key} must say where the value comes from; 'own measurement' works")
