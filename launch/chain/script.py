"""Text of a job's script: readable, commented, self-contained."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from fanal.errors import UserError
from fanal.exit_codes import OF_A_RUN
from fanal.listener import MEETING_ID
from fanal.run_folder import JOB, REQUESTS, REQUESTS_SINCE_S, STOP
from fanal.shown import shown
from launch.chain.inside import AGAIN, RESTARTS_INSIDE
from launch.chain.ranks import PER_RANK
from launch.chain.request import Job, Places
from launch.chain.spare_request import SPARE_NODES
from launch.chain.unchanged import is_unchanged, keeps_its_names, refuses
from launch.sites.container import IMAGE, IMAGE_PYTHON, step_words
from launch.sites.hours import queue_of
from launch.sites.schema import SiteConfig
from pretrain.config.derive import data_parallel_size
from pretrain.config.layout_words import layout_in_words
from pretrain.config.library_variables import library_variables
from pretrain.config.stages import unequal_text
from pretrain.model.families.sizes import num_parameters

CORES_OF_RANKS = "FANAL_CORES_OF_RANKS"
"""Variable that pretrain/parallel/binding.py reads."""
EXIT_CODES = "exit-codes"
"""Folder in which every rank, or task, leaves its exit code."""
SCRIPT, CONFIG, SITE, NODE_SCRIPT, PACKED = "job.sbatch", "config.yaml", "site.yaml", "node.sh", "environment.tar"
"""Files in the launch folder of a run: the script, the resolved run and site, what runs on each node, code and packages."""


def files_of(job: Job) -> tuple[str, ...]:
    """Return the names of the files in the launch folder that a job runs or reads."""
    return (CONFIG, SITE, JOB, NODE_SCRIPT, *([PACKED] if job.node_local else []))


def script(job: Job, sha256: Mapping[str, str]) -> str:
    """Return the sbatch script of one slice; every slice of a chain is the same script.

    Args: sha256: of each of ``files_of``, by its name.
    Raises: UserError as ``script_text``.
    """
    lines = [
        *_title(job),
        *directives(job),
        "",
        *_try_again(),
        "",
        *_unchanged(job, sha256),
        "",
        *_setting(job),
        "",
        *_body(job),
    ]
    return script_text(lines)


def script_text(lines: list[str]) -> str:
    """Return the text of these lines. A name with an end of line in it would begin a line of its own, which Slurm and bash would
    obey, though it stands in a comment or in quotes.

    Raises: UserError naming the line.
    """
    for line in lines:
        if not line.isprintable():
            raise UserError(
                f"each line of a job's script must be one line of printable characters, and a name makes this one more: "
                f"{shown(line.strip(), 300)}; a site, folder, file or module named without tabs and ends of lines works"
            )
    return "\n".join(lines) + "\n"


def directives(job: Job) -> list[str]:
    """Return the #SBATCH lines, each with its reason where it is not obvious."""
    site = job.site
    lines = [
        sbatch(f"--job-name={job.name}", "slices of this run folder know each other by it"),
        sbatch("--dependency=singleton", "and run one at a time, in the order of their submission"),
    ]
    lines += [sbatch(f"--account={job.account}")] if job.account else []
    partition, qos = queue_of(site.qos, job.qos, site.partition)
    lines += [sbatch(f"--partition={partition}")] if partition else []
    lines += [sbatch(f"--constraint={site.constraint}")] if site.constraint else []
    lines += [sbatch(f"--qos={qos}")] if qos else []
    lines += [
        sbatch(
            f"--nodes={job.nodes + job.spare_nodes}", f"of these {job.spare_nodes} spare" if job.spare_nodes else ""
        ),
        sbatch("--ntasks-per-node=1", f"{NODE_SCRIPT}, which starts {job.ranks_per_node} rank(s) a node"),
    ]
    lines += [sbatch(f"--gres=gpu:{job.gpus_per_node}")] if job.gpus_per_node else []
    lines += [sbatch(f"--cpus-per-task={job.cores}", "memory follows the cores" if job.gpus_per_node else "")]
    whole = site.whole_node_memory and job.gpus_per_node == site.gpus_per_node
    lines += [sbatch("--mem=0", "all of a node's")] if whole else []
    lines += [sbatch(f"--hint={site.hint}")] if site.hint else []
    lines += (
        [sbatch("--no-kill", "the job outlives a lost node: a spare one takes its place")] if job.spare_nodes else []
    )
    lines += [sbatch("--exclude=" + ",".join(job.exclude))] if job.exclude else []
    lines += [
        sbatch(f"--time={walltime(job.minutes)}"),
        sbatch(
            f"--signal=B:USR1@{job.stop_margin_s}",
            "to this script, that long before the end: stop, save, continue later",
        ),
        sbatch("--requeue", "a lost node puts the job back in the queue"),
        sbatch("--open-mode=append", "a requeued job continues in its file"),
        sbatch(f"--output={log_path(job.folder, '%j.out')}"),
    ]
    return lines


