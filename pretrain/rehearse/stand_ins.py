"""Everything that stands in for a GPU, in one file: a device, what needs values where there are none, torch's CUDA kernels.

The device is torch's private one, named "fakegpu". Fake tensors on it have a device guard, autograd works, and an operation over
tensors on two devices is refused, none of which a PyTorch without CUDA gives to fake tensors on "cuda". It cannot be taken back:
a process in which ``take_fake_gpu`` was called is good for rehearsals alone.

Most stand-ins are a ``TorchFunctionMode``, which changes torch for a while. What no mode reaches is patched: REPLACED.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim.optimizer import _foreach_supported_types
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration

from fanal.kernels import choice, flash_packages
from fanal.kernels.flash_packages import FlashFunctions, import_functions
from fanal.kernels.triton import launch
from pretrain.parallel.device import CudaStandIn, put_in_place_of_cuda
from pretrain.rehearse import cuda_kernels
from pretrain.rehearse.meter import SYNCHRONIZE, Meter

FAKE_GPU = "fakegpu"
REPLACED = (
    ("torch.nn", "Module.to"),
    ("torch._subclasses.fake_tensor", "FakeTensor.tolist"),
    ("torch.distributed", "all_gather_object"),
    ("torch.optim.optimizer", "_foreach_supported_types"),
)
"""What is patched for good, as (module, name)."""
FUNCTIONS = (
    "torch.tensor",
    "torch.Tensor.pin_memory",
    "torch.Tensor.split",
    "torch.nn.functional.rms_norm",
    "torch.nn.functional.scaled_dot_product_attention",
    "torch.ops.aten._efficient_attention_forward",
)
"""What the mode answers instead of torch."""
OF_OURS = (
    ("fanal.kernels.flash_packages", "import_functions"),
    ("fanal.kernels.triton.launch", "start"),
    ("fanal.kernels.choice", "triton_importable"),
    ("pretrain.model.recompute", "resize"),
)
"""Where our kernels meet packages for a GPU, the flash-attn ones and Triton, and where memory is let go without a tensor's end."""
PRIVATE = (
    ("torch.utils.backend_registration", "_setup_privateuseone_for_python_backend"),
    ("torch._C._distributed_c10d", "FakeProcessGroup"),
    ("torch._C._distributed_c10d", "FakeWork"),
    ("torch._C", "_current_autograd_node"),
    ("torch._subclasses.fake_tensor", "FakeTensorMode"),
    ("torch.utils.flop_counter", "flop_registry"),
)
"""Names that torch does not promise, and that the rehearsal needs."""


def take_fake_gpu() -> torch.device:
    """Give this process a device that is no CPU, for good. May be called again.

    Its backward runs on this thread. Otherwise torch starts one for the device, which drops what it holds of Python's whenever it
    gets to it: at the interpreter's end, when nobody may, it ends the process with SIGABRT.
    """
    if torch._C._get_privateuse1_backend_name() != FAKE_GPU:
        backend_registration._setup_privateuseone_for_python_backend(FAKE_GPU)
    torch.autograd.set_multithreading_enabled(False)
    return torch.device(FAKE_GPU, 0)


class FakeCuda(CudaStandIn):
    """``torch.cuda`` as megatron-core sees it in a rehearsal: it counts where the host would wait for the GPU."""

    def __init__(self, device: torch.device, meter: Meter) -> None:
        super().__init__(device)
        self._meter = meter

    def synchronize(self, *_: Any) -> None:
        self._meter.waited(SYNCHRONIZE)


def put_fake_gpu_in_place_of_cuda(device: torch.device, meter: Meter) -> None:
    """Let megatron-core find the fake GPU where it says "cuda"."""
    put_in_place_of_cuda(FakeCuda(device, meter))


def stand_in_for_packages(requested: str, meter: Meter) -> None:
    """Let kernels be chosen as on a GPU, and be started without one.

    A flash-attn package is there if it is asked for by name, or installed here; Triton is there, as it comes with torch's build for
    CUDA. Its kernels write into memory that is there already, so starting one is counted, and nothing else.
    """
    functions = FlashFunctions(cuda_kernels.flash_attn_func, cuda_kernels.flash_attn_varlen_func)

    def found(package: str) -> FlashFunctions:
        real = import_functions(package)
        return functions if requested in _FLASH.get(package, ()) or real.dense is not None else real

    flash_packages.import_functions = found
    launch.start = meter.started
    choice.triton_importable = lambda: True


