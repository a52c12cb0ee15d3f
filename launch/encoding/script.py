"""Text of the two scripts of an encoding: an array whose tasks each encode a part, and the merge after it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launch.chain.request import Places
from launch.chain.script import EXIT_CODES, log_path, quoted, sbatch, script_text, setting, walltime
from launch.chain.unchanged import is_unchanged, refuses
from launch.sites.hours import queue_of
from launch.sites.schema import SiteConfig

ENCODE_SCRIPT, MERGE_SCRIPT, LOGS = "encode.sbatch", "merge.sbatch", "logs"
"""Names in PREFIX.launch/: the scripts, and the folder of what each task prints."""
MERGE_CORES = 4
"""Cores of the merge. It runs on one, and holds some 20 bytes for each document: memory follows the cores."""


@dataclass(frozen=True, kw_only=True)
class EncodeJobs:
    """Everything that the scripts say."""

    site: SiteConfig
    site_name: str
    places: Places
    prefix: Path
    """Prefix of the merged shard, absolute."""
    tokenizer: str
    inputs: tuple[str, ...]
    options: tuple[str, ...]
    """Options of ``fanal tokenizer encode``, beside those that every task has."""
    parts: int
    at_once: int | None
    workers: int
    minutes: int
    """Walltime of one task, in minutes."""
    merge_minutes: int
    retries: int
    modules: tuple[str, ...]
    account: str
    qos: str
    name: str
    """Job name, the same for every job of this output and for no other's."""

    @property
    def folder(self) -> Path:
        """Folder of the scripts."""
        return self.prefix.with_name(self.prefix.name + ".launch")

    @property
    def parts_dir(self) -> Path:
        """Folder of the parts, each under its number."""
        return self.prefix.with_name(self.prefix.name + ".parts")

    @property
    def encode_name(self) -> str:
        return f"{self.name}-encode"

    @property
    def merge_name(self) -> str:
        return f"{self.name}-merge"


def encode_script(jobs: EncodeJobs) -> str:
    """Return the script of the array. It reads no other file of the launch folder. Raises: UserError as ``script_text``."""
    limit = f"%{jobs.at_once}" if jobs.at_once else ""
    lines = [
        "#!/bin/bash",
        f"# {jobs.prefix.name}: text to tokens in {jobs.parts} part(s), one task each, {jobs.workers} worker(s) a task.",
        f"# Site: {jobs.site_name}, {jobs.site.description}.",
        "#",
        "# A task whose part exists already ends at once, so `sbatch` of this file does what is missing. merge.sbatch joins the",
        "# parts, and queues again those that failed through no fault of the input.",
        sbatch(f"--job-name={jobs.encode_name}"),
        sbatch(f"--array=1-{jobs.parts}{limit}", f"at most {jobs.at_once} at a time" if jobs.at_once else ""),
        *_where(jobs, partition="", with_qos=True),
        sbatch("--nodes=1"),
        sbatch("--ntasks=1"),
        sbatch(f"--cpus-per-task={jobs.workers}", "one for each worker; memory follows the cores"),
        *([sbatch(f"--hint={jobs.site.hint}")] if jobs.site.hint else []),
        sbatch(f"--time={walltime(jobs.minutes)}"),
        sbatch("--requeue", "a lost node puts the task back in the queue"),
        sbatch("--open-mode=append", "a part that is tried again continues in its file"),
        sbatch(f"--output={log_path(jobs.folder / LOGS, '%a.out')}", "by the number of the part"),
        "",
        *_setting(jobs, {}),
        f"prefix={quoted(jobs.prefix)}",
        f"parts={quoted(jobs.parts_dir)}",
        "",
        *_task(jobs),
    ]
    return script_text(lines)


