"""Write a job's folder, and queue its slices."""

import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from launch import jobs_file, slurm
from launch.packed import pack_environment
from launch.request import Job
from launch.script import CONFIG, NODE_SCRIPT, PACKED, SCRIPT, SITE, script
from pretrain.config.load import to_yaml

JOB = "job.json"
"""What the jobs themselves must know and cannot read in the config or the site."""


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A chain in the queue."""

    jobs: tuple[str, ...]
    script: Path


def render(job: Job) -> Path:
    """Write the script and what belongs to it into the run's launch folder; returns the script.

    Nothing that runs is changed: a job that has started has its own copy of the script, and reads the config once.
    Raises: ValueError if the folder cannot be written.
    """
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        _write(job.folder / CONFIG, to_yaml(job.run))
        _write(job.folder / SITE, OmegaConf.to_yaml(OmegaConf.structured(job.site)))
        _write(job.folder / JOB, json.dumps(job_facts(job), indent=2) + "\n")
        _write(job.folder / NODE_SCRIPT, (Path(__file__).parent / NODE_SCRIPT).read_text(encoding="utf-8"))
        if job.node_local:
            pack_environment(job.places.python, job.places.code_dir, job.folder / PACKED)
        _write(job.folder / SCRIPT, script(job))
    except OSError as error:
        raise ValueError(
            f"run_dir ({job.run_dir}) must be a folder that can be made and written to: {error.strerror} ({error.filename}); "
            f"run_dir=runs/{job.run_dir.name or 'mine'} works where the current folder is writable"
        ) from None
    return job.folder / SCRIPT


def check_not_queued(job: Job) -> None:
    """Refuse a run that has jobs in the queue.

    Raises: ValueError naming them.
    """
    there = slurm.ask("squeue", "--noheader", "--me", f"--name={job.name}", "--format=%A").split()
    if there:
        raise ValueError(
            f"run_dir ({job.run_dir}) has jobs in the queue ({', '.join(there)}); `scancel {' '.join(there)}` ends them, and "
            f"`sbatch {shlex.quote(str(job.folder / SCRIPT))}` adds one to the chain"
        )


def submit(job: Job, path: Path, *, hours: float) -> Submitted:
    """Queue every slice of a rendered job, and note it in jobs.jsonl.

    Raises: ValueError if Slurm refuses; slices that were queued are taken back.
    """
    queued: list[str] = []
    try:
        # Held until all are there and noted: a job that starts reads jobs.jsonl.
        queued.extend(slurm.submit(path, "--hold") for _ in range(job.slices))
        jobs_file.note(
            job.run_dir, "submitted", jobs=queued, slices=job.slices, nodes=job.nodes, hours=hours, account=job.account,
            qos=job.qos, site=job.site_name, config_sha256=_sha256(job.folder / CONFIG), script_sha256=_sha256(path),
        )  # fmt: skip
        slurm.ask("scontrol", "release", ",".join(queued))
    except BaseException:
        slurm.cancel(queued)
        raise
    return Submitted(jobs=tuple(queued), script=path)


def job_facts(job: Job) -> dict[str, object]:
    """The content of job.json."""
    return {
        "name": job.name,
        "run_dir": str(job.run_dir),
        "site": job.site_name,
        "nodes": job.nodes,
        "ranks_per_node": job.ranks_per_node,
        "gpus_per_node": job.gpus_per_node,
        "minutes": job.minutes,
        "slices": job.slices,
        "code_dir": str(job.places.code_dir),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a job may read it at this moment."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
