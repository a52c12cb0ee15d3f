"""Name of this node, as Slurm knows it: nodes are excluded, compared and told apart by it."""

import os
import re
import socket
from collections.abc import Iterator, Mapping

MOST_NODES = 200_000
"""Most names that a list is expanded to; more is no list of nodes."""


def node_name(names: Mapping[str, str] = os.environ) -> str:
    """Return the name of this node.

    slurmd tells it to every process of a job (SLURMD_NODENAME). Where none runs on the nodes, as with ParaStation's psslurm, it is
    the node of the step's list that has this process's number (SLURM_NODEID); outside of jobs it is the host's name.
    """
    if said := names.get("SLURMD_NODENAME"):
        return said
    listed = names.get("SLURM_STEP_NODELIST") or names.get("SLURM_JOB_NODELIST") or ""
    number = names.get("SLURM_NODEID", "")
    if listed and number.isdecimal():
        nodes = expanded(listed)
        if int(number) < len(nodes):
            return nodes[int(number)]
    return socket.gethostname()


def expanded(nodelist: str) -> list[str]:
    """Return the names of a list such as ``n[01-03,7],m1``, as ``scontrol show hostnames`` does; empty if it is none."""
    found: list[str] = []
    for item in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", nodelist):
        for name in _names(item):
            found.append(name)
            if len(found) > MOST_NODES:
                return []
    return found


def _names(item: str) -> Iterator[str]:
    """Yield the names of an item with any number of groups in brackets."""
    before, bracket, rest = item.partition("[")
    group, _, after = rest.partition("]")
    if not bracket:
        yield item
        return
    for part in group.split(","):
        first, _, last = part.partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal()) or int(last) - int(first) > MOST_NODES:
            return
        for number in range(int(first), int(last) + 1):
            for end in _names(after):
                yield f"{before}{number:0{len(first)}}{end}"
