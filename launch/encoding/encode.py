"""Tokenization on many machines: the request of a user, the folder of its jobs, and the queue.

PREFIX.launch/ holds encode.sbatch (an array, one task a part), merge.sbatch (after it), encode.json (what the merge must
know), exit-codes/I and logs/I.out of every task, and jobs.jsonl (launch/encoding/job.py). Parts lie at PREFIX.parts/I.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fanal.errors import UserError, error_type, user_path
from fanal.files import write_whole
from fanal.missing import what_is_there
from fanal.ownership import make_own_folder
from launch import slurm
from launch.chain import jobs_file
from launch.chain.launch_folder import hold_launch_folder, own_script
from launch.chain.request import Places, absolute, account, check_path, check_word, job_name
from launch.chain.script import EXIT_CODES
from launch.encoding.script import ENCODE_SCRIPT, LOGS, MERGE_SCRIPT, EncodeJobs, encode_script, merge_script
from launch.sites.hours import check_hours, choose_qos
from launch.sites.reach import check_paths
from launch.sites.schema import SiteConfig

FACTS = "encode.json"
MAX_PARTS = 100_000
"""Largest number of parts taken: the merge looks at each, and few schedulers take a larger array."""
MAX_RETRIES, MAX_SEED = 1_000, 2**63 - 1
OURS = ("--tokenizer", "--input", "--output", "--part", "--shuffle-seed", "--workers")
"""Options of ``fanal tokenizer encode`` that ``fanal launch render-encode`` has or sets itself."""
SAME_FOR_ALL_PARTS = ("tokenizer", "inputs", "parts", "options")
"""Keys of encode.json that must not change while parts exist: they would not belong together."""


@dataclass(frozen=True, kw_only=True)
class EncodeRequest:
    """The options of ``fanal launch render-encode``."""

    tokenizer: str
    inputs: tuple[str, ...]
    """Files or folders, as the manifest is to name them."""
    output: str
    parts: int
    hours: float | None
    """Walltime of one task, in hours."""
    account: str | None = None
    qos: str | None = None
    shuffle_seed: int | None = None
    workers: int | None = None
    """Processes of one task; None takes the cores of the site."""
    at_once: int | None = None
    """Largest number of tasks that run at a time; None sets no limit."""
    retries: int = 2
    """Number of times that the merge may queue missing parts again."""
    modules: tuple[str, ...] = ()
    passed_on: tuple[str, ...] = ()
    """Further options, for ``fanal tokenizer encode``."""


def plan_encode(site_name: str, site: SiteConfig, request: EncodeRequest, places: Places) -> EncodeJobs:
    """Check a request against the site and what is on disk.

    Raises: UserError naming the option, its value, the rule and what works.
    """
    for option, number, least in (
        ("--parts", request.parts, 1), ("--workers", request.workers, 1), ("--at-once", request.at_once, 1),
        ("--retries", request.retries, 0), ("--shuffle-seed", request.shuffle_seed, 0),
    ):  # fmt: skip
        if number is not None and number < least:
            raise UserError(f"{option} ({number}) must be at least {least}; {option} {max(least, 8)} works")
    for option, number, most in (
        ("--parts", request.parts, MAX_PARTS), ("--at-once", request.at_once, MAX_PARTS),
        ("--retries", request.retries, MAX_RETRIES), ("--shuffle-seed", request.shuffle_seed, MAX_SEED),
    ):  # fmt: skip
        if number is not None and number > most:
            raise UserError(f"{option} ({number}) must not be above {most}; {option} 8 works")
    cores, where = (site.encode.cores, "encode.cores") if site.encode else (site.cores_per_node, "cores_per_node")
    workers = cores if request.workers is None else request.workers
    if workers > cores:
        raise UserError(
            f"--workers ({workers}) must not be above the {cores} cores of a task on {site_name} ({where}); "
            f"--workers {cores} works"
        )
    check_word("--qos", request.qos, example="normal")
    for module in request.modules:
        check_word("--module", module, example="python/3.11")
    hours = check_hours(request.hours, site.default_walltime_minutes)
    # A task is one job: no QoS makes a chain of it.
    offered = [replace(qos, chain=False) for qos in (site.encode.qos if site.encode else site.qos)]
    qos, _ = choose_qos(offered, request.qos, hours=hours, slice_hours=None, num_gpus=0, where=site_name)
    prefix = _prefix(request.output, places)
    check_path("--output", prefix)
    _check_files(request, site, site_name, places, prefix)
    _check_passed_on(request.passed_on, places)
    suffix = site.encode.account_suffix if site.encode else site.account_suffix
    merge_hours = min(hours, offered[0].max_hours) if offered else hours
    seed = () if request.shuffle_seed is None else ("--shuffle-seed", str(request.shuffle_seed))
    jobs = EncodeJobs(
        site=site, site_name=site_name, places=places, prefix=prefix, tokenizer=request.tokenizer, inputs=request.inputs,
        parts=request.parts, at_once=request.at_once, workers=workers, minutes=_minutes(hours),
        merge_minutes=_minutes(merge_hours), retries=request.retries, modules=request.modules,
        account=account(suffix, site.needs_account, site_name, request.account), qos=qos.name if qos else "",
        options=(*seed, *request.passed_on), name=job_name(prefix),
    )  # fmt: skip
    _check_same_as_before(jobs)
    return jobs


def render_encode(jobs: EncodeJobs) -> Path:
    """Write both scripts and their folder; returns the folder. Jobs in the queue have their own copies of the scripts.

    Raises: UserError if the folder cannot be written, or if another command is at it.
    """
    with _held(jobs):
        _write(jobs)
    return jobs.folder


def render_and_queue(jobs: EncodeJobs) -> tuple[str, str]:
    """Write both scripts and queue them, unless jobs of this output are queued. Returns the numbers of the array and the merge.

    Raises: as ``render_encode`` and ``check_not_queued``, the latter before any file is written.
    """
    check_not_queued(jobs)
    with _held(jobs):
        check_not_queued(jobs)  # once more: another command may have been faster
        _write(jobs)
        return queue(jobs.folder, event="submitted")


@contextlib.contextmanager
def _held(jobs: EncodeJobs) -> Iterator[None]:
    try:
        jobs.parts_dir.mkdir(parents=True, exist_ok=True)
        with hold_launch_folder(jobs.folder):
            yield
    except OSError as error:
        raise error_type(error)(
            f"--output ({jobs.prefix}) must lie in a folder that can be made and written to: {error.strerror} "
            f"({error.filename}); --output shards/{jobs.prefix.name} works where the current folder is writable"
        ) from None


def _write(jobs: EncodeJobs) -> None:
    for name in (EXIT_CODES, LOGS):  # Slurm makes no folder for a log
        make_own_folder(jobs.folder / name, name="a folder of jobs")
    known = json.dumps(facts(jobs), indent=2) + "\n"
    texts = {FACTS: known, MERGE_SCRIPT: merge_script(jobs, {FACTS: hashlib.sha256(known.encode()).hexdigest()})}
    for name, text in (texts | {ENCODE_SCRIPT: encode_script(jobs)}).items():
        write_whole(jobs.folder / name, text)


def check_not_queued(jobs: EncodeJobs) -> None:
    """Refuse an output that has jobs in the queue, before the files that they will read are written.

    Raises: UserError naming them.
    """
    there = slurm.queued_jobs(jobs.encode_name, jobs.merge_name, arrays=True)
    if there:
        raise UserError(
            f"--output ({jobs.prefix}) has jobs in the queue ({', '.join(there)}); `scancel {' '.join(there)}` ends them"
        )


def queue(folder: Path, *, event: str, parts: Sequence[int] = (), at_once: int | None = None) -> tuple[str, str]:
    """Queue the array of a rendered folder, or some of its parts, and the merge after it; noted in jobs.jsonl.

    Raises: SlurmError if Slurm refuses, UserError if nothing can be noted; what was queued until then is cancelled.
    """
    with slurm.taken_back_on_error() as queued:
        chosen = [f"--array={array_of(parts, at_once)}"] if parts else []
        queued.append(slurm.submit(own_script(folder, ENCODE_SCRIPT), *chosen))
        # afterany: the merge sees for itself what has failed, and why.
        queued.append(slurm.submit(own_script(folder, MERGE_SCRIPT), f"--dependency=afterany:{queued[0]}"))
        jobs_file.must_note(folder, event, jobs=queued, parts=list(parts))
    array, merge = queued
    return array, merge


def array_of(parts: Sequence[int], at_once: int | None) -> str:
    """Return numbers of parts as ``sbatch --array`` takes them: 3,7%2."""
    return ",".join(map(str, parts)) + (f"%{at_once}" if at_once else "")


def facts(jobs: EncodeJobs) -> dict[str, object]:
    """Return the content of encode.json."""
    return {
        "prefix": str(jobs.prefix), "parts_dir": str(jobs.parts_dir), "encode_name": jobs.encode_name,
        "tokenizer": jobs.tokenizer, "inputs": list(jobs.inputs), "parts": jobs.parts, "options": list(jobs.options),
        "at_once": jobs.at_once, "retries": jobs.retries, "minutes": jobs.minutes,
    }  # fmt: skip


def _minutes(hours: float) -> int:
    """Return hours in minutes, in which Slurm counts."""
    return max(1, math.ceil(hours * 60 - 1e-6))


def _prefix(output: str, places: Places) -> Path:
    if not Path(output).name or output.endswith(("/", "..", "/.")):
        raise UserError(
            f"--output ({output}) must end in a name, to which .bin, .idx and .json are added; --output shards/train works"
        )
    return absolute(output, places.workdir)


def _check_files(request: EncodeRequest, site: SiteConfig, site_name: str, places: Places, prefix: Path) -> None:
    given = [absolute(path, places.workdir) for path in (request.tokenizer, *request.inputs)]
    with user_path(prefix, *given):
        _check_there(request, places, prefix)
    named = {"--output": prefix, "--tokenizer": given[0], "the working folder": places.workdir}
    named |= {"the code": places.code_dir, "Python": places.python}
    named |= {f"--input {path}": absolute(path, places.workdir) for path in request.inputs}
    check_paths(named.items(), site, site_name)


def _check_there(request: EncodeRequest, places: Places, prefix: Path) -> None:
    tokenizer = absolute(request.tokenizer, places.workdir)
    if not tokenizer.is_dir():
        raise UserError(
            f"--tokenizer ({request.tokenizer}) must be the folder of a trained tokenizer, and it is not one; the folder that "
            "`fanal tokenizer train` or `import` made works"
        )
    if not request.inputs:
        raise UserError(
            "--input must name at least one file or folder of text; --input . reads those of the current folder"
        )
    for given in request.inputs:
        if not absolute(given, places.workdir).exists():
            raise UserError(f"--input ({given}) {what_is_there(absolute(given, places.workdir))}")
    there = _files_of(prefix)
    if there:
        free = next(name for count in itertools.count(2) if not _files_of(name := Path(f"{prefix}-{count}")))
        raise UserError(
            f"--output ({prefix}) must not exist yet, and {there[0]} does: nothing is overwritten; remove it, or "
            f"--output {free} works"
        )


def _files_of(prefix: Path) -> list[Path]:
    """Return the files of a shard that are there."""
    return [
        path
        for path in (Path(f"{prefix}{end}") for end in (".json", ".bin", ".idx", ".documents.parquet"))
        if path.exists()
    ]


def _check_passed_on(passed_on: tuple[str, ...], places: Places) -> None:
    """Check the options that are passed on with the parser of ``fanal tokenizer encode``. The tasks check their values."""
    if not passed_on:
        return
    if not passed_on[0].startswith("-"):
        raise UserError(f"{passed_on[0]!r} must be an option of `fanal tokenizer encode`; -- --on-error skip works")
    for word in passed_on:
        name = word.split("=")[0]
        if name in OURS:
            works = "each task has its own" if name == "--part" else f"{name} before the -- works"
            raise UserError(f"{name} must not be passed on to `fanal tokenizer encode`; {works}")
    # Told to help, it reads the options and does no more.
    command = [str(places.python), "-m", "tokenizer", "encode", "--help", *passed_on]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(places.code_dir)}
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["it failed"]
        raise UserError(
            f"what is passed on ({' '.join(passed_on)}) must be options of `fanal tokenizer encode`: "
            f"{said[0].removeprefix('Error: ')}; -- --on-error skip works, and `fanal tokenizer encode --help` lists them"
        )


def _check_same_as_before(jobs: EncodeJobs) -> None:
    """Check that the parts that exist are of this very request."""
    try:
        before = json.loads((jobs.folder / FACTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        before = {}  # it says nothing of the parts that are there
    now = json.loads(json.dumps(facts(jobs)))
    changed = [key for key in SAME_FOR_ALL_PARTS if before.get(key) != now[key]]
    if changed and any(jobs.parts_dir.glob("*.json")):
        key, then = changed[0], before.get(changed[0], "(unknown)")
        raise UserError(
            f"{jobs.parts_dir} holds parts that were made with {key} {then}, not {now[key]}: they would not "
            f"belong together; remove that folder, or --output {jobs.prefix}-2 works"
        )
