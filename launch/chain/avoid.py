"""Avoidance of bad nodes: waiting jobs of every chain that shares a list of nodes are kept off them, as far as they can still run.

Slurm's ExcNodeList of a waiting job is replaced as a whole, and does not say who excluded what. So what was added here is kept
beside the list, apart for each user who shares it (``applied_nodes``): only that is taken away again when a node is allowed or its
entry expires, and never what a user excluded.
"""

import contextlib
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fanal.errors import FanalError
from fanal.files import write_whole
from fanal.ownership import why_not_own
from fanal.run_folder import JOB, LAUNCH_DIR
from fanal.shown import on_one_line
from launch import slurm
from launch.chain import jobs_file
from launch.chain.evaluations import EVALUATE_SCRIPT
from launch.chain.node_list import DEFAULT_HOURS, Entry, edit_list, list_path, locked, read_list, utc_now, write_shared
from launch.chain.script import SCRIPT

MAX_SHARE = 0.25
"""Largest share of a partition's nodes that jobs list by themselves, of which one node may be listed in any case: more is rather a
fault of the run than of so many nodes. People may list more."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of one waiting job."""

    job: str
    folder: Path
    """Its launch folder."""
    trains: bool = True
    """Whether it is one of the chain itself; otherwise it evaluates a checkpoint of the chain's run."""
    kept_off: tuple[Entry, ...] = ()
    """Nodes that it is newly kept off."""
    freed: tuple[str, ...] = ()
    """Nodes that it may use again."""
    left_in: tuple[str, ...] = ()
    """Nodes that are to be avoided and that it could not run without."""

    def words(self) -> str:
        """Return the change, with its reasons, in one line."""
        parts = [f"kept off {entry.node} ({reason_of(entry)})" for entry in self.kept_off]
        parts += [f"may use {', '.join(self.freed)} again"] if self.freed else []
        parts += [f"needs {', '.join(self.left_in)}: no other nodes could take the place"] if self.left_in else []
        return f"job {self.job}: {'; '.join(parts)}"


def reason_of(entry: Entry) -> str:
    """Return why a node is avoided and until when, in one line."""
    until = "for good" if entry.until is None else f"until {entry.until:%Y-%m-%d %H:%M} UTC"
    return f"{on_one_line(entry.reason) or 'no reason given'}, {until}"


def entries_to_obey(path: Path) -> list[Entry]:
    """Return the entries of a list that hold now, the newest last. What cannot be read is said in a warning, and not obeyed."""
    try:
        entries, faults = read_list(path)
    except FanalError as error:
        entries, faults = [], [str(error)]
    for fault in faults:
        print(f"warning: {fault}", file=sys.stderr, flush=True)
    now = utc_now()
    return [entry for entry in entries if entry.holds(now)]


def own_notes(records: Sequence[dict[str, Any]], allowed: Mapping[str, datetime] | None = None) -> list[Entry]:
    """Return the nodes that a chain alone has noted, in no list: those of version 0.1, and of jobs that could not write to one.

    Args: allowed: nodes that a person allowed since, each with the time (``allowed_nodes``).
    """
    notes, allowed = {}, allowed or {}
    for record in jobs_file.since_submission(records):
        if record["event"] in ("chosen", "decided"):
            began = jobs_file.time_of(record["time_utc"])
            for node in record["exclude"]:
                is_allowed = node in allowed and began <= allowed[node]
                if node not in (record.get("listed") or ()) and not is_allowed:
                    notes[node] = Entry(
                        node=node, until=began + timedelta(hours=DEFAULT_HOURS), reason=record.get("reason") or ""
                    )
    return [entry for entry in notes.values() if entry.holds(utc_now())]


def noted_nodes(run_dir: Path) -> set[str]:
    """Return the nodes that a run's jobs are to avoid now, by the list that its chain reads and by its own notes."""
    records = jobs_file.read_run(run_dir)
    try:
        path = list_of_chain(json.loads((run_dir / LAUNCH_DIR / JOB).read_text(encoding="utf-8")))
        entries = nodes_to_avoid(path, records)
    except (FanalError, OSError, ValueError) as error:
        print(f"warning: the list of nodes to avoid is not read: {error}", file=sys.stderr, flush=True)
        entries = {entry.node: entry for entry in own_notes(records)}
    return set(entries)