def walltime(minutes: int) -> str:
    """Return a walltime as HH:MM:SS."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def environment(site: SiteConfig) -> list[str]:
    """Return the export lines of a site."""
    return [f'export {name}="{variable.value}"  # {variable.reason}' for name, variable in site.environment.items()]


def modules(names: tuple[str, ...]) -> list[str]:
    """Return the lines that load environment modules; none where there are none to load."""
    return ["module purge", *(f"module load {shlex.quote(name)}" for name in names)] if names else []


def setting(places: Places, site: SiteConfig, module_names: tuple[str, ...]) -> list[str]:
    """Return the lines that every script has: the Python, modules, the site's variables, our packages."""
    return [
        "# --- where, with what",
        f"export PYTHON={quoted(places.python)}",
        *modules(module_names),
        *environment(site),
        f"export PYTHONPATH={quoted(places.code_dir)}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1  # no modules from the working folder",
    ]


def quoted(value: object) -> str:
    """Quote a value for a shell."""
    return shlex.quote(str(value))


def sbatch(directive: str, reason: str = "") -> str:
    """Return a directive, with the reason for it."""
    # Slurm takes what follows a # after the options for a comment.
    return f"#SBATCH {directive}" + (f"  # {reason}" if reason else "")


def log_path(folder: Path, pattern: str) -> str:
    """Return a file in ``folder`` as a directive takes it: Slurm reads % as the start of a pattern, and spaces as an end."""
    path = f"{folder}/".replace("%", "%%") + pattern
    if re.fullmatch(r"[A-Za-z0-9_./@+:=,%-]*", path):
        return path
    return '"' + path.replace('"', '\\"') + '"'


def _in_container(job: Job) -> str:
    """Return the words of srun between its options and what runs on a node; empty without an image."""
    words = step_words(job.site.container, job.container, places=(job.places.workdir, job.places.code_dir, job.run_dir))
    return "".join(f"{quoted(word)} " for word in words)


def _title(job: Job) -> list[str]:
    replicas = data_parallel_size(job.run.parallel, num_ranks=job.nodes * job.ranks_per_node)
    layout = layout_in_words(job.run.parallel, replicas=replicas, layers=unequal_text(job.run.model, job.run.parallel))
    hours = f"{walltime(job.minutes)} each" if job.slices > 1 else walltime(job.minutes)
    return [
        "#!/bin/bash",
        f"# {job.run_dir.name}: {num_parameters(job.run.model):,} parameters, {layout} on {job.nodes} node(s) of "
        f"{job.ranks_per_node} {'GPU' if job.gpus_per_node else 'CPU rank'}(s), {job.slices} job(s) of {hours}.",
        f"# Site: {job.site_name}, {job.site.description}.",
        "#",
        "# Each job resumes from the newest complete checkpoint. What became of it and what is next is a line of jobs.jsonl",
        f"# beside this file; `fanal launch status {quoted(job.run_dir)}` tells. To add a job to the chain: sbatch this file.",
        f"# A colleague stops the chain, with a checkpoint, by: touch {quoted(job.run_dir / REQUESTS / STOP)}",
    ]


def _try_again() -> list[str]:
    return [
        "try_again() {  # a file system is missing, perhaps; Slurm starts the job elsewhere, a few times",
        '    [ "${SLURM_RESTART_COUNT:-0}" -ge 3 ] || scontrol requeue "$SLURM_JOB_ID"',
        '    exit "$1"',
        "}",
    ]


