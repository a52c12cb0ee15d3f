"""The job that this process belongs to, with what its launch folder says."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import error_type
from fanal.run_folder import JOB
from launch import slurm
from launch.chain.inside import restarts_inside
from launch.chain.script import SITE
from launch.chain.spare import num_training_nodes
from launch.sites.schema import SiteConfig
from launch.sites.site import read_site


@dataclass(frozen=True)
class Here:
    """The job this process belongs to, with what its launch folder says."""

    folder: Path
    facts: dict[str, Any]
    site: SiteConfig
    job: str
    restart: int
    inside: int | None
    """Restarts inside the allocation so far; None if the script of this job makes none."""

    @property
    def run_dir(self) -> Path:
        return Path(self.facts["run_dir"])

    @property
    def partition(self) -> str:
        """The partition of the job, or the site's where Slurm does not say."""
        return os.environ.get("SLURM_JOB_PARTITION") or self.site.partition

    def num_ranks(self, nodes: int | None = None) -> int:
        """Return the number of ranks of this start, or of one on so many nodes. The job's variables count before
        job.json: a render may have changed the file."""
        if nodes is None:
            nodes = num_training_nodes() if "SLURM_JOB_NUM_NODES" in os.environ else int(self.facts["nodes"])
        return nodes * int(os.environ.get("FANAL_RANKS_PER_NODE") or self.facts["ranks_per_node"])


def here(folder: Path) -> Here:
    """Read the launch folder of the running job.

    Raises: UserError if it is not one, or outside a job.
    """
    try:
        facts = json.loads((folder / JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise error_type(error)(
            f"{folder} must be the launch folder of a run, with {JOB} ({error}); `fanal launch render` makes it"
        ) from None
    job, restart = slurm.this_job()
    return Here(folder, facts, read_site(folder / SITE), job, restart, restarts_inside())


def attempt_dir(folder: Path, job: str, restart: int, inside: int | None = None) -> Path:
    """Return the folder of one try of a job, which its script knows too: environment, exit codes, logs, preflight of its nodes."""
    return folder / (f"{job}-{restart}.{inside}" if inside else f"{job}-{restart}")
