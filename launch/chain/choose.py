"""Choice of the nodes that train, of a job with spare ones, after preflight. ``job.sbatch`` calls it."""

import os
import sys
from pathlib import Path

from fanal.node_name import node_name
from fanal.ownership import close_new_files
from launch.chain import avoid, jobs_file
from launch.chain.blame import broken_nodes
from launch.chain.spare import candidates, choice, meeting_point, num_training_nodes, preflight_result
from launch.chain.this_job import attempt_dir, here


def choose(folder: Path) -> str:
    """Choose the nodes that train, and note them.

    Returns: HOST:PORT where ranks meet, the nodes with commas between, the script's node, and one that is not, if there is one.
    Raises: PassingError if too few are left.
    """
    close_new_files()
    at = here(folder)
    attempt = attempt_dir(folder, at.job, at.restart, at.inside)
    found = choice(candidates(at.job, at.run_dir), num_training_nodes(), preflight_result(attempt))
    sick = {node: why for node, why in broken_nodes(attempt).items() if node in found.broken}
    listed = avoid.list_sick(at.facts, sick, by=f"job {at.job}-{at.restart}", partition=at.partition)
    jobs_file.note(
        at.folder, "chosen", job=at.job, restart=at.restart, inside=at.inside or 0, nodes=list(found.nodes),
        left_out=list(found.left_out), exclude=list(found.broken), listed=list(listed), reason=found.reason,
    )  # fmt: skip
    others = f"without {', '.join(found.left_out)}: " if found.left_out else ""
    print(f"job {at.job}: trains on {', '.join(found.nodes)}, {others}{found.reason}", file=sys.stderr, flush=True)
    mine = node_name()
    whole = [node for node in (*found.nodes, *found.left_out) if node not in (mine, *found.broken)]
    return " ".join(
        (meeting_point(found.nodes[0], os.environ["FANAL_MEET_AT"]), ",".join(found.nodes), mine, *whole[-1:])
    )
