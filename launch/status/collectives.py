"""Which rank the others waited for when a run hung, from the flight records that its ranks left (pretrain/train/flight_record.py).

A collective of a group has a number, the same on all of its ranks. A rank that has enqueued fewer of them than its peers is the one
they wait for; where one such rank waits itself, in another group, the rank that it waits for is to blame.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fanal.fields import fit, is_count
from fanal.plain_files import read_plain
from fanal.run_folder import COLLECTIVES_FILE, LOGS_DIR, METRICS_FILE
from fanal.run_progress import newest_metrics

SAME_HANG_S = 60.0
"""Seconds between the records of one hang, at most: its ranks end within seconds. An older one is of an earlier hang."""
SHOWN_RANKS = 8


@dataclass
class Group:
    """A process group as one rank saw it."""

    title: str
    enqueued: int
    completed: int
    names: dict[int, str] = field(default_factory=dict)
    """What the collectives were, by number, as far as the recorder remembers."""


@dataclass
class Record:
    """What one rank's collectives came to."""

    groups: dict[str, Group]
    """By the group's name, which is the same on all of its ranks."""
    ranks: set[int]
    """Every rank that is in a group with this one, where the backend records it: NCCL does."""
    open_messages: int
    """Messages from rank to rank that have not come to their end."""

    @property
    def waits(self) -> bool:
        """Whether anything that was enqueued is not completed."""
        return self.open_messages > 0 or any(group.enqueued > group.completed for group in self.groups.values())


def hang(run_dir: Path) -> str | None:
    """Return a line about the hang that a run ended with; None if it left no records, or has trained since."""
    paths = list((run_dir / LOGS_DIR).glob(COLLECTIVES_FILE.replace("{:05d}", "*")))
    written = {path: path.stat().st_mtime for path in paths}
    newest = max(written.values(), default=0.0)
    metrics = run_dir / METRICS_FILE
    if not written or (metrics.is_file() and metrics.stat().st_mtime > newest + SAME_HANG_S):
        return None
    records = {}
    for path in sorted(path for path, when in written.items() if newest - when <= SAME_HANG_S):
        rank = path.stem.rpartition("-")[2]
        if rank.isascii() and rank.isdigit():
            found = read_record(read_plain(path))
            if found is not None:
                records[int(rank)] = found
    return verdict(records, num_ranks=_num_ranks(run_dir)) if records else None


def _num_ranks(run_dir: Path) -> int:
    """Return the ranks of the newest start; 0 where no record says it: over gloo the flight recorder does not."""
    for record in newest_metrics(run_dir, kinds=("start",)):
        return record["num_ranks"] if fit(record, {"num_ranks": is_count}) else 0
    return 0


def read_record(content: bytes) -> Record | None:
    """Read a flight record, torch's JSON of version 2. None where it is not one."""
    try:
        found = json.loads(content)
        entries = [entry for entry in found.get("entries", []) if isinstance(entry, dict)]
        groups = _groups(found["pg_status"], entries)
        ranks = {
            int(rank)
            for group in found["pg_config"].values()
            for rank in group["ranks"].strip("[] ").split(",")
            if rank.strip()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
    open_messages = sum(
        bool(entry.get("is_p2p")) and not entry.get("retired") and entry.get("state") != "completed"
        for entry in entries
    )
    return Record(groups, ranks, open_messages)


def _groups(status: Mapping[str, Any], entries: list[dict[str, Any]]) -> dict[str, Group]:
    """Return the groups of which the recorder remembers a collective: its status knows them by a number of this rank's own."""
    groups: dict[str, Group] = {}
    for entry in entries:
        name, title = entry["process_group"]
        figures = status[str(entry["pg_id"])]
        group = groups.setdefault(
            str(name),
            Group(
                str(title) or str(name),
                int(figures["last_enqueued_collective"]),
                int(figures["last_completed_collective"]),
            ),
        )
        if not entry["is_p2p"]:
            group.names[int(entry["collective_seq_id"])] = str(entry["profiling_name"])
    return groups


def verdict(records: Mapping[int, Record], *, num_ranks: int = 0) -> str:
    """Return the rank to look at, and why, in one line. Args: num_ranks: of the run, 0 if only the records say it."""
    missing = set(range(num_ranks)).union(*(record.ranks for record in records.values())) - records.keys()
    parts = [f"no record of {_ranks(missing)}, which was frozen or gone" if missing else ""]
    behind = _behind(records)
    # Who waits for nobody is late by itself; the others may be late because they wait.
    late = [found for found in behind if not records[found[0]].waits] or behind
    if late:
        rank, name = late[0]
        group = records[rank].groups[name]
        last = max(record.groups[name].enqueued for record in records.values() if name in record.groups)
        waiting = {
            peer for peer, record in records.items() if name in record.groups and record.groups[name].enqueued == last
        }
        what = next(
            (record.groups[name].names.get(group.enqueued + 1) for record in records.values() if name in record.groups),
            None,
        )
        parts.append(
            f"rank {rank} stands behind: in group {group.title} it has come to collective {group.enqueued} and completed "
            f"{group.completed}, {_ranks(waiting)} came to {last}; it has not begun number {group.enqueued + 1}"
            + (f" ({what})" if what else "")
        )
    elif not missing:
        parts.append(_least_completed(records))
    return "; ".join(part for part in parts if part)


def _behind(records: Mapping[int, Record]) -> list[tuple[int, str]]:
    """Return (rank, group) of each rank that has enqueued fewer collectives of a group than a peer, those furthest behind first."""
    found = []
    for name in sorted({name for record in records.values() for name in record.groups}):
        of_group = {rank: record.groups[name] for rank, record in records.items() if name in record.groups}
        last = max(group.enqueued for group in of_group.values())
        found += [(last - group.enqueued, rank, name) for rank, group in of_group.items() if group.enqueued < last]
    return [(rank, name) for _, rank, name in sorted(found, key=lambda one: (-one[0], one[1]))]


def _least_completed(records: Mapping[int, Record]) -> str:
    """Return the rank that has completed least, where all have enqueued the same: a GPU or a link that hangs."""
    for name in sorted({name for record in records.values() for name in record.groups}):
        of_group = {rank: record.groups[name] for rank, record in records.items() if name in record.groups}
        least = min(group.completed for group in of_group.values())
        ranks = {rank for rank, group in of_group.items() if group.completed == least}
        if len(ranks) < len(of_group):
            title = of_group[min(ranks)].title
            return (
                f"all ranks enqueued the same collectives; of group {title} {_ranks(ranks)} completed least ({least})"
            )
    return "all ranks enqueued and completed the same collectives: the stacks say where they are"


def _ranks(ranks: set[int]) -> str:
    shown = ", ".join(map(str, sorted(ranks)[:SHOWN_RANKS]))
    more = f" and {len(ranks) - SHOWN_RANKS} more" if len(ranks) > SHOWN_RANKS else ""
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}{more}"
