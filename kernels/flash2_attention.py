"""Causal attention through flash-attn 2 (package flash_attn; Dao, 2023, arXiv:2307.08691). Not yet run on a GPU.

Its wheels come from its own release pages, one for each torch and CUDA; elsewhere it is compiled, by nvcc. Windows need version
2.3, deterministic=True 2.4.1, caps 2.6.
"""

from torch import Tensor

from fanal.kernels.attention_backend import Backend, Situation, fused_obstacles
from fanal.kernels.flash_packages import FlashFunctions, call_flash, import_functions, package_obstacles


def functions() -> FlashFunctions:
    """Return the package's functions. flash-attn 4 alone leaves a folder of the same name, without them."""
    return import_functions("flash_attn")


def obstacles(situation: Situation) -> list[str]:
    """Return why it cannot run; the package is imported for a GPU alone."""
    found = fused_obstacles(situation)
    return found if situation.device_type != "cuda" else found + package_obstacles("flash_attn", functions(), situation)


def call(query: Tensor, key: Tensor, value: Tensor, *options) -> Tensor:
    """Call flash_attn. [s, b, n, d], [s, b, g, d] twice -> [s, b, n, d]"""
    return call_flash(functions(), -1, query, key, value, *options)


FLASH2 = Backend(name="flash2", obstacles=obstacles, call=call)
