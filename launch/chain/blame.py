"""Nodes that are to blame for the end of an attempt, each with the reason: by preflight, by exit codes of ranks, by Slurm."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fanal import exit_codes
from fanal.run_folder import LOGS_DIR
from launch.chain.ranks import FIRST_RANK

PREFLIGHT_RESULT = "preflight.json"
"""File in the folder of an attempt that holds what preflight found."""
LOST = "lost: Slurm counts it as down or unwell, or it was restarted while the job ran"
"""Reason of a node that Slurm blames, where nothing says more."""


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
        nodes: those of the attempt; which ranks ran on each is what it left itself (FIRST_RANK).
        codes: exit codes by rank; a rank that was killed left none.
        lost: nodes that Slurm counts as down, or that were restarted since.
        preflight: whether the attempt ended in its preflight.
    """
    gone = dict.fromkeys(lost, LOST)
    if preflight:
        return {**broken_nodes(attempt), **gone}
    found: dict[str, str] = {}
    of_node = {
        node: {rank: codes.get(rank) for rank in range(first, first + ranks_per_node)}
        for node in nodes
        if (first := _first_rank(attempt / LOGS_DIR / node)) is not None
    }
    for node, its_codes in of_node.items():
        if failed := [rank for rank, code in its_codes.items() if code == exit_codes.HARDWARE]:
            why = f"rank {failed[0]} there ended with exit code {exit_codes.HARDWARE}: its hardware failed"
            found[node] = why
    found = {**gone, **found}
    silent = [node for node, its_codes in of_node.items() if not any(code is not None for code in its_codes.values())]
    others = [code for node, its_codes in of_node.items() if node not in silent for code in its_codes.values()]
    # A watchdog is a thread: where none of a node's wrote its code while all others did, the machine itself stands still.
    if len(silent) == 1 and others and set(others) == {exit_codes.HANG}:
        found.setdefault(
            silent[0], f"no rank there left an exit code, while all others ended a hang ({exit_codes.HANG})"
        )
    return found


def _first_rank(logs: Path) -> int | None:
    """Return the first of the ranks that a node started; None if it did not come as far."""
    try:
        return int((logs / FIRST_RANK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


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
