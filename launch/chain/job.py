"""Actions of a job before and after its run, on the first of its nodes. ``job.sbatch`` calls both.

before  note the start; settle the attempt before, if it was lost silently; choose where ranks meet
after   read the exit codes of the ranks, decide (launch/chain/decide.py), note the decision, act
"""

import json
import os
import shutil
import signal
import socket
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fanal import exit_codes
from fanal.errors import FanalError, error_type
from fanal.new_files import create_file, write_new
from fanal.ownership import close_file, close_new_files, make_own_folder, why_not_own
from fanal.run_folder import JOB, LOGS_DIR, REQUESTS, STOP
from fanal.run_progress import newest_step
from fanal.shown import on_one_line
from launch import slurm
from launch.chain import avoid, jobs_file, until
from launch.chain.blame import sick_nodes
from launch.chain.capture import write_environment
from launch.chain.decide import Action, Decision, Facts, decide, run_exit_code
from launch.chain.launch_folder import own_script
from launch.chain.notify import announce
from launch.chain.rank_logs import asked_by, reason_of
from launch.chain.script import EXIT_CODES, SCRIPT, SITE
from launch.chain.slow import slow_notice
from launch.sites.schema import SiteConfig
from launch.sites.site import read_site

NO_DECISION_YET = "it ended without giving a reason"


@dataclass(frozen=True)
class Here:
    """The job this process belongs to, with what its launch folder says."""

    folder: Path
    facts: dict[str, Any]
    site: SiteConfig
    job: str
    restart: int

    @property
    def run_dir(self) -> Path:
        return Path(self.facts["run_dir"])

    def num_ranks(self, nodes: int | None = None) -> int:
        """Return the number of ranks of this start, or of one on so many nodes. The job's variables count before
        job.json: a render may have changed the file."""
        if nodes is None:
            nodes = int(os.environ.get("SLURM_JOB_NUM_NODES") or self.facts["nodes"])
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
    return Here(folder, facts, read_site(folder / SITE), job, restart)


def attempt_dir(folder: Path, job: str, restart: int) -> Path:
    """Return the folder of one start of a job: environment, exit codes, logs, preflight of its nodes."""
    return folder / f"{job}-{restart}"


def begin(folder: Path) -> str | None:
    """Prepare the run. Returns HOST:PORT where ranks meet; None if this job must not run, which is printed and noted."""
    close_new_files()
    # That of version 0.1 may be open to the group, and what lies in it.
    make_own_folder(folder, name="the launch folder")
    close_file(folder / SITE)
    at = here(folder)
    nodes = slurm.hostnames(os.environ.get("SLURM_JOB_NODELIST", ""))
    attempt = attempt_dir(folder, at.job, at.restart)
    for own in (attempt, attempt / EXIT_CODES):
        make_own_folder(own, name="the folder of a job's start")
    if not _settle_lost_attempt(at) or _was_asked_to_stop(at) or _has_reached_its_end(at):
        return None
    if not _avoid_noted_nodes(at, nodes):
        return None
    avoid.note_start(at.folder, at.job, at.facts, jobs_file.read_run(at.run_dir))
    write_environment(attempt / "environment.json", Path(at.facts["code_dir"]), nodes)
    jobs_file.note(
        at.folder, "started", job=at.job, restart=at.restart, nodes=list(nodes), step=newest_step(at.run_dir)
    )
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{socket.gethostname()}:{probe.getsockname()[1]}"


