"""What a request for spare nodes must be, and what they cost (launch/chain/spare.py has what a job does with them)."""

from fanal.errors import UserError

SPARE_NODES = "FANAL_SPARE_NODES"
"""Environment variable of a job: nodes that it has beyond those that it trains on; not there in a job without."""


def check_spare_nodes(spare: int, *, gpus_per_node: int | None, most: int) -> None:
    """Refuse a number of spare nodes that no job can have. Args: most: nodes that any machine has beyond those that train.

    Raises: UserError naming the option, its value, the rule and one that works.
    """
    if spare < 0:
        raise UserError(f"--spare-nodes ({spare}) must be at least 0; --spare-nodes 0 works")
    if spare > most:
        raise UserError(
            f"--spare-nodes ({spare}) must not be above {most:,}, more than any machine has; --spare-nodes 1 works"
        )
    if spare and gpus_per_node is not None:
        raise UserError(
            f"--spare-nodes ({spare}) must be 0 with --gpus-per-node ({gpus_per_node}), a part of one node; --spare-nodes 0 works"
        )


def cost_of_spares(spare: int, nodes: int, *, hours: float) -> str:
    """Return what spare nodes cost beside those that train, to end a sentence; empty without. Slurm counts all nodes of a job."""
    idle = (
        f", and {spare} spare node(s), idle for up to {spare * hours:,.1f} of {(nodes + spare) * hours:,.1f} node hours"
    )
    return idle if spare else ""