def _unchanged(job: Job, sha256: Mapping[str, str]) -> list[str]:
    return [
        "# --- what is run is what was submitted: Slurm has its own copy of this script, and here are the hashes",
        f"launch_dir={quoted(job.folder)}",
        *refuses("fanal launch submit", absent="try_again 70"),
        *keeps_its_names(),
        *is_unchanged(sha256, absent="try_again 70"),
    ]


def _setting(job: Job) -> list[str]:
    places, site = job.places, job.site
    threads = max(1, job.cores // job.ranks_per_node)
    lines = setting(places, site, job.modules)
    lines += [
        f"export SRUN_CPUS_PER_TASK={job.cores}  # srun does not take it from the job by itself",
        f"export OMP_NUM_THREADS={threads}  # {job.cores} cores among {job.ranks_per_node} rank(s)",
        f"export FANAL_CONFIG=$launch_dir/{CONFIG}",
        f"export FANAL_RANKS_PER_NODE={job.ranks_per_node}",
        f"export FANAL_NUMA_BINDING={'node' if site.bind_numa and job.gpus_per_node else ''}",
    ]
    if site.cores_of_ranks and job.gpus_per_node == site.gpus_per_node:  # a part of a node may be any part
        lines += [f'export {CORES_OF_RANKS}="{" ".join(site.cores_of_ranks)}"  # of each local rank, beside its GPU']
    if per_rank := [name for name, variable in site.environment.items() if variable.per_rank]:
        lines += [f'export {PER_RANK}="{" ".join(per_rank)}"  # each rank takes a folder of its own below each']
    if job.gpus_per_node:
        lines += [  # a site's own value stays
            f'export {name}="${{{name}:-{value}}}"  # {reason}'
            for name, (value, reason) in library_variables(job.run).items()
        ]
    if job.spare_nodes:
        lines += [f"export {SPARE_NODES}={job.spare_nodes}"]
    if job.container and site.container:
        lines += [
            f"export {IMAGE}={quoted(job.container)}  # for the check of the nodes",
            f"export {IMAGE_PYTHON}={quoted(site.container.python)}  # of the image; PYTHON is this script's own",
        ]
    if job.node_local:
        lines += [
            f"export FANAL_PACKED=$launch_dir/{PACKED}  # unpacked on each node: one file to read, not 4,000 a rank",
            f'export FANAL_NODE_LOCAL="{site.node_local_dir}/fanal-$SLURM_JOB_ID"',
        ]
    lines += [f"cd {quoted(places.workdir)} || exit 70  # relative paths of the config count from here"]
    return lines


def _body(job: Job) -> list[str]:
    chosen = _chosen(job) if job.spare_nodes else []
    tries = [
        *_before(),
        "",
        *(_preflight(job) if job.preflight else []),
        *chosen,
        *_run(job),
        "",
        "# --- after",
        "decide",
    ]
    return [
        *_signals(),
        "",
        "# --- a try, and more of them where ranks fail and the allocation can still be used",
        f"for (({RESTARTS_INSIDE} = 0; ; {RESTARTS_INSIDE}++)); do",
        f"    export {RESTARTS_INSIDE}",
        *(f"    {line}" if line else "" for line in tries),
        "done",
    ]


def _signals() -> list[str]:
    return [
        "# --- signals, from the first moment on",
        "leaving=()",
        "trap 'leaving=(--walltime)' USR1  # the end of the job is near",
        "trap : TERM  # Slurm tells the ranks itself; this script must live to note what became of them",
        "",
        "decide() {  # by the exit codes of the ranks: try again here, requeue, hand over or stop",
        "    trap '' TERM",
        """    next=$(trap '' USR1; exec "$PYTHON" -m launch job end "$launch_dir" "$@" "${leaving[@]}")""",
        "    code=$?",
        f'    if [ "$next" = {AGAIN} ]; then trap : TERM; return; fi',
        f'    case "$code" in {"|".join(map(str, OF_A_RUN))}) exit "$code" ;; esac',
        '    try_again "$code"  # its Python did not run',
        "}",
        "",
        "wait_for() {  # until the process is gone; the announcement is repeated, for ranks that were not there yet",
        '    while kill -0 "$1" 2>/dev/null; do',
        '        if [ ${#leaving[@]} -gt 0 ]; then kill -USR1 "$1" 2>/dev/null; sleep 2 & wait $!; else wait "$1"; fi',
        "    done",
        '    wait "$1"',
        "}",
    ]


def _before() -> list[str]:
    return [
        "# --- before: note the start, see what became of the one before, choose where ranks meet",
        "export FANAL_ATTEMPT=$launch_dir/$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}",
        f'[ "${RESTARTS_INSIDE}" -eq 0 ] || FANAL_ATTEMPT+=.${RESTARTS_INSIDE}',
        f"export PRETRAIN_EXIT_CODES=$FANAL_ATTEMPT/{EXIT_CODES}",
        f"{REQUESTS_SINCE_S}=$(date +%s)",
        f"export {REQUESTS_SINCE_S}  # a STOP file from now on is for this job, though its ranks are not there yet",
        'FANAL_MEET_AT=$("$PYTHON" -m launch job begin "$launch_dir")',
        "code=$?",
        'if [ -z "$FANAL_MEET_AT" ]; then',
        '    [ "$code" -ne 0 ] || exit 0  # it has said and noted why this job must not run',
        '    decide --before-training "$code"',
        "fi",
        "export FANAL_MEET_AT",
        f"{MEETING_ID}=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')",
        f"export {MEETING_ID}  # so that no rank of another job is taken for one of ours",
    ]


def _preflight(job: Job) -> list[str]:
    part = f" --gpus-per-node {job.gpus_per_node}" if job.gpus_per_node != job.site.gpus_per_node else ""
    return [
        "# --- preflight: config, data and space, then a look at every node",
        f'"$PYTHON" -m launch preflight "$FANAL_CONFIG" --site "$launch_dir/{SITE}" --nodes {job.nodes}{part} &',
        "wait_for $!",
        "code=$?",
        '[ "$code" -eq 0 ] || decide --before-training "$code"',
        "",
    ]


def _chosen(job: Job) -> list[str]:
    """Return the lines that choose the nodes of a try, and have another node than the script's watch over the script's."""
    return [
        "# --- the nodes that train: not the sick ones, else not the slowest",
        'chosen=$("$PYTHON" -m launch job choose "$launch_dir")',
        "code=$?",
        '[ "$code" -eq 0 ] || decide --before-training "$code"',
        'read -r FANAL_MEET_AT nodes mine stands_by <<<"$chosen"',
        'kill "$watch" 2>/dev/null',
        'if [ -n "$stands_by" ]; then  # where this script is lost with its node, the job would live on without it',
        '    srun --overlap --nodes=1 --ntasks=1 --cpus-per-task=1 --gres=none --nodelist="$stands_by" \\',
        '        "$PYTHON" -m launch.chain.script_node "$mine" &',
        "    watch=$!",
        "fi",
        "",
    ]


def _run(job: Job) -> list[str]:
    of_nodes = f'--overlap --nodes={job.nodes} --ntasks={job.nodes} --nodelist="$nodes" ' if job.spare_nodes else ""
    return [
        "# --- the run, which is told of signals",
        f'srun --kill-on-bad-exit=1 {of_nodes}{_in_container(job)}bash "$launch_dir/{NODE_SCRIPT}" &',
        "step=$!",
        *_evaluations(job),
        "(  # where a node was lost and is back, srun waits for its ranks forever: not when others have left their exit code",
        "    while sleep 60; do",
        '        old=$(find "$PRETRAIN_EXIT_CODES" -name "rank-*" -mmin +5 -print -quit 2>/dev/null)',
        '        [ -z "$old" ] || kill -KILL "$step"',
        "    done",
        ") &",
        "guard=$!",
        'wait_for "$step"  # srun passes signals on to the ranks; its exit code says nothing of theirs',
        'kill "$guard" 2>/dev/null',
        *_last_evaluations(job),
    ]


def _evaluations(job: Job) -> list[str]:
    """Return the line that has evaluations queued while the run trains; none where none are wanted."""
    if job.evaluations is None:
        return []
    return [
        '"$PYTHON" -m launch evaluations watch "$launch_dir" &  # queues evaluations of checkpoints; nothing waits for it',
        "evaluations=$!",
    ]


def _last_evaluations(job: Job) -> list[str]:
    if job.evaluations is None:
        return []
    return [
        'kill "$evaluations" 2>/dev/null',
        'timeout 30 "$PYTHON" -m launch evaluations watch "$launch_dir" --once  # of the last checkpoint',
        "",
    ]
