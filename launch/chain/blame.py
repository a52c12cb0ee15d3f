"""Nodes that are to blame for the end of an attempt, each with the reason: by preflight, by exit codes of ranks, by Slurm."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fanal import exit_codes

PREFLIGHT_RESULT = "preflight.json"
"""File in the folder of an attempt that holds what preflight found."""


def sick_nodes(
    *,
    attempt: Path,
    nodes: Sequence[str],
    codes: Mapping[int, int],
    ranks_per_node: int,
    lost: Sequence[str],
    preflight: bool,
) -> dict[str, str]:
    """Return the nodes to avoid after an attempt that ended badly, with reasons.

    Args:
        nodes: those of the attempt, in the order of their ranks.
        codes: exit codes by rank; a rank that was killed left none.
        lost: nodes that Slurm counts as down, or that were restarted since.
        preflight: whether the attempt ended in its preflight.
    """
    found = dict.fromkeys(lost, "lost: Slurm counts it as down or unwell, or it was restarted while the job ran")
    if preflight:
        return {**broken_nodes(attempt), **found}
    of_node = {
        node: [codes.get(rank) for rank in range(first, first + ranks_per_node)]
        for node, first in zip(nodes, range(0, len(nodes) * ranks_per_node, ranks_per_node), strict=True)
    }
    for node, its_codes in of_node.items():
        if exit_codes.HARDWARE in its_codes:
            rank = nodes.index(node) * ranks_per_node + its_codes.index(exit_codes.HARDWARE)
            found.setdefault(node, f"rank {rank} there ended with exit code {exit_codes.HARDWARE}: its hardware failed")
    silent = [node for node, its_codes in of_node.items() if not any(code is not None for code in its_codes)]
    others = [code for node, its_codes in of_node.items() if node not in silent for code in its_codes]
    # A watchdog is a thread: where none of a node's wrote its code while all others did, the machine itself stands still.
    if len(silent) == 1 and others and set(others) == {exit_codes.HANG}:
        found.setdefault(
            silent[0], f"no rank there left an exit code, while all others ended a hang ({exit_codes.HANG})"
        )
    return found


def broken_nodes(attempt: Path) -> dict[str, str]:
    """Return the nodes that a preflight in this attempt found broken, with what it found; none if there was no preflight."""
    try:
        content: dict[str, Any] = json.loads((attempt / PREFLIGHT_RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    said: dict[str, list[str]] = {node: [] for node in content.get("broken", ())}
    for finding in content.get("findings", ()):
        if finding.get("kind") == "broken" and finding.get("node") in said:
            said[finding["node"]].append(str(finding.get("text")))
    return {node: f"preflight: {'; '.join(texts) or 'broken'}" for node, texts in said.items()}