def nodes_to_avoid(path: Path, records: Sequence[dict[str, Any]]) -> dict[str, Entry]:
    """Return the entries by node that hold now for a chain, by its own notes and by a list, the newest of the list last."""
    return _newest_last([*own_notes(records, allowed_nodes(path)), *entries_to_obey(path)])


def _newest_last(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Return entries by node, each in the place of the node's last one: ``permitted`` drops the first."""
    found: dict[str, Entry] = {}
    for entry in entries:
        found.pop(entry.node, None)
        found[entry.node] = entry
    return found


def list_sick(facts: dict[str, Any], sick: dict[str, str], *, by: str, partition: str) -> tuple[str, ...]:
    """Add nodes to the list of a chain, each with its reason, as many as MAX_SHARE allows. Returns those that are in it now; says
    the others.

    Args: facts: those of job.json.
    Nothing that goes wrong is raised: the chain keeps a note of its own (``own_notes``).
    """
    if not sick:
        return ()
    try:
        path = list_of_chain(facts)
        there = [entry.node for entry in entries_to_obey(path) if entry.by.startswith("job ")]
        nodes = slurm.nodes_of(partition)
        most = max(1, int(len(nodes) * MAX_SHARE))
        room = max(0, most - len(nodes & set(there) - set(sick)))
        listed, others = list(sick)[:room], list(sick)[room:]
        entries = [Entry.beginning_now(node, hours=DEFAULT_HOURS, reason=sick[node], by=by) for node in listed]
        if entries:
            edit_list(path, add=entries)
    except FanalError as error:
        print(f"warning: {', '.join(sick)} cannot be listed for other chains: {error}", file=sys.stderr, flush=True)
        return ()
    for entry in entries:
        print(
            f"{entry.node} is avoided by all chains that read {path}: {reason_of(entry)}", file=sys.stderr, flush=True
        )
    if others:
        print(
            f"warning: {', '.join(others)} not listed in {path}: jobs list at most {most} of {len(nodes)} nodes by themselves; "
            f"`fanal launch nodes --exclude {','.join(others)}` does it",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    return tuple(listed)


def apply_list(path: Path, *, also: Sequence[str] = (), must: str = "") -> list[Change]:
    """Bring the waiting jobs of all chains that share this list in line with it, and say what changed, and which could not be.

    Args:
        also: jobs that count as waiting: those that have just been put back, which Slurm shows otherwise for a while.
        must: a job that is an error, once the others are done, if it could not be brought in line; empty for none.
    Raises: SlurmError if Slurm does not answer, or because of ``must``; UserError or PassingError if what was applied cannot be
        kept.
    """
    with locked(_applied_path(path)):
        queue = slurm.my_queue()
        applied = {job: nodes for job, nodes in applied_nodes(path).items() if job in queue or job in also}
        entries, allowed, changes, left = entries_to_obey(path), allowed_nodes(path), [], {}
        if must:
            left[must] = "Slurm does not show it waiting, with a script of this chain"
        for job, (state, name) in queue.items():
            if not name.startswith("fanal-") or (state != "PENDING" and job not in also):
                continue
            try:
                change = _bring_in_line(path, job, applied, entries, allowed)
            except slurm.SlurmError as error:
                left[job] = str(error)
                continue
            if change:
                left.pop(job, None)
                changes += [change] if change.kept_off or change.freed or change.left_in else []
        _keep_applied(path, applied)
    for change in changes:
        print(change.words(), file=sys.stderr, flush=True)
    for job, reason in left.items():
        if job != must:
            print(f"warning: job {job} is left as it is: {reason}", file=sys.stderr, flush=True)
    if must in left:
        raise slurm.SlurmError(f"job {must} is not kept off the nodes to avoid: {left[must]}")
    return changes


def _bring_in_line(
    path: Path, job: str, applied: dict[str, list[str]], entries: list[Entry], allowed: dict[str, datetime]
) -> Change | None:
    """Keep one job off the nodes that it is to avoid; None if it is not of a chain that reads this list.

    Args: applied: what jobs are kept off by us, to which this one's is added. It is kept before Slurm is asked, too: what a process
        excludes that is killed, or that gets no answer, the next one takes back.
    Raises: SlurmError.
    """
    fields = slurm.job_fields(job)
    chain = _chain_that_reads(path, fields)
    if chain is None:
        return None
    folder, facts = chain
    wanted = _newest_last([*own_notes(jobs_file.read(folder), allowed), *entries])
    ours, current = set(applied.get(job, ())), slurm.excluded_in(fields)
    theirs = current - ours
    usable = slurm.usable_nodes(_field(fields, "Partition"), _field(fields, "Features")) if wanted else set[str]()
    avoided = permitted(wanted, usable - theirs, needed=_needed(fields, facts))
    if theirs | avoided != current:
        applied[job] = sorted(ours | avoided - theirs)
        _keep_applied(path, applied)
        slurm.set_excluded(job, theirs | avoided)
    applied[job] = sorted(avoided - theirs)
    return Change(
        job=job, folder=folder, trains=_script_of(fields).name == SCRIPT,
        kept_off=tuple(wanted[node] for node in sorted(avoided - current)),
        freed=tuple(sorted(current - theirs - avoided)), left_in=tuple(sorted(set(wanted) - avoided - theirs)),
    )  # fmt: skip


def _needed(fields: dict[str, str], facts: dict[str, Any]) -> int:
    """Return how many nodes a job needs: of one that trains and has just lost a node, Slurm counts the others alone."""
    said = int(_field(fields, "NumNodes").partition("-")[0] or 1)
    if _script_of(fields).name != SCRIPT:
        return said
    return max(said, int(facts.get("nodes") or 1) + int(facts.get("spare_nodes") or 0))


def permitted(wanted: Sequence[str] | dict[str, Entry], usable: set[str], *, needed: int) -> set[str]:
    """Return those of the wanted nodes that a job can be kept off, so that it still has as many as it needs. The newest first.

    A node that is not usable now costs it nothing while others suffice. Where they do not, the job needs it, once it is back:
    nobody would take the exclusion away before the entry expires.
    """
    room, avoided = len(usable) - needed, set[str]()
    for node in reversed(list(wanted)):
        if room > 0 or (room == 0 and node not in usable):
            room -= node in usable
            avoided.add(node)
    return avoided


def why_not_on(
    nodes: Sequence[str],
    facts: dict[str, Any],
    records: Sequence[dict[str, Any]],
    *,
    job: str,
    partition: str,
    constraint: str,
) -> str:
    """Return why a job that starts on these nodes must not; empty if none is to be avoided, or if no other could take its place.

    Args: facts: those of job.json; records: those of jobs.jsonl.
    Raises: SlurmError if Slurm does not answer.
    """
    wanted = nodes_to_avoid(list_of_chain(facts), records)
    mine = [node for node in nodes if node in wanted]
    if not mine:
        return ""
    usable = slurm.usable_nodes(partition, constraint) - slurm.excluded_in(slurm.job_fields(job))
    could = permitted(wanted, usable, needed=len(nodes))
    if not could.intersection(mine):
        print(
            f"{', '.join(mine)} is to be avoided; used again, since no other node can take its place", file=sys.stderr
        )
        return ""
    return "; ".join(f"{node} is to be avoided ({reason_of(wanted[node])})" for node in mine if node in could)


def list_of_chain(facts: dict[str, Any]) -> Path:
    """Return the list that a chain reads. Args: facts: those of job.json. Raises: SlurmError, as ``list_path``."""
    return list_path(str(facts.get("nodes_file") or ""))


def note_changes(folder: Path, changes: Sequence[Change]) -> None:
    """Write the changes of a chain's own jobs into its jobs.jsonl, which knows nothing of evaluations."""
    for change in changes:
        if change.folder == folder and change.trains:
            jobs_file.try_note(
                folder, "nodes", job=change.job, kept_off=[entry.node for entry in change.kept_off],
                freed=list(change.freed), left_in=list(change.left_in), reason=change.words(),
            )  # fmt: skip


def note_start(folder: Path, job: str, facts: dict[str, Any], records: Sequence[dict[str, Any]]) -> None:
    """Note the nodes that a job was kept off while it waited, by others: they do not write into this chain's file."""
    try:
        path = list_of_chain(facts)
    except slurm.SlurmError:
        return
    nodes = applied_nodes(path).get(job, [])
    known = {
        node for record in records if record["event"] == "nodes" and record["job"] == job for node in record["kept_off"]
    }
    if new := [node for node in nodes if node not in known]:
        by_node = {entry.node: entry for entry in entries_to_obey(path)}
        why = "; ".join(
            f"{node} ({reason_of(by_node[node]) if node in by_node else 'no longer listed'})" for node in new
        )
        jobs_file.try_note(
            folder, "nodes", job=job, kept_off=new, freed=[], left_in=[], reason=f"kept off {why} by the list {path}"
        )


def applied_nodes(path: Path) -> dict[str, list[str]]:
    """Return the nodes that each job of this user in the queue is kept off by us; none if that is not known."""
    return _lists_in(_old_applied_path(path)) | _lists_in(_applied_path(path))


def _lists_in(path: Path) -> dict[str, list[str]]:
    return {
        job: [node for node in nodes if isinstance(node, str)]
        for job, nodes in _read_object(path).items()
        if isinstance(nodes, list)
    }


def allow(path: Path, nodes: Collection[str]) -> None:
    """Have chains forget what they alone noted of these nodes until now. Their files are not touched: the nodes are kept beside the
    list, each with the time, for as long as such a note holds.

    Raises: UserError or PassingError if that cannot be written.
    """
    now = utc_now()
    with locked(path):
        kept = {node: at for node, at in allowed_nodes(path).items() if now < at + timedelta(hours=DEFAULT_HOURS)}
        times = {node: at.strftime(jobs_file.TIME) for node, at in (kept | dict.fromkeys(nodes, now)).items()}
        write_shared(_allowed_path(path), json.dumps(times, indent=1, sort_keys=True) + "\n")


def allowed_nodes(path: Path) -> dict[str, datetime]:
    """Return the nodes that a person allowed, each with the time; none if that is not known."""
    found = {}
    for node, at in _read_object(_allowed_path(path)).items():
        with contextlib.suppress(ValueError, TypeError):
            found[node] = jobs_file.time_of(at)
    return found


def _read_object(path: Path) -> dict[str, Any]:
    """Return what a file of ours beside the list holds; nothing if it is not there, or was damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep_applied(path: Path, applied: dict[str, list[str]]) -> None:
    """Keep what is applied; that it is nothing, too, of a job that the file of old versions names, since that stays as it is."""
    old = _lists_in(_old_applied_path(path))
    kept = {job: nodes for job, nodes in applied.items() if nodes or job in old}
    if kept != _lists_in(_applied_path(path)):
        write_whole(_applied_path(path), json.dumps(kept, indent=1, sort_keys=True) + "\n")


def _applied_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.applied.{os.geteuid()}.json")


def _old_applied_path(path: Path) -> Path:
    """Return the file of versions that knew one user of a list alone."""
    return path.with_name(f"{path.name}.applied.json")


def _allowed_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.allowed.json")


def _script_of(fields: dict[str, str]) -> Path:
    """Return the script of a job. Of an evaluation Slurm shows the step behind it."""
    command = fields.get("Command", "")
    script, _, step = command.rpartition(" ")
    return Path(script if step.isdecimal() and script.endswith(f"/{EVALUATE_SCRIPT}") else command)


def _chain_that_reads(path: Path, fields: dict[str, str]) -> tuple[Path, dict[str, Any]] | None:
    """Return the launch folder of a job and its job.json, if it is one of a chain that reads this list, or an evaluation of one."""
    script = _script_of(fields)
    if script.name not in (SCRIPT, EVALUATE_SCRIPT):
        return None
    try:
        if why_not_own(script.parent) or why_not_own(script.parent / JOB):
            return None
        facts = json.loads((script.parent / JOB).read_text(encoding="utf-8"))
        return (script.parent, facts) if list_of_chain(facts) == path else None
    except (OSError, ValueError, AttributeError):
        return None


def _field(fields: dict[str, str], name: str) -> str:
    value = fields.get(name, "")
    return "" if value == "(null)" else value
