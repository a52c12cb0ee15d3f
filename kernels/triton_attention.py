"""Causal attention through our own Triton kernels: the one that compiles wherever Triton does. Not yet run on a GPU.

Documents, windows and caps are in its kernels, and rows need no packing; the backward adds up in one order, without atomics, so the
same bits come out each time. Its tiles are chosen to spill nothing, not for time: after the flash-attn packages and torch's own.
"""

from torch import Tensor

from fanal.kernels import choice
from fanal.kernels.attention_backend import MAX_FUSED_HEAD_SIZE, Backend, Situation


def obstacles(situation: Situation) -> list[str]:
    """Return why it cannot run."""
    found = []
    if situation.device_type != "cuda":
        found.append(f"the device is {situation.device_type!r}")
    if not choice.triton_importable():
        found.append("triton is not installed")
    if situation.dtype not in choice.DTYPES:
        found.append(f"the dtype is {situation.dtype}")
    if situation.head_size > MAX_FUSED_HEAD_SIZE:
        found.append(f"the head size is {situation.head_size}, kernels have up to {MAX_FUSED_HEAD_SIZE}")
    return found


def call(query: Tensor, key: Tensor, value: Tensor, *options) -> Tensor:
    """Call our kernels. [q, b, n, d], [s, b, g, d] twice -> [q, b, n, d]"""
    from fanal.kernels.triton.attention import flash_attention  # here, so that a start on a CPU reads none of its files

    return flash_attention(query, key, value, *options)


TRITON = Backend(name="triton", obstacles=obstacles, call=call)
