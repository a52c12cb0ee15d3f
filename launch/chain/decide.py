"""Decision after a job, by the exit codes of its ranks. Pure: facts in, one decision out.

Exit codes: fanal/exit_codes.py. A step's own is never read: it is srun's, for all nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fanal import exit_codes
from launch.chain.inside import Room
from launch.slurm import EndedBy

Action = Literal["finish", "hand over", "restart", "requeue", "stop"]
"""Next action of a chain. finish: the run is complete, cancel the waiting jobs. hand over: the next job of the chain
continues. restart: this job continues now, in its allocation. requeue: this job continues later, under its number.
stop: cancel the waiting jobs and say why; ``launch submit`` continues."""


STOP_FILE, CANCELLED = "a STOP file in the run folder asked for it", "the job was cancelled by hand"
"""Reasons of an end that a person has asked for, or the beginnings of them; lines of jobs.jsonl hold them."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about how an attempt ended: one start of a job, until it ended or was lost."""

    exit_code: int
    """Exit code of the run over all ranks (``run_exit_code``)."""
    said: str = ""
    """Reason that a rank gave (launch/chain/rank_logs.py); empty if nothing is known."""
    asked_by: str = ""
    """Source of a request to stop, in its own words; empty if there was none, or if it could not say."""
    walltime_signal: bool = False
    """Whether the end of the job was near, and the run was told."""
    ended_by: EndedBy = "itself"
    """Cause of the job's end, as Slurm reports it."""
    lost_nodes: tuple[str, ...] = ()
    """Nodes of the job that Slurm counts as down, or that were restarted since."""
    step_before: int = 0
    """Step of the newest complete checkpoint when the attempt started; 0 if there was none."""
    step_after: int = 0
    """Step of the newest complete checkpoint when the attempt ended."""
    restarts_without_checkpoint: int = 0
    """Number of restarts in a row before this attempt that brought no new checkpoint."""
    jobs_waiting: int = 0
    """Number of other jobs of the chain in the queue."""
    room: Room | None = None
    """Room for another try in the allocation; None where there can be none: ranks were not started, or nodes are too few."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Next action of a chain, and the reason for it."""

    action: Action
    reason: str
    restarts_without_checkpoint: int = 0
    exclude: tuple[str, ...] = ()
    """Nodes not to run on again, as long as there are others."""


def run_exit_code(codes: Mapping[int, int], num_ranks: int) -> int:
    """Return one exit code for all ranks: the one that says most.

    Args: codes by rank; a rank that left none was killed, or never started.
    Wrong input and damage are found by every rank or by one, while its peers crash on its silence: so they count first.
    """
    found = set(codes.values())
    for telling in (exit_codes.WRONG_INPUT, exit_codes.DAMAGED, exit_codes.HANG):
        if telling in found:
            return telling
    if len(codes) < num_ranks or not found <= {exit_codes.FINISHED, exit_codes.STOPPED}:
        return exit_codes.CRASH
    return exit_codes.STOPPED if exit_codes.STOPPED in found else exit_codes.FINISHED


def decide(facts: Facts, *, max_restarts_without_checkpoint: int, restarts_inside: int = 0) -> Decision:
    """Decide what happens after an attempt.

    Args: restarts_inside, number of restarts in a row without a new checkpoint that may be made inside an allocation.
    """
    final = _final(facts)
    if final is not None:
        return final
    reason = _why_again(facts)
    progress = facts.step_after > facts.step_before
    count = 0 if progress else facts.restarts_without_checkpoint + 1
    if count >= max_restarts_without_checkpoint:
        return Decision(
            action="stop",
            reason=f"{count} restarts in a row without a new checkpoint (the newest is of step {facts.step_after}); "
            f"the last: {reason}",
            restarts_without_checkpoint=count,
            exclude=facts.lost_nodes,
        )
    if facts.room is not None and count <= restarts_inside and _heals(facts):
        return Decision(
            action="restart" if facts.room.is_enough else "requeue",
            reason=f"{reason}; {facts.room}",
            restarts_without_checkpoint=count,
            exclude=facts.lost_nodes,
        )
    stopped_well = facts.exit_code == exit_codes.STOPPED
    return Decision(
        action="hand over" if stopped_well and facts.jobs_waiting else "requeue",
        reason=reason,
        restarts_without_checkpoint=count,
        exclude=facts.lost_nodes,
    )


def _final(facts: Facts) -> Decision | None:
    """Return the decision after which nothing starts again by itself; None if the attempt ended in another way."""
    if facts.exit_code == exit_codes.FINISHED:
        return Decision(action="finish", reason="the run is complete")
    if facts.exit_code == exit_codes.WRONG_INPUT:
        return Decision(action="stop", reason=f"the input is wrong (exit code 2){_quoted(facts)}")
    if facts.exit_code == exit_codes.DAMAGED:
        return Decision(
            action="stop", reason=f"data or a checkpoint failed verification (exit code 76){_quoted(facts)}"
        )
    if "STOP file" in facts.asked_by:
        return Decision(action="stop", reason=STOP_FILE)
    if facts.ended_by == "cancelled":
        saved = (
            "" if facts.exit_code == exit_codes.STOPPED else f"; its newest checkpoint is of step {facts.step_after}"
        )
        return Decision(action="stop", reason=f"{CANCELLED}{saved}")
    return None


def _heals(facts: Facts) -> bool:
    """Whether the same job can go on at once: the ranks failed, and neither Slurm nor the end of the job is why."""
    return facts.exit_code != exit_codes.STOPPED and facts.ended_by == "itself" and not facts.walltime_signal


def _why_again(facts: Facts) -> str:
    if facts.lost_nodes:
        return f"lost {', '.join(facts.lost_nodes)}"
    if facts.exit_code == exit_codes.STOPPED:
        why = "the end of the job was near" if facts.walltime_signal else facts.asked_by or facts.ended_by
        return f"stopped with a checkpoint of step {facts.step_after} ({why})"
    if facts.ended_by != "itself":
        return f"ended by Slurm ({facts.ended_by})"
    if facts.exit_code == exit_codes.HANG:
        return f"a hang was cut off (exit code 77){_quoted(facts)}"
    return f"a crash (exit code {facts.exit_code})"


def _quoted(facts: Facts) -> str:
    return f": {facts.said}" if facts.said else ""
