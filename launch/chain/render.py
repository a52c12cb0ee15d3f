"""Rendering of a job's folder, and queueing of its slices."""

import json
import os
import shlex
import sys
from pathlib import Path

from fanal.errors import FanalError, UserError
from fanal.files import sha256_of_file, write_whole
from fanal.ownership import keep_names, make_requests_dir, open_parents
from fanal.run_folder import JOB, cannot_write
from launch import slurm
from launch.chain import avoid, jobs_file
from launch.chain.evaluation_script import evaluation_script
from launch.chain.evaluation_watch import FACTS
from launch.chain.evaluations import EVALUATE_SCRIPT, Evaluations
from launch.chain.launch_folder import hold_launch_folder
from launch.chain.node_list import NODES_FILE
from launch.chain.packed import pack_environment
from launch.chain.request import Job
from launch.chain.script import CONFIG, NODE_SCRIPT, PACKED, SCRIPT, SITE, files_of, script
from launch.chain.until import Until, write_until
from launch.sites.site import site_text
from pretrain.config.load import to_yaml


def render_alone(job: Job) -> Path:
    """``render``, while no other command does. Raises: as ``render``, and UserError if one does."""
    prepare_run_dir(job.run_dir)
    with hold_launch_folder(job.folder):
        return render(job)


def render_and_submit(job: Job, *, hours: float, until: Until) -> list[str]:
    """Render the job and queue every slice of its chain, unless it has jobs in the queue. Returns the numbers of the jobs.

    Raises: UserError, before any file is written, if it has; or if another command is just about to queue some.
    """
    check_not_queued(job)
    prepare_run_dir(job.run_dir)
    with hold_launch_folder(job.folder):
        check_not_queued(job)  # once more: another command may have been faster
        path = render(job)
        keep_until(job, until)
        return submit(job, path, hours=hours)


def prepare_run_dir(run_dir: Path) -> None:
    """Make the run folder and its folder of requests. Where others may write into it, they can no longer rename what is not theirs.

    Raises: UserError if the folder is another user's, or cannot be made.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if keep_names(run_dir, name="run_dir"):
            print(
                f"{run_dir} got the sticky bit (chmod +t): others may write there, and no longer rename what is yours",
                file=sys.stderr,
            )
        make_requests_dir(run_dir)
        for why in open_parents(run_dir):
            print(
                f"warning: {why}; who may rename {run_dir} may put another in its place while a job starts, and run code as you",
                file=sys.stderr,
            )
    except OSError as error:
        raise cannot_write(run_dir, f"{error.strerror} ({error.filename})", error) from None


def render(job: Job) -> Path:
    """Write the script and the files it needs into the run's launch folder; returns the script.

    Nothing that runs is changed: a job that has started has its own copy of the script, and reads the config once. Jobs that wait
    were submitted with other files if these differ: they will say so, and not run.
    Raises: UserError if the folder cannot be written, or a name would begin a line of the script.
    """
    script(job, {})  # refuses a name before anything is written
    try:
        write_whole(job.folder / CONFIG, to_yaml(job.run))
        write_whole(job.folder / SITE, site_text(job.site))
        write_whole(job.folder / JOB, json.dumps(job_facts(job), indent=2) + "\n")
        write_whole(job.folder / NODE_SCRIPT, (Path(__file__).parent / NODE_SCRIPT).read_text(encoding="utf-8"))
        if job.evaluations is not None:
            write_whole(job.folder / EVALUATE_SCRIPT, evaluation_script(job, job.evaluations))
        if job.node_local:
            pack_environment(job.places.python, job.places.code_dir, job.folder / PACKED)
        # The archive takes as long to hash as to read: 1.7 GB at 0.5 to 1.6 GB/s, here and at each start.
        write_whole(
            job.folder / SCRIPT, script(job, {name: sha256_of_file(job.folder / name) for name in files_of(job)})
        )
    except OSError as error:
        raise cannot_write(job.run_dir, f"{error.strerror} ({error.filename})", error) from None
    return job.folder / SCRIPT


def keep_until(job: Job, until: Until) -> None:
    """Write the conditions that end the chain; a submission without any takes those of the one before away.

    Raises: UserError if the folder cannot be written.
    """
    try:
        write_until(job.folder, until)
    except OSError as error:
        raise cannot_write(job.run_dir, f"{error.strerror} ({error.filename})", error) from None


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


def jobs_in_queue(job: Job) -> list[str]:
    """Return the numbers of the queued jobs, which start only what they were submitted with; none without a Slurm to ask."""
    try:
        return slurm.queued_jobs(job.name)
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
            job.folder, "submitted", jobs=queued, slices=job.slices, nodes=job.nodes, spare_nodes=job.spare_nodes,
            hours=hours, account=job.account, qos=job.qos, site=job.site_name, config_sha256=sha256_of_file(job.folder / CONFIG),
            script_sha256=sha256_of_file(path),
        )  # fmt: skip
        _keep_off_bad_nodes(job)
        slurm.ask("scontrol", "release", ",".join(queued))
    return queued


def _keep_off_bad_nodes(job: Job) -> None:
    """Keep the jobs that wait off the nodes on the list. They run all the same where that fails, and look again when they start."""
    try:
        avoid.note_changes(job.folder, avoid.apply_list(avoid.list_of_chain(job_facts(job))))
    except FanalError as error:
        print(f"warning: the jobs are not kept off bad nodes: {error}", file=sys.stderr)


def job_facts(job: Job) -> dict[str, object]:
    """Return the content of job.json."""
    return {
        "name": job.name,
        "run_dir": str(job.run_dir),
        "site": job.site_name,
        "nodes": job.nodes,
        "spare_nodes": job.spare_nodes,
        "ranks_per_node": job.ranks_per_node,
        "gpus_per_node": job.gpus_per_node,
        "minutes": job.minutes,
        "slices": job.slices,
        "stop_margin_s": job.stop_margin_s,
        "code_dir": str(job.places.code_dir),
        **({FACTS: _evaluation_facts(job, job.evaluations)} if job.evaluations is not None else {}),
        "nodes_file": str(Path(os.environ[NODES_FILE]).absolute()) if os.environ.get(NODES_FILE) else "",
    }


def _evaluation_facts(job: Job, wanted: Evaluations) -> dict[str, int]:
    """Return what the watch over checkpoints goes by."""
    assert job.run.checkpoint.interval is not None, "checked_evaluations refuses a run without"
    return {"steps": wanted.every * job.run.checkpoint.interval, "train_steps": job.run.train.train_steps}