def merge_script(jobs: EncodeJobs, sha256: Mapping[str, str]) -> str:
    """Return the script of the merge. All its logic is in launch/encoding/job.py. Args: sha256: of each file that it reads."""
    partition = jobs.site.encode.merge_partition if jobs.site.encode else ""
    lines = [
        "#!/bin/bash",
        f"# {jobs.prefix.name}: joins its {jobs.parts} part(s) into one shard, or queues again what is missing and itself after",
        f"# it, at most {jobs.retries} time(s). What it decided is a line of jobs.jsonl beside this file.",
        f"# Site: {jobs.site_name}, {jobs.site.description}.",
        "#",
        "# Exit codes: 0 the shard exists; 75 parts were queued again; 2 or 76 the input is wrong or damaged; 70 given up.",
        sbatch(f"--job-name={jobs.merge_name}"),
        *_where(jobs, partition=partition, with_qos=not partition),
        sbatch("--nodes=1"),
        sbatch("--ntasks=1"),
        sbatch(f"--cpus-per-task={min(MERGE_CORES, jobs.workers)}", "it computes on one; memory follows the cores"),
        *([sbatch(f"--hint={jobs.site.hint}")] if jobs.site.hint else []),
        sbatch(f"--time={walltime(jobs.merge_minutes)}"),
        sbatch("--requeue", "a lost node puts it back in the queue; half a shard is never taken for one"),
        sbatch("--open-mode=append"),
        sbatch(f"--output={log_path(jobs.folder, 'merge.out')}"),
        "",
        *_setting(jobs, sha256),
        "",
        'exec "$PYTHON" -m launch job merge "$launch_dir"',
    ]
    return script_text(lines)


def _where(jobs: EncodeJobs, *, partition: str, with_qos: bool) -> list[str]:
    """Return account, partition, constraint, QoS: of the site's CPU nodes where it has some, without GPUs everywhere.

    Args: partition, one other than the tasks'; empty for the same.
    """
    of = jobs.site.encode or jobs.site
    own_partition, qos = queue_of(of.qos, jobs.qos, of.partition)
    chosen = {
        "account": jobs.account,
        "partition": partition or own_partition,
        "constraint": "" if partition else of.constraint,
        "qos": qos if with_qos else "",
    }
    return [sbatch(f"--{name}={value}") for name, value in chosen.items() if value]


def _setting(jobs: EncodeJobs, sha256: Mapping[str, str]) -> list[str]:
    # The site's modules are for its GPU nodes.
    own = () if jobs.site.encode else tuple(jobs.site.modules)
    return [
        f"launch_dir={quoted(jobs.folder)}",
        *refuses("fanal launch render-encode --submit", absent="exit 70"),
        *is_unchanged(sha256, absent="exit 70"),
        *setting(jobs.places, jobs.site, (*own, *jobs.modules)),
        f"cd {quoted(jobs.places.workdir)} || exit 70  # relative paths count from here",
    ]


def _task(jobs: EncodeJobs) -> list[str]:
    tokenizer = quoted(jobs.tokenizer)
    options = [
        f"--input {' '.join(map(quoted, jobs.inputs))}",
        *([" ".join(map(quoted, jobs.options))] if jobs.options else []),
    ]
    return [
        "# --- this task's part",
        "part=${SLURM_ARRAY_TASK_ID:?this is a task of an array, which sbatch starts}",
        "leave() {  # with a word to merge.sbatch; a task that is killed leaves none",
        f'    echo "$1" >"$launch_dir/{EXIT_CODES}/$part"',
        '    exit "$1"',
        "}",
        f'rm -f "$launch_dir/{EXIT_CODES}/$part"',
        '[ ! -f "$prefix.json" ] || leave 0  # merged already',
        'if [ -f "$parts/$part.json" ]; then  # written last: the part is complete, unless it was damaged since',
        f'    "$PYTHON" -m tokenizer verify "$parts/$part" --tokenizer {tokenizer}',
        '    leave "$?"',
        "fi",
        f'"$PYTHON" -m tokenizer encode --tokenizer {tokenizer} --output "$parts/$part" \\',
        f'    --part "$part/{jobs.parts}" --workers {jobs.workers} \\',
        *(f"    {option} \\" for option in options[:-1]),
        f"    {options[-1]}",
        'leave "$?"',
    ]
