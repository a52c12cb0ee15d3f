"""Operations that torch compiles from plain definitions: none holds a collective. Off unless asked for (train.compile).

On a CPU the compiler writes C++ and needs a compiler of it, on a GPU it writes Triton. Each is compiled at its first call, for the
shapes of the run. Not yet run on a GPU.
"""

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fanal.errors import UserError
from fanal.kernels.reference import rms_norm, rotary_qkv


def _swiglu(gate_and_up: Tensor) -> Tensor:
    gate, up = gate_and_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _geglu(gate_and_up: Tensor) -> Tensor:
    gate, up = gate_and_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


def _squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _compiler_of(definition: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    return lambda: torch.compile(definition, dynamic=False)


OPERATIONS: dict[str, Callable[[], Callable[..., Any]]] = {
    "rms_norm": _compiler_of(rms_norm),
    "swiglu": _compiler_of(_swiglu),
    "geglu": _compiler_of(_geglu),
    "squared_relu": _compiler_of(_squared_relu),
    "rotary": _compiler_of(rotary_qkv),
}
"""By name, what makes the compiled operation. Their signatures are those of fanal.kernels.rms_norm, activations and rotary."""


def check_compiler(device_type: str) -> None:
    """Refuse to compile where no compiler is. Raises: UserError."""
    compiler = os.environ.get("CXX", "g++")
    if device_type == "cpu" and shutil.which(compiler) is None:
        missing = f"needs a C++ compiler on a CPU, and {compiler!r} is not there"
        raise UserError(f"train.compile (true) {missing}; train.compile=false works")
