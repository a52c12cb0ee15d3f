"""Rendering of a job's folder, and queueing of its slices."""

import hashlib
import json
import shlex
from pathlib import Path

from omegaconf import OmegaConf

from fanal.errors import UserError
from fanal.files import write_whole
from fanal.run_folder import JOB as JOB
from fanal.run_folder import cannot_write
from launch import slurm
from launch.chain import jobs_file
from launch.chain.packed import pack_environment
from launch.chain.request import Job
from launch.chain.script import CONFIG, NODE_SCRIPT, PACKED, SCRIPT, SITE, script
from pretrain.config.load import to_yaml


def render(job: Job) -> Path:
    """Write the script and the files it needs into the run's launch folder; returns the script.

    Nothing that runs is changed: a job that has started has its own copy of the script, and reads the config once.
    Raises: UserError if the folder cannot be written, or a name would begin a line of the script.
    """
    text = script(job)  # or nothing is written at all
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        write_whole(job.folder / CONFIG, to_yaml(job.run))
        write_whole(job.folder / SITE, OmegaConf.to_yaml(OmegaConf.structured(job.site)))
        write_whole(job.folder / JOB, json.dumps(job_facts(job), indent=2) + "\n")
        write_whole(job.folder / NODE_SCRIPT, (Path(__file__).parent / NODE_SCRIPT).read_text(encoding="utf-8"))
        if job.node_local:
            pack_environment(job.places.python, job.places.code_dir, job.folder / PACKED)
        write_whole(job.folder / SCRIPT, text)
    except OSError as error:
        raise cannot_write(job.run_dir, f"{error.strerror} ({error.filename})", error) from None
    return job.folder / SCRIPT


def check_not_queued(job: Job) -> None:
    """Refuse a run that has jobs in the queue.

    Raises: UserError naming them.
    """
    there = slurm.queued_jobs(job.name)
    if there:
        raise UserError(
            f"run_dir ({job.run_dir}) has jobs in the queue ({', '.join(there)}); `scancel {' '.join(there)}` ends them, and "
            f"`sbatch {shlex.quote(str(job.folder / SCRIPT))}` adds one to the chain"
        )


def jobs_that_will_read_it(job: Job) -> list[str]:
    """Return the numbers of the queued jobs that read what was rendered when they start; none where there is no Slurm
    to ask."""
    try:
        return slurm.waiting_jobs(job.name)
    except slurm.SlurmError:
        return []


def submit(job: Job, path: Path, *, hours: float) -> list[str]:
    """Queue every slice of a rendered job, and note it in jobs.jsonl. Returns the numbers of the jobs.

    Raises: UserError if Slurm refuses, or nothing can be noted; slices that were queued are cancelled.
    """
    with slurm.taken_back_on_error() as queued:
        # Held until all are there and noted: a job that starts reads jobs.jsonl.
        queued.extend(slurm.submit(path, "--hold") for _ in range(job.slices))
        jobs_file.must_note(
            job.run_dir, "submitted", jobs=queued, slices=job.slices, nodes=job.nodes, hours=hours, account=job.account,
            qos=job.qos, site=job.site_name, config_sha256=_sha256(job.folder / CONFIG), script_sha256=_sha256(path),
        )  # fmt: skip
        slurm.ask("scontrol", "release", ",".join(queued))
    return queued


def job_facts(job: Job) -> dict[str, object]:
    """Return the content of job.json."""
    return {
        "name": job.name,
        "run_dir": str(job.run_dir),
        "site": job.site_name,
        "nodes": job.nodes,
        "ranks_per_node": job.ranks_per_node,
        "gpus_per_node": job.gpus_per_node,
        "minutes": job.minutes,
        "slices": job.slices,
        "stop_margin_s": job.stop_margin_s,
        "code_dir": str(job.places.code_dir),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
