"""Actions of a job before and after its run, on the first of its nodes. ``job.sbatch`` calls both.

before  note the start; settle the attempt before, if it was lost silently; choose where ranks meet
after   read the exit codes of the ranks, decide (launch/chain/decide.py), note the decision, act
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from fanal import exit_codes
from fanal.errors import FanalError
from fanal.ownership import close_file, close_new_files, make_own_folder
from fanal.run_progress import newest_step
from fanal.shown import on_one_line
from launch import slurm
from launch.chain import avoid, jobs_file, until
from launch.chain.blame import LOST, sick_nodes
from launch.chain.capture import write_environment
from launch.chain.decide import STOP_FILE, Action, Decision, Facts, decide, run_exit_code
from launch.chain.inside import AGAIN, Room, room
from launch.chain.launch_folder import own_script
from launch.chain.notify import announce
from launch.chain.rank_codes import known_code, rank_exit_codes
from launch.chain.rank_logs import asked_by, reason_of
from launch.chain.script import CONFIG, EXIT_CODES, SCRIPT, SITE
from launch.chain.slow import slow_notice
from launch.chain.spare import candidates, num_training_nodes, spare_nodes
from launch.chain.stop_file import stop_came
from launch.chain.this_job import Here, attempt_dir, here
from launch.chain.tidy import tidy

NO_DECISION_YET = "it ended without giving a reason"


def begin(folder: Path) -> str | None:
    """Prepare the run. Returns HOST:PORT where ranks meet; None if this job must not run, which is printed and noted."""
    close_new_files()
    # That of version 0.1 may be open to the group, and what lies in it.
    make_own_folder(folder, name="the launch folder")
    close_file(folder / SITE)
    at = here(folder)
    nodes = (
        candidates(at.job, at.run_dir) if spare_nodes() else slurm.hostnames(os.environ.get("SLURM_JOB_NODELIST", ""))
    )
    attempt = attempt_dir(folder, at.job, at.restart, at.inside)
    for own in (attempt, attempt / EXIT_CODES):
        make_own_folder(own, name="the folder of a job's start")
    if not _settle_lost_attempt(at) or _was_asked_to_stop(at) or _has_reached_its_end(at):
        return None
    if not _avoid_noted_nodes(at, nodes):
        return None
    avoid.note_start(at.folder, at.job, at.facts, jobs_file.read_run(at.run_dir))
    write_environment(attempt / "environment.json", Path(at.facts["code_dir"]), nodes)
    jobs_file.note(
        at.folder, "started", job=at.job, restart=at.restart, inside=at.inside or 0, nodes=list(nodes),
        step=newest_step(at.run_dir),
    )  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{socket.gethostname()}:{probe.getsockname()[1]}"


def end(folder: Path, *, before_training: int | None, walltime: bool) -> int:
    """Finish the run: decide, note, act; prints AGAIN where the script is to start it again. Returns the exit code of the job.

    Args: before_training, the exit code of what came before the ranks, if it failed.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a requeue ends this process, too; Slurm's SIGKILL comes later
    close_new_files()
    at = here(folder)
    ended_by = slurm.why_ending(at.job, at.restart)
    attempt = attempt_dir(folder, at.job, at.restart, at.inside)
    codes = rank_exit_codes(attempt)
    if before_training is None:
        code = run_exit_code(codes, at.num_ranks())
    else:  # a preflight that the end of the job cut short has found nothing
        code = exit_codes.STOPPED if walltime else known_code(before_training)
    records = jobs_file.read_run(at.run_dir)
    this = (at.job, at.restart, at.inside or 0)
    began = next((a for a in reversed(jobs_file.attempts(records)) if (a.job, a.restart, a.inside) == this), None)
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
        room=None if before_training is not None or began is None else _room(at, began, tuple(sick)),
    )
    decision = _decide(at, facts, restarts_inside=at.site.restarts_inside)
    notice = _notice(at, began) if began is not None else ""
    _note(at, this, facts, decision, listed=_list(at, sick), notice=notice)
    try:
        tidy(attempt, codes, good=code in _GOOD)
    except OSError as error:  # no room, perhaps: the chain must continue all the same
        print(f"warning: {attempt} is not tidied up: {error}", file=sys.stderr, flush=True)
    _act(at, decision, is_requeued=ended_by == "requeued by Slurm")
    if decision.action == "restart":
        print(AGAIN)
    return exit_codes.FINISHED if decision.action in ("finish", "hand over") else code


def _room(at: Here, began: jobs_file.Attempt, lost: tuple[str, ...]) -> Room | None:
    """Return the room for another try here; None if the script makes none, or if the nodes that are left are too few."""
    if at.inside is None or (lost and not _can_replace(at, lost)):
        return None
    return room(
        at.run_dir, at.folder / CONFIG, began_s=jobs_file.seconds(began.time_utc), end_s=slurm.end_s(at.job),
        stop_margin_s=at.facts.get("stop_margin_s", at.site.stop_margin_s),
    )  # fmt: skip


