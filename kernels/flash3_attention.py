"""Causal attention through flash-attn 3 (package flash_attn_interface; Shah et al., 2024, arXiv:2407.08608), for Hopper.

Not yet run on a GPU. The call follows hopper/flash_attn_interface.py of its repository as of 2026; it is compiled, by nvcc.
"""

from fanal.kernels.attention_backend import Situation, fused_obstacles
from fanal.kernels.flash_packages import flash_backend

HOPPER = 9
"""First number of the compute capability that it is written for."""


def obstacles(situation: Situation) -> list[str]:
    """Return why its kernels cannot run."""
    found = fused_obstacles(situation, multiple_of=8)
    if situation.capability is not None and situation.capability[0] != HOPPER:
        found.append(f"the GPU is no Hopper ({'.'.join(map(str, situation.capability))}, not 9.0)")
    return found


FLASH3 = flash_backend("flash3", "flash_attn_interface", obstacles, everything=-1)