_FLASH = {"flash_attn.cute": ("flash4", "flash"), "flash_attn_interface": ("flash3",), "flash_attn": ("flash2",)}
"""Packages, and the values of model.attention_backend that ask for them first."""


_OF_THE_GPU = (
    torch.nn.functional.rms_norm,
    torch.nn.functional.scaled_dot_product_attention,
    torch.ops.aten._efficient_attention_forward,
)
"""Functions that a CPU has in a form of its own."""


class LikeCuda(TorchFunctionMode):
    """Answers as PyTorch with CUDA would, for tensors on the fake GPU; makes fake tensors of numbers for any device."""

    def __init__(self) -> None:
        super().__init__()
        self._answers: dict[Any, Callable[..., Any]] = {
            torch.tensor: _tensor,
            torch.Tensor.pin_memory: lambda tensor: tensor,
            torch.Tensor.split: _split,
            torch.nn.functional.rms_norm: cuda_kernels.rms_norm,
            torch.nn.functional.scaled_dot_product_attention: cuda_kernels.scaled_dot_product_attention,
            torch.ops.aten._efficient_attention_forward: cuda_kernels.efficient_attention_forward,
        }
        assert len(self._answers) == len(FUNCTIONS), "FUNCTIONS names them all"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = self._answers.get(func)
        if answer is None or (func in _OF_THE_GPU and args[0].device.type != FAKE_GPU):
            return func(*args, **kwargs)
        return answer(*args, **kwargs)


def _tensor(data: Any, *, device: Any = None, requires_grad: bool = False, **kwargs: Any) -> torch.Tensor:
    """Make a tensor of numbers on the host and copy it to its device, as torch does; tensors among the numbers are read."""
    made = torch.tensor(_numbers(data), **kwargs)
    moved = made if device is None else made.to(device)
    return moved.requires_grad_(requires_grad)


def _split(tensor: torch.Tensor, split_size: Any, dim: int = 0) -> Sequence[torch.Tensor]:
    """Split a tensor, evenly where the sizes are numbers that a fake tensor read (``_tolist``): documents on a CPU."""
    if isinstance(split_size, list | tuple) and sum(split_size) != tensor.shape[dim]:
        return tensor.tensor_split(len(split_size), dim)
    return torch.functional.split(tensor, split_size, dim)  # type: ignore[no-any-return]


def _numbers(data: Any) -> Any:
    if isinstance(data, FakeTensor) and data.dim() == 0:
        return data.item()
    return [_numbers(one) for one in data] if isinstance(data, list | tuple) else data


def replace_what_needs_values() -> None:
    """Patch what no mode reaches, for good. May be called again."""
    torch.nn.Module.to = _module_to  # type: ignore[method-assign,assignment]
    FakeTensor.tolist = _tolist  # type: ignore[method-assign]
    dist.all_gather_object = _all_gather_object
    if FakeTensor not in _foreach_supported_types:
        _foreach_supported_types.append(
            FakeTensor
        )  # torch's optimizers choose by the type of tensors, and by their device


def _tolist(self: FakeTensor) -> Any:
    """Read one number for all: a real tensor is copied to the host whole, and a fake one reads its numbers one by one."""
    one = self.flatten()[0].item() if self.numel() else 0
    return np.full(tuple(self.shape), one).tolist()


def _module_to(self: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Move the parameters of a module, as ``Module.to(device)``: torch has no way to do it with fake ones."""
    for module in self.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.device.type != device.type:
                moved = torch.nn.Parameter(parameter.detach().to(device), requires_grad=parameter.requires_grad)
                for mark in (
                    vars(parameter).keys() - vars(moved).keys()
                ):  # megatron-core's: what is split, what is shared
                    setattr(moved, mark, getattr(parameter, mark))
                module._parameters[name] = moved
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device.type != device.type:
                module._buffers[name] = buffer.to(device)
    return self


def _all_gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
    """Gather objects from ranks that are not there: they have what this one has. torch sends bytes, which fake tensors have not."""
    object_list[:] = [obj] * len(object_list)


def missing(names: Sequence[tuple[str, str]] = (*REPLACED, *PRIVATE)) -> list[str]:
    """Return which of the names above this PyTorch does not have."""
    gone = []
    for module, name in names:
        at: Any = importlib.import_module(module)
        for part in name.split("."):
            at = getattr(at, part, None)
        if at is None:
            gone.append(f"{module}.{name}")
    return gone