def _can_replace(at: Here, lost: tuple[str, ...]) -> bool:
    """Whether this job has spare nodes that can take the place of those that are lost."""
    if not spare_nodes():
        return False
    try:
        return len(set(candidates(at.job, at.run_dir)) - set(lost)) >= num_training_nodes()
    except slurm.SlurmError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)
        return False


def _jobs_waiting(at: Here) -> int:
    """Return the number of waiting jobs; 0 where Slurm does not answer: then this job continues itself, after the
    waiting ones."""
    try:
        return len(slurm.waiting_jobs(at.facts["name"]))
    except slurm.SlurmError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)
        return 0


_GOOD = (exit_codes.FINISHED, exit_codes.STOPPED)
_BLAMES = (exit_codes.CRASH, exit_codes.HANG)
"""Exit codes of an attempt that a node may be to blame for."""


def _sick(at: Here, began: jobs_file.Attempt, codes: dict[int, int], *, in_preflight: bool = False) -> dict[str, str]:
    """Return the nodes of an attempt that are to blame for its end, with reasons."""
    attempt = attempt_dir(at.folder, began.job, began.restart, began.inside)
    lost = slurm.lost_nodes(began.nodes, _local(began.time_utc))
    return sick_nodes(
        attempt=attempt, nodes=began.nodes, codes=codes, ranks_per_node=at.num_ranks(1), lost=lost, preflight=in_preflight
    )  # fmt: skip


def _decide(at: Here, facts: Facts, *, restarts_inside: int = 0) -> Decision:
    """Return the decision after an attempt; a condition that ends the chain counts before what would start it again."""
    why = until.reached(at.run_dir) if facts.exit_code != exit_codes.FINISHED else ""
    if why and decide(facts, max_restarts_without_checkpoint=2**31).action != "stop":
        return Decision(action="finish", reason=why, exclude=facts.lost_nodes)
    return decide(
        facts, max_restarts_without_checkpoint=at.site.max_restarts_without_checkpoint, restarts_inside=restarts_inside
    )


def _notice(at: Here, began: jobs_file.Attempt) -> str:
    return slow_notice(
        at.folder, at.run_dir, at.site, since_unix_s=jobs_file.seconds(began.time_utc), site_name=str(at.facts.get("site") or "")
    )  # fmt: skip


def _list(at: Here, sick: dict[str, str]) -> tuple[str, ...]:
    """Put nodes on the list that other chains read as well. Returns those that are on it."""
    return avoid.list_sick(at.facts, sick, by=f"job {at.job}-{at.restart}", partition=at.partition)


def _local(time_utc: str) -> datetime:
    """Return a time as Slurm prints it: local, without a zone."""
    return datetime.fromtimestamp(jobs_file.seconds(time_utc))


def _note(
    at: Here,
    start: tuple[str, int, int],
    facts: Facts,
    decision: Decision,
    *,
    listed: Sequence[str] = (),
    notice: str = "",
) -> None:
    """Write a decision down, and print it.

    Args:
        start: what it is about: job, restart, and restart inside its allocation.
        listed: nodes of ``exclude`` that are on the list of nodes to avoid.
        notice: what else people should know of the attempt; nothing follows from it.
    """
    job, restart, inside = start
    jobs_file.try_note(
        at.folder, "decided", job=job, restart=restart, inside=inside, action=decision.action, reason=decision.reason,
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
    attempt = attempt_dir(at.folder, last.job, last.restart, last.inside)
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
    # Nobody saw the end. Several nodes that were restarted since are a maintenance rather than bad: only this chain notes them.
    lost = [node for node, why in sick.items() if why == LOST]
    listed = _list(at, {node: why for node, why in sick.items() if why != LOST or len(lost) == 1})
    _note(at, (last.job, last.restart, last.inside), facts, decision, listed=listed)
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
    """Whether a STOP file came while no rank was there to see it, which is then noted."""
    if not stop_came(at.folder, at.run_dir):
        return False
    decision = Decision(action="stop", reason=f"{STOP_FILE}, before this start")
    facts = Facts(exit_code=exit_codes.STOPPED, step_after=newest_step(at.run_dir))
    _note(at, (at.job, at.restart, at.inside or 0), facts, decision)
    _act(at, decision)
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
            nodes, at.facts, records, job=at.job, partition=at.partition, constraint=at.site.constraint
        )
    except slurm.SlurmError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)
        return True
    if spare_nodes():  # ``candidates`` has none of them, unless the others are too few
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
    facts = Facts(exit_code=exit_codes.STOPPED, step_before=step, step_after=step)
    _note(at, (at.job, at.restart, at.inside or 0), facts, decision)
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
            facts = Facts(exit_code=exit_codes.CRASH, step_after=newest_step(at.run_dir))
            _note(at, (at.job, at.restart, at.inside or 0), facts, Decision(action="stop", reason=reason))
