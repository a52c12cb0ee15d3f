"""Causal attention through flash-attn 4 (package flash_attn.cute), for Hopper and Blackwell. Not yet run on a GPU.

Its wheel holds no compiled code: kernels are compiled on the first call, in each process, 8 to 20 s each on one CPU of 2026.
The call, and what is refused here, follow interface.py of version 4.0.0b36: a pre-release, whose interface may still change.
"""

from fanal.kernels.attention_backend import Situation, fused_obstacles
from fanal.kernels.flash_packages import flash_backend

BLACKWELL = (10, 11)
"""First numbers of the compute capability of Blackwell's data centre GPUs."""
BLACKWELL_CLIENT = 12
"""The same, of its workstations and cards."""


def obstacles(situation: Situation) -> list[str]:
    """Return why its kernels cannot run."""
    found = fused_obstacles(situation, least=(9, 0), multiple_of=8)  # before Hopper it has no backward
    major = situation.capability[0] if situation.capability is not None else None
    if major in BLACKWELL and 128 < situation.head_size < 256:
        found.append(f"the head size is {situation.head_size}, kernels for this GPU have up to 128, and 256")
    if major in BLACKWELL and situation.head_size == 256 and situation.soft_cap is not None:
        found.append("its backward for heads of 256 takes no cap on the scores on this GPU")
    if major == BLACKWELL_CLIENT and situation.deterministic:
        found.append("it has no deterministic backward for this GPU")
    return found


FLASH4 = flash_backend("flash4", "flash_attn.cute", obstacles, everything=None)
