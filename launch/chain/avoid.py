"""Avoidance of nodes that broke a run before: whether others could take their place, and how jobs are kept off them."""

import json
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from launch import slurm
from launch.sites.schema import SiteConfig

PREFLIGHT_RESULT = "preflight.json"
"""File in the folder of an attempt that holds what preflight found."""


def other_nodes(site: SiteConfig, job: str, noted: Collection[str]) -> set[str]:
    """Return the nodes that this job could run on, now or later, without the noted ones and those that a user keeps it off.

    Raises: SlurmError if Slurm does not answer.
    """
    partition = os.environ.get("SLURM_JOB_PARTITION") or site.partition
    return slurm.usable_nodes(partition, site.constraint) - set(noted) - slurm.excluded_nodes(job)


def keep_off(site: SiteConfig, noted: Sequence[str], jobs: Sequence[str], *, needed: int) -> None:
    """Keep waiting jobs of a chain off nodes, each as long as that leaves it as many as it needs."""
    for job in jobs:
        try:
            if len(other_nodes(site, job, noted)) >= needed:
                slurm.exclude(job, noted)
        except slurm.SlurmError as error:
            print(f"warning: job {job} may use {', '.join(noted)} again: {error}", file=sys.stderr, flush=True)


def broken_nodes(attempt: Path) -> tuple[str, ...]:
    """Return the nodes that a preflight in this attempt found broken; none if there was no preflight."""
    try:
        content: dict[str, Any] = json.loads((attempt / PREFLIGHT_RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return tuple(content.get("broken", ()))
