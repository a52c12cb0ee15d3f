"""Which implementation of an operation runs: our Triton kernel, or torch's operations. Pure; the caller logs the reason, once.

``auto`` takes Triton on CUDA where it is importable and knows the operation, the dtype and the size, else torch. torch's CUDA
builds bring Triton, for NVIDIA as for AMD, whose devices are "cuda" to torch as well.
"""

import importlib.util
from dataclasses import dataclass

import torch

from fanal.errors import UserError

REQUESTS = ("auto", "triton", "torch")
LARGEST: dict[str, int | None] = {
    "rms_norm": 16_384,
    "add_rms_norm": 16_384,
    "swiglu": None,
    "geglu": None,
    "squared_relu": None,
    "rotary": None,
    "cross_entropy": None,
    "adamw": None,
    "attention": 256,
}
"""The operations of fanal.kernels.triton, each with the largest size it takes: hidden for a norm, head size for attention."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Choice:
    """What runs, and why, for the log."""

    backend: str
    reason: str


def choose(
    requested: str,
    operation: str,
    device_type: str,
    dtype: torch.dtype,
    size: int = 0,
    *,
    key: str | None = None,
    importable: bool | None = None,
) -> Choice:
    """Settle the implementation of one operation.

    Args: requested, "auto", "triton" or "torch"; operation, a key of LARGEST; device_type and dtype of its tensors; size, what
        LARGEST speaks of; key, what a person calls it, as in kernels.KEY, None for the operation; importable, whether Triton is,
        None to look.
    Raises: UserError if "triton" is requested where it cannot run, with every reason.
    """
    if requested not in REQUESTS:
        raise UserError(f"unknown choice of kernels {requested!r} for {operation}; known: {', '.join(REQUESTS)}")
    if operation not in LARGEST:
        raise UserError(f"unknown operation {operation!r} in kernels; known: {', '.join(LARGEST)}")
    if requested == "torch":
        return Choice("torch", "as requested")
    obstacles = _obstacles(
        operation, device_type, dtype, size, triton_importable() if importable is None else importable
    )
    if not obstacles:
        return Choice(
            "triton", "as requested" if requested == "triton" else f"{device_type}, {dtype}, triton is importable"
        )
    if requested == "triton":
        raise UserError(
            f"kernels.{key or operation} ('triton') cannot run: {'; '.join(obstacles)}. It needs CUDA, the triton package (torch's "
            f"CUDA builds bring it) and {', '.join(map(str, DTYPES))}; 'torch' (or 'auto') works here"
        )
    return Choice("torch", "; ".join(obstacles))


def device_kind(device: torch.device) -> str:
    """Return the type of device whose kernels run there: CUDA's on all that is no CPU, the device of a rehearsal too."""
    return "cpu" if device.type == "cpu" else "cuda"


def triton_importable() -> bool:
    """Say whether Triton is installed, without importing it."""
    return importlib.util.find_spec("triton") is not None


def _obstacles(operation: str, device_type: str, dtype: torch.dtype, size: int, importable: bool) -> list[str]:
    """Return every reason why the Triton kernel cannot run, so that one message names them all; empty if it can."""
    obstacles = []
    if device_type != "cuda":
        obstacles.append(f"the device is {device_type!r}")
    if not importable:
        obstacles.append("triton is not installed")
    if dtype not in DTYPES:
        obstacles.append(f"the dtype is {dtype}")
    largest = LARGEST[operation]
    if largest is not None and size > largest:
        obstacles.append(f"the size is {size}, and {operation} takes up to {largest:,}")
    return obstacles