def end(folder: Path, *, before_training: int | None, walltime: bool) -> int:
    """Finish the run: decide, note, act. Returns the exit code of the job.

    Args: before_training, the exit code of what came before the ranks, if it failed.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a requeue ends this process, too; Slurm's SIGKILL comes later
    close_new_files()
    at = here(folder)
    ended_by = slurm.why_ending(at.job, at.restart)
    attempt = attempt_dir(folder, at.job, at.restart)
    codes = rank_exit_codes(attempt)
    if before_training is None:
        code = run_exit_code(codes, at.num_ranks())
    else:  # a preflight that the end of the job cut short has found nothing
        code = exit_codes.STOPPED if walltime else _known_code(before_training)
    records = jobs_file.read_run(at.run_dir)
    began = next((a for a in reversed(jobs_file.attempts(records)) if (a.job, a.restart) == (at.job, at.restart)), None)
    sick = _sick(at, began, codes, in_preflight=before_training is not None) if began and code in _BLAMES else {}
    step_after, restarts = newest_step(at.run_dir), jobs_file.restarts_without_checkpoint(records)
    if began is None:  # it could not even be noted: no progress, and Slurm's count is the one that is left
        restarts = max(restarts, at.restart)
    facts = Facts(
        exit_code=code,
        said=reason_of(attempt, code) if before_training is None else "see the job's output",
        asked_by=asked_by(attempt) if code == exit_codes.STOPPED and before_training is None else "",
        walltime_signal=walltime,
        ended_by=ended_by,
        lost_nodes=tuple(sick),
        step_before=began.step if began else step_after,
        step_after=step_after,
        restarts_without_checkpoint=restarts,
        jobs_waiting=_jobs_waiting(at),
    )
    decision = _decide(at, facts)
    notice = (
        ""
        if began is None
        else slow_notice(folder, at.run_dir, at.site, since_unix_s=jobs_file.seconds(began.time_utc))
    )
    _note(at, at.job, at.restart, facts, decision, listed=_list(at, sick), notice=notice)
    try:
        _tidy(attempt, codes, good=code in _GOOD)
    except OSError as error:  # no room, perhaps: the chain must continue all the same
        print(f"warning: {attempt} is not tidied up: {error}", file=sys.stderr, flush=True)
    _act(at, decision, is_requeued=ended_by == "requeued by Slurm")
    return exit_codes.FINISHED if decision.action in ("finish", "hand over") else code


def _jobs_waiting(at: Here) -> int:
    """Return the number of waiting jobs; 0 where Slurm does not answer: then this job continues itself, after the
    waiting ones."""
    try:
        return len(slurm.waiting_jobs(at.facts["name"]))
    except slurm.SlurmError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)
        return 0


def rank_exit_codes(attempt: Path) -> dict[int, int]:
    """Return the exit code that each rank left; ranks that were killed left none. What another user may have written is none."""
    codes, folder = {}, attempt / EXIT_CODES
    if not folder.exists() or why_not_own(attempt) or why_not_own(folder):
        return codes
    for path in folder.glob("rank-*"):
        if why_not_own(path):
            continue
        text = path.read_text(encoding="utf-8").strip()
        if text.isdigit():
            codes[int(path.name.removeprefix("rank-"))] = int(text)
    return codes


_GOOD = (exit_codes.FINISHED, exit_codes.STOPPED)
_BLAMES = (exit_codes.CRASH, exit_codes.HANG)
"""Exit codes of an attempt that a node may be to blame for."""


def _sick(at: Here, began: jobs_file.Attempt, codes: dict[int, int], *, in_preflight: bool = False) -> dict[str, str]:
    """Return the nodes of an attempt that are to blame for its end, with reasons."""
    attempt = attempt_dir(at.folder, began.job, began.restart)
    lost = slurm.lost_nodes(began.nodes, _local(began.time_utc))
    return sick_nodes(
        attempt=attempt, nodes=began.nodes, codes=codes, ranks_per_node=at.num_ranks(1), lost=lost, preflight=in_preflight
    )  # fmt: skip


def _decide(at: Here, facts: Facts) -> Decision:
    """Return the decision after an attempt; a condition that ends the chain counts before what would start it again."""
    why = until.reached(at.run_dir) if facts.exit_code != exit_codes.FINISHED else ""
    if why and decide(facts, max_restarts_without_checkpoint=2**31).action != "stop":
        return Decision(action="finish", reason=why, exclude=facts.lost_nodes)
    return decide(facts, max_restarts_without_checkpoint=at.site.max_restarts_without_checkpoint)


def _list(at: Here, sick: dict[str, str]) -> tuple[str, ...]:
    """Put nodes on the list that other chains read as well. Returns those that are on it."""
    return avoid.list_sick(at.facts, sick, by=f"job {at.job}-{at.restart}", partition=_partition(at))


def _partition(at: Here) -> str:
    return os.environ.get("SLURM_JOB_PARTITION") or at.site.partition


def _known_code(code: int) -> int:
    """Return the exit code, or CRASH for a code that is not ours, such as 1 of a Python that cannot import."""
    ours = (exit_codes.WRONG_INPUT, exit_codes.DAMAGED, exit_codes.HANG, exit_codes.STOPPED)
    return code if code in ours else exit_codes.CRASH


def _local(time_utc: str) -> datetime:
    """Return a time as Slurm prints it: local, without a zone."""
    return datetime.fromtimestamp(jobs_file.seconds(time_utc))


def _note(
    at: Here, job: str, restart: int, facts: Facts, decision: Decision, *, listed: Sequence[str] = (), notice: str = ""
) -> None:
    """Write a decision down, and print it.

    Args:
        listed: nodes of ``exclude`` that are on the list of nodes to avoid.
        notice: what else people should know of the attempt; nothing follows from it.
    """
    jobs_file.try_note(
        at.folder, "decided", job=job, restart=restart, action=decision.action, reason=decision.reason,
        exit_code=facts.exit_code, step=facts.step_after,
        restarts_without_checkpoint=decision.restarts_without_checkpoint, exclude=list(decision.exclude),
        listed=list(listed), by=f"{at.job}-{at.restart}", **({"notice": notice} if notice else {}),
    )  # fmt: skip
    print(f"job {job}: {decision.action}: {on_one_line(decision.reason)}", file=sys.stderr, flush=True)
    if notice:
        print(f"job {job}: notice: {on_one_line(notice)}", file=sys.stderr, flush=True)
    announce(at.run_dir, internet=at.site.internet)


def _settle_lost_attempt(at: Here) -> bool:
    """Decide for an attempt that could not: its node was lost, or it was killed at once. False if this job must not run."""
    records = jobs_file.read_run(at.run_dir)
    before = jobs_file.attempts(records)
    if not before or before[-1].decision is not None:
        return _is_still_wanted(at, records)
    last = before[-1]
    attempt = attempt_dir(at.folder, last.job, last.restart)
    codes = rank_exit_codes(attempt)
    code = run_exit_code(codes, at.num_ranks(len(last.nodes)))
    sick = _sick(at, last, codes)
    facts = Facts(
        exit_code=code,
        asked_by=asked_by(attempt) if code == exit_codes.STOPPED else NO_DECISION_YET,
        ended_by=slurm.why_ended(last.job) if last.job != at.job else "requeued by Slurm",
        lost_nodes=tuple(sick),
        step_before=last.step,
        step_after=newest_step(at.run_dir),
        restarts_without_checkpoint=jobs_file.restarts_without_checkpoint(records),
    )
    decision = _decide(at, facts)
    _note(at, last.job, last.restart, facts, decision, listed=_list(at, sick))
    if decision.action in ("finish", "stop"):
        _act(at, decision)
        return False
    return True


def _is_still_wanted(at: Here, records: list[dict[str, Any]]) -> bool:
    """Return False if the chain was stopped or finished and this job of it started all the same: it was being started
    just then."""
    current = jobs_file.since_submission(records)
    belongs = any(at.job in record["jobs"] for record in current if record["event"] == "submitted")
    decided = [record for record in current if record["event"] == "decided"]
    if belongs and decided and decided[-1]["action"] in ("finish", "stop"):
        print(f"the chain has ended: {on_one_line(decided[-1]['reason'])}", file=sys.stderr)
        try:
            slurm.cancel(slurm.waiting_jobs(at.facts["name"]))
        except slurm.SlurmError as error:  # they will see for themselves
            print(f"warning: {error}", file=sys.stderr, flush=True)
        return False
    return True


def _was_asked_to_stop(at: Here) -> bool:
    """Whether a STOP file came while no rank was there to see it: while the chain waited in the queue, or as a job crashed.

    One from before the last submission is not meant for this chain; the trainer removes it.
    """
    records = jobs_file.read_run(at.run_dir)
    submissions = [jobs_file.seconds(record["time_utc"]) for record in records if record["event"] == "submitted"]
    try:
        # A chain that was never submitted started with its script: sbatch may add a job to it at any time.
        since = submissions[-1] if submissions else (at.folder / SCRIPT).stat().st_mtime
    except FileNotFoundError:
        return False
    found = [_take_stop(folder, since) for folder in (at.run_dir, at.run_dir / REQUESTS)]
    if not any(found):
        return False
    decision = Decision(action="stop", reason="a STOP file in the run folder asked for it, before this start")
    _note(at, at.job, at.restart, Facts(exit_code=exit_codes.STOPPED, step_after=newest_step(at.run_dir)), decision)
    _act(at, decision)
    return True


def _take_stop(folder: Path, since: float) -> bool:
    """Whether a STOP file lies in a folder that is younger than this; it is removed."""
    stop = folder / STOP
    try:
        if (folder.name == REQUESTS and folder.is_symlink()) or stop.lstat().st_mtime < since:
            return False
    except OSError:  # none, for most
        return False
    try:
        stop.unlink(missing_ok=True)
    except OSError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)  # of a colleague, in a folder that only he may clean
    return True


def _has_reached_its_end(at: Here) -> bool:
    """Whether a condition for the chain's end (launch/chain/until.py) holds before this start, which is then noted."""
    why = until.reached(at.run_dir)
    if why:
        _decide_before_start(at, "finish", why)
    return bool(why)


