"""The name of this machine, as records of a run have it."""

import os
import socket


def host_name() -> str:
    """Return this node's name, as Slurm knows it where Slurm started the process."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
