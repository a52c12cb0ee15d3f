"""Causal attention through flash-attn 3 (package flash_attn_interface; Shah et al., 2024, arXiv:2407.08608), for Hopper.

Not yet run on a GPU. The call follows hopper/flash_attn_interface.py of its repository as of 2026; it is compiled, by nvcc.
"""

from torch import Tensor

from fanal.kernels.attention_backend import Backend, Situation, fused_obstacles
from fanal.kernels.flash_packages import FlashFunctions, call_flash, import_functions, package_obstacles

HOPPER = 9
"""First number of the compute capability that it is written for."""


def functions() -> FlashFunctions:
    """Return the package's functions."""
    return import_functions("flash_attn_interface")


def obstacles(situation: Situation) -> list[str]:
    """Return why it cannot run; the package is imported for a GPU alone."""
    found = fused_obstacles(situation, multiple_of=8)
    if situation.capability is not None and situation.capability[0] != HOPPER:
        found.append(f"the GPU is no Hopper ({'.'.join(map(str, situation.capability))}, not 9.0)")
    if situation.device_type != "cuda":
        return found
    return found + package_obstacles("flash_attn_interface", functions(), situation)


def call(query: Tensor, key: Tensor, value: Tensor, *options) -> Tensor:
    """Call flash_attn_interface. [s, b, n, d], [s, b, g, d] twice -> [s, b, n, d]"""
    return call_flash(functions(), -1, query, key, value, *options)


FLASH3 = Backend(name="flash3", obstacles=obstacles, call=call)
