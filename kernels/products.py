"""The three matrix products of a linear layer: its output, and the gradients of its input and of its weight.

They are torch's, but for fp32 on a CPU with AVX-512 that is not Intel's. torch takes Intel's MKL there, which uses AVX-512 on
Intel's own processors alone; oneDNN, which torch brings as well, uses it everywhere. Measured on one core of an AMD EPYC (Zen 5),
torch 2.13.0, 2,048 tokens and the five shapes of a Llama of 26 M parameters: 97 to 111 GFLOP/s with MKL, and with oneDNN 174 to
250 (output), 226 to 261 (gradient of the input), 157 to 236 (gradient of the weight). Both are fp32 throughout; their largest
error against fp64 is 3e-7 to 5e-7 and 7e-7 to 1.3e-6 of the largest result. In bf16 torch takes oneDNN by itself.
"""

import functools
import platform
from pathlib import Path

import torch
from torch import Tensor

CPU_INFO = Path("/proc/cpuinfo")


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply x by the transpose of a weight. [..., i], [o, i] -> [..., o]"""
    return _onednn(x, weight) if _takes_onednn(x, weight) else torch.matmul(x, weight.t())


def input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Compute the gradient of a linear layer's input from that of its output. [..., o], [o, i] -> [..., i]"""
    return _onednn(gradient, weight.t()) if _takes_onednn(gradient, weight) else torch.matmul(gradient, weight)


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Compute the gradient of a linear layer's weight from that of its output and its input. [..., o], [..., i] -> [o, i]"""
    columns, rows = gradient.reshape(-1, gradient.shape[-1]).t(), x.reshape(-1, x.shape[-1])
    return _onednn(columns, rows.t()) if _takes_onednn(columns, rows) else torch.matmul(columns, rows)


def batched(left: Tensor, right: Tensor) -> Tensor:
    """Multiply pairs of matrices. [p, m, k], [p, k, n] -> [p, m, n]"""
    if len(left) == 1 and _takes_onednn(left[0], right[0]):  # it has no form for more than one
        return _onednn(left[0], right[0].t()).unsqueeze(0)
    return torch.bmm(left, right)


def add_weight_gradient(total: Tensor, gradient: Tensor, x: Tensor) -> bool:
    """Add the gradient of a weight to an fp32 sum in one product, where torch can: bf16 and fp16 on CUDA.

    It saves a bf16 copy of the gradient, written and read, and its rounding. Not yet run on a GPU.

    Args: total [o, i], fp32; gradient [..., o]; x [..., i].
    Returns: whether it was added; nothing has changed otherwise.
    """
    if (
        total.dtype != torch.float32
        or x.dtype not in (torch.bfloat16, torch.float16)
        or not _can_widen(x.device, x.dtype)
    ):
        return False
    columns, rows = gradient.reshape(-1, gradient.shape[-1]).t(), x.reshape(-1, x.shape[-1])
    torch.ops.aten.addmm.dtype_out(total, columns, rows, torch.float32, out=total)
    return True


def _takes_onednn(*factors: Tensor) -> bool:
    first = factors[0]
    if first.dtype != torch.float32 or first.device.type != "cpu" or not onednn_is_faster():
        return False
    # With gaps between the rows of a matrix it takes 100 times as long: 64 ms for [128, 64] times [64, 384].
    return all(factor.is_contiguous() or (factor.dim() == 2 and factor.t().is_contiguous()) for factor in factors)


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    """Compute x times the transpose of weight by oneDNN. [..., i], [o, i] -> [..., o]"""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


@functools.cache
def onednn_is_faster() -> bool:
    """Return whether fp32 products go to oneDNN on this machine: decided by what it is, so that every start decides alike."""
    if platform.machine() != "x86_64" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return torch.backends.mkldnn.is_available() and "GenuineIntel" not in _processor()


def _processor() -> str:
    try:
        return CPU_INFO.read_text()[:4096]
    except OSError:  # not Linux
        return platform.processor()


@functools.cache
def _can_widen(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether torch has a product of narrow numbers that adds to fp32: on CUDA, where out_dtype is known and does add up.

    On a GPU it is tried once, on 16 x 16 numbers, which waits for the device: no GPU has confirmed it yet.
    """
    if device.type == "cpu" or not hasattr(torch.ops.aten.addmm, "dtype_out"):
        return False
    if device.type != "cuda":  # the device of a rehearsal has no values to compare
        return True
    total, ones = torch.full((16, 16), 1 / 1024, device=device), torch.ones(16, 16, dtype=dtype, device=device)
    try:
        torch.ops.aten.addmm.dtype_out(total, ones.t(), ones, torch.float32, out=total)
    except RuntimeError:  # this build has it for other types, or for none
        return False
    return bool((total == 16 + 1 / 1024).all())  # in bf16 the sum would be 16
