"""Which rank this process is, as torchrun, srun or our own launcher says it. Imports nothing heavy."""

import os


def started_by_launcher() -> bool:
    """Whether torchrun, srun or our own launcher gave this process a rank."""
    return ("RANK" in os.environ and "WORLD_SIZE" in os.environ) or ("SLURM_PROCID" in os.environ and _slurm_tasks() > 1)


def rank_and_size() -> tuple[int, int, int]:
    """(rank, world size, local rank) from torchrun's or Slurm's environment."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
    if started_by_launcher():
        return int(os.environ["SLURM_PROCID"]), _slurm_tasks(), int(os.environ.get("SLURM_LOCALID", "0"))
    return 0, 1, 0


def _slurm_tasks() -> int:
    return int(os.environ.get("SLURM_NTASKS", "1"))
