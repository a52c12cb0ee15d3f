"""Spare nodes: a job is given more nodes than it trains on, and leaves out the sick ones, else the slowest.

Where a node is lost, another takes its place without a wait in the queue. ``begin`` names the candidates, preflight looks at all of
them, and ``choose`` says which ones train. A job with spare nodes is one of ``sbatch --no-kill``: it outlives a node, which Slurm
then takes out of it (sbatch(1); seen with 22.05).
"""

import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fanal.errors import PassingError
from fanal.node_name import node_name
from launch import slurm
from launch.chain.avoid import noted_nodes
from launch.chain.blame import PREFLIGHT_RESULT
from launch.chain.spare_request import SPARE_NODES

PORTS = range(20_000, 30_000)
"""Ports one of which ranks meet at where the first of their nodes is not this one: below those that systems give to clients."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The nodes that train, of those that a job has."""

    nodes: tuple[str, ...]
    left_out: tuple[str, ...]
    broken: tuple[str, ...]
    """Of those left out, the nodes that preflight found broken."""
    reason: str


def spare_nodes() -> int:
    """Return the number of spare nodes that this job was given."""
    return int(os.environ.get(SPARE_NODES) or 0)


def num_training_nodes() -> int:
    """Return how many nodes this job trains on. Slurm's variable has those that it was given, lost ones among them."""
    return int(os.environ["SLURM_JOB_NUM_NODES"]) - spare_nodes()


def candidates(job: str, run_dir: Path) -> tuple[str, ...]:
    """Return the nodes that may train, of those that a job still has: neither sick by what Slurm says now, nor to be avoided;
    where these are too few, noted ones too."""
    there = slurm.allocated_nodes(job)
    sick = set(slurm.lost_nodes(there, datetime.max))
    noted = noted_nodes(run_dir)
    good = [node for node in there if node not in sick | noted]
    more = [node for node in there if node in noted - sick]
    chosen = {*good, *more[: max(0, num_training_nodes() - len(good))]}
    return tuple(node for node in there if node in chosen)


def choice(nodes: Sequence[str], needed: int, found: Mapping[str, Any]) -> Choice:
    """Choose the nodes that train: none that is broken, and then the fastest. What was not measured counts as fast as the others.

    Args: found, the content of PREFLIGHT_RESULT; empty without a preflight.
    Raises: PassingError if too few are left: other nodes may be whole.
    """
    broken = [node for node in nodes if node in found.get("broken", ())]
    whole = [node for node in nodes if node not in broken]
    slower: Mapping[str, float] = found.get("slowdown", {})
    # Of nodes that are as fast, the last ones of the allocation are left out.
    fastest_first = sorted(whole, key=lambda node: (slower.get(node, 1.0), nodes.index(node)))
    if len(whole) < needed:
        raise PassingError(f"{len(whole)} of the job's nodes can train, and {needed} must")
    trains, spare = set(fastest_first[:needed]), fastest_first[needed:]
    said = [f"{node} is broken" for node in broken]
    said += [
        f"{node} is {slower[node]:.3f} times as slow as the others" if node in slower else f"{node} was not measured"
        for node in spare
    ]
    return Choice(
        nodes=tuple(node for node in nodes if node in trains),
        left_out=tuple(node for node in nodes if node not in trains),
        broken=tuple(broken),
        reason="; ".join(said) or "no node is left over",
    )


def preflight_result(attempt: Path) -> dict[str, Any]:
    """Return what preflight found in this attempt; empty if there was none."""
    try:
        return json.loads((attempt / PREFLIGHT_RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def meeting_point(first: str, here: str) -> str:
    """Return where ranks meet: ``here``, HOST:PORT of this node, if it is the first that trains, else a port of the one that is."""
    if first == node_name():
        return here
    return f"{slurm.node_host(first)}:{random.SystemRandom().choice(PORTS)}"