def _avoid_noted_nodes(at: Here, nodes: tuple[str, ...]) -> bool:
    """Requeue where a node is to be avoided and others could take its place. False if this job must not run."""
    records = jobs_file.read_run(at.run_dir)
    try:
        why = avoid.why_not_on(
            nodes, at.facts, records, job=at.job, partition=_partition(at), constraint=at.site.constraint
        )
    except slurm.SlurmError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)
        return True
    if any(
        r["event"] == "decided" and (r["job"], r["restart"], r["reason"]) == (at.job, at.restart - 1, why)
        for r in records
    ):
        print(f"warning: {why}; used all the same, since Slurm gave it once more", file=sys.stderr)
        return True
    if why:
        _decide_before_start(at, "requeue", why)
    return not why


def _decide_before_start(at: Here, action: Action, reason: str) -> None:
    """Note and carry out a decision by which this start of the job does not run."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of a requeue: waiting jobs are kept off nodes after it
    count = jobs_file.restarts_without_checkpoint(jobs_file.read_run(at.run_dir))
    decision = Decision(action=action, reason=reason, restarts_without_checkpoint=count)
    step = newest_step(at.run_dir)
    _note(at, at.job, at.restart, Facts(exit_code=exit_codes.STOPPED, step_before=step, step_after=step), decision)
    _act(at, decision)


def _act(at: Here, decision: Decision, *, is_requeued: bool = False) -> None:
    """Carry out a decision. What Slurm refuses is printed, and noted where it ends the chain.

    Args: is_requeued, Slurm has put the job back into the queue already.
    """
    try:
        waiting = [job for job in slurm.waiting_jobs(at.facts["name"]) if job != at.job]
        if decision.action in ("finish", "stop"):
            slurm.cancel([*waiting, *([at.job] if is_requeued else [])])
            return
    except slurm.SlurmError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)
    if decision.action == "requeue" and not is_requeued:
        _requeue(at)
    # After the requeue: a running job's list of nodes cannot be changed, one that is put back can, while we still live.
    try:
        changes = avoid.apply_list(avoid.list_of_chain(at.facts), also=[at.job] if decision.action == "requeue" else [])
        avoid.note_changes(at.folder, changes)
    except FanalError as error:
        print(f"warning: waiting jobs are not kept off nodes: {error}", file=sys.stderr, flush=True)


def _requeue(at: Here) -> None:
    """Put this job back, or a new one in its place where Slurm does not allow that."""
    try:
        slurm.requeue(at.job)
    except slurm.SlurmError as refused:
        if slurm.why_ending(at.job, at.restart) == "requeued by Slurm":
            return  # Slurm was faster: a node of the job is down
        try:
            queued = slurm.submit(own_script(at.folder, SCRIPT))
            print(f"{refused}; queued job {queued} in its place", file=sys.stderr, flush=True)
        except FanalError as error:  # of Slurm, or of the script
            reason = f"the chain cannot continue: {refused}; {error}; `sbatch {at.folder / SCRIPT}` continues it"
            decision = Decision(action="stop", reason=reason)
            _note(
                at, at.job, at.restart, Facts(exit_code=exit_codes.CRASH, step_after=newest_step(at.run_dir)), decision
            )


def _tidy(attempt: Path, codes: dict[int, int], *, good: bool) -> None:
    """Pack all exit codes into one file, and the logs of an attempt that ended well into another: inodes are counted on
    clusters."""
    text = json.dumps({str(rank): code for rank, code in sorted(codes.items())}) + "\n"
    write_new(attempt / f"{EXIT_CODES}.json", text)
    logs = attempt / LOGS_DIR
    if good and logs.is_dir():
        with create_file(attempt / "logs.tar.gz") as stream, tarfile.open(fileobj=stream, mode="w:gz") as tar:
            tar.add(logs, LOGS_DIR)
        shutil.rmtree(logs, ignore_errors=True)
    shutil.rmtree(attempt / EXIT_CODES, ignore_errors=True)
