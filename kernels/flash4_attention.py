"""Causal attention through flash-attn 4 (package flash_attn.cute), for Hopper and Blackwell. Not yet run on a GPU.

Its wheel holds no compiled code: kernels are compiled on the first call, in each process, 8 to 20 s each on one CPU of 2026.
The call, and what is refused here, follow interface.py of version 4.0.0b36: a pre-release, whose interface may still change.
"""

from torch import Tensor

from fanal.kernels.attention_backend import Backend, Situation, fused_obstacles
from fanal.kernels.flash_packages import FlashFunctions, call_flash, import_functions, package_obstacles

BLACKWELL = (10, 11)
"""First numbers of the compute capability of Blackwell's data centre GPUs."""
BLACKWELL_CLIENT = 12
"""The same, of its workstations and cards."""


def functions() -> FlashFunctions:
    """Return the package's functions."""
    return import_functions("flash_attn.cute")


def obstacles(situation: Situation) -> list[str]:
    """Return why it cannot run; the package is imported for a GPU alone."""
    found = fused_obstacles(situation, least=(9, 0), multiple_of=8)  # before Hopper it has no backward
    major = situation.capability[0] if situation.capability is not None else None
    if major in BLACKWELL and 128 < situation.head_size < 256:
        found.append(f"the head size is {situation.head_size}, kernels for this GPU have up to 128, and 256")
    if major in BLACKWELL and situation.head_size == 256 and situation.soft_cap is not None:
        found.append("its backward for heads of 256 takes no cap on the scores on this GPU")
    if major == BLACKWELL_CLIENT and situation.deterministic:
        found.append("it has no deterministic backward for this GPU")
    if situation.device_type != "cuda":
        return found
    return found + package_obstacles("flash_attn.cute", functions(), situation)


def call(query: Tensor, key: Tensor, value: Tensor, *options) -> Tensor:
    """Call flash_attn.cute. [s, b, n, d], [s, b, g, d] twice -> [s, b, n, d]"""
    return call_flash(functions(), None, query, key, value, *options)


FLASH4 = Backend(name="flash4", obstacles=obstacles, call=call)
