"""Causal attention through flash-attn 2 (package flash_attn; Dao, 2023, arXiv:2307.08691). Not yet run on a GPU.

Its wheels come from its own release pages, one for each torch and CUDA; elsewhere it is compiled, by nvcc. Windows need version
2.3, deterministic=True 2.4.1, caps 2.6. flash-attn 4 alone leaves a folder of the same name, without its functions.
"""

from fanal.kernels.attention_backend import fused_obstacles
from fanal.kernels.flash_packages import flash_backend

FLASH2 = flash_backend("flash2", "flash_attn", fused_obstacles, everything=-1)
