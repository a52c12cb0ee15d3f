"""Watch over the node that a job's script runs on, from another node of a job that outlives a lost node.

Slurm takes a lost node out of a job of ``sbatch --no-kill`` even where the script ran on it, and the job then stays until its end
without a script (seen with 22.05). Whoever sees that puts the job back into the queue, as Slurm would without that option.
``python -m launch.chain.script_node NODE``, in a step of one task.
"""

import sys
import time

from launch import slurm

LOOK_EVERY_S = 60.0
"""Seconds between two questions to Slurm, which answers for all of its users."""


def main(node: str) -> None:
    """Ask until the node is gone, and put the job back; then ask on, since that ends this process."""
    job, _ = slurm.this_job()
    while True:
        time.sleep(LOOK_EVERY_S)
        try:
            there = slurm.allocated_nodes(job)
            if there and node not in there:
                print(
                    f"{node}, where the script of job {job} ran, is lost: back into the queue",
                    file=sys.stderr,
                    flush=True,
                )
                slurm.requeue(job)
        except slurm.SlurmError as error:
            print(f"warning: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
