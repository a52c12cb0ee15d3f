"""Text of the script of an evaluation, and the lines by which the script of a chain's job has evaluations queued."""

import math

from launch.chain.evaluations import EVALUATE_SCRIPT, Evaluations
from launch.chain.request import Job
from launch.chain.script import log_path, quoted, sbatch, script_text, setting, walltime
from launch.sites.hours import queue_of

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def evaluation_name(name: str) -> str:
    """Return the name of a chain's evaluations in the queue: another one, so that the chain does not wait for them."""
    return f"{name}-evaluate"


def evaluation_script(job: Job, wanted: Evaluations) -> str:
    """Return the script of an evaluation; its first word is the step. Raises: UserError as ``script_text``."""
    partition, qos = queue_of(job.site.qos, wanted.qos or job.qos, job.site.partition)
    partition = wanted.partition or partition
    cores = job.site.cores_per_node // job.site.gpus_per_node if job.site.gpus_per_node else 1
    lines = [
        "#!/bin/bash",
        f"# Evaluates a checkpoint of {job.run_dir.name}. The chain's jobs queue it: sbatch {EVALUATE_SCRIPT} STEP",
        "# What is evaluated and recorded already is not evaluated again. A line of evaluations.jsonl beside this file says what",
        "# became of it.",
        sbatch(f"--job-name={evaluation_name(job.name)}", "not the chain's: neither waits for the other"),
        sbatch("--dependency=singleton", "one evaluation of a run at a time"),
        *([sbatch(f"--account={job.account}")] if job.account else []),
        *([sbatch(f"--partition={partition}")] if partition else []),
        *([sbatch(f"--constraint={job.site.constraint}")] if job.site.constraint else []),
        *([sbatch(f"--qos={qos}")] if qos else []),
        sbatch("--nodes=1"),
        sbatch("--ntasks=1"),
        *([sbatch("--gres=gpu:1")] if job.site.gpus_per_node else []),
        sbatch(f"--cpus-per-task={cores}"),
        *([sbatch(f"--hint={job.site.hint}")] if job.site.hint else []),
        *([sbatch("--exclude=" + ",".join(job.exclude))] if job.exclude else []),
        sbatch(f"--time={walltime(max(1, math.ceil(wanted.hours * 60)))}"),
        sbatch("--requeue", "a lost node puts it back in the queue"),
        sbatch(f"--output={log_path(job.folder, 'evaluate-%j.out')}"),
        "",
        "step=${1:?the step of the checkpoint}",
        f"launch_dir={quoted(job.folder)}",
        *setting(job.places, job.site, job.modules),
        f"export OMP_NUM_THREADS={cores}",
        *(f'export {name}="${{{name}:-1}}"  # nodes that compute have no network at most sites' for name in OFFLINE),
        f"cd {quoted(job.places.workdir)} || exit 70",
        "trap : TERM  # this script must live to note what became of the evaluation",
        "code=0",
    ]
    for words in commands(job, wanted):
        lines.append(f"{' '.join(words)} || code=$?")
    lines += [
        '"$PYTHON" -m launch evaluations end "$launch_dir" "$step" "$code"',
        'exit "$code"',
    ]
    return script_text(lines)


def commands(job: Job, wanted: Evaluations) -> list[list[str]]:
    """Return the words of each command of an evaluation, as a shell takes them."""
    python = '"$PYTHON"' if wanted.python is None else quoted(wanted.python)
    begin = [python, "-m", "fanal", "evaluate", quoted(job.run_dir), "--step", '"$step"']
    limit = [] if wanted.limit is None else ["--limit", str(wanted.limit)]
    found = []
    if wanted.by is not None:
        found.append([*begin, "--perplexity", "--by", wanted.by, *limit])
    if wanted.tasks is not None:
        options = {"--include-path": wanted.include_path, "--fewshot": wanted.fewshot, "--packed": wanted.packed}
        given = [word for name, value in options.items() if value is not None for word in (name, quoted(value))]
        found.append([*begin, "--tasks", quoted(wanted.tasks), *given, *limit])
    return found
