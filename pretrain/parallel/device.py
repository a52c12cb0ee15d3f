"""Everything that lets megatron-core run on a CPU, in one file. Where CUDA is there, it changes nothing.

megatron-core 0.16.1 writes ``device="cuda"`` and ``torch.cuda.current_device()`` in the modules listed below. On a CPU,
``prepare_device`` gives each of those modules a ``torch`` of its own, which is torch in every name but two kinds:
``torch.cuda`` (stand-ins that do nothing) and the factories (``zeros``, ``tensor``, ...), which read "cuda" as "cpu".
A rehearsal (pretrain/rehearse) puts a device of its own where the CPU is put here.
torch itself stays as it is, so the hot path of PyTorch pays nothing; a ``TorchFunctionMode`` would cost on every call.

Two things cannot be reached that way, being methods: ``Tensor.cuda`` and ``Tensor.type``. They are patched globally.
"""

import contextlib
import functools
import importlib
import inspect
import types
from typing import Any, Literal

import torch
import torch.distributed as dist

from pretrain.parallel.binding import bind_to_gpu

MEGATRON_MODULES_THAT_SAY_CUDA = (
    "megatron.core.distributed.distributed_data_parallel",
    "megatron.core.distributed.param_and_grad_buffer",
    "megatron.core.models.common.embeddings.rotary_pos_embedding",
    "megatron.core.optimizer.clip_grads",
    "megatron.core.optimizer.distrib_optimizer",
    "megatron.core.optimizer.optimizer",
    "megatron.core.pipeline_parallel.p2p_communication",
    "megatron.core.pipeline_parallel.schedules",
    "megatron.core.tensor_parallel.layers",
    "megatron.core.tensor_parallel.mappings",
    "megatron.core.tensor_parallel.random",
    "megatron.core.transformer.transformer_layer",
    "megatron.core.utils",
)
"""Modules on the path of a training run whose global ``torch`` is replaced on a CPU."""

RNG_FUNCTIONS = ("_get_cuda_rng_state", "_set_cuda_rng_state")
"""Functions of megatron.core.tensor_parallel.random that reach into the CUDA generator."""

TENSOR_METHODS = ("cuda", "type")
"""Methods of torch.Tensor patched on a CPU."""

FACTORIES = ("empty", "empty_like", "full", "ones", "tensor", "zeros", "zeros_like", "arange")
"""torch factories whose ``device`` is read as the CPU."""


def prepare_device(device_type: Literal["cuda", "cpu"], local_rank: int) -> torch.device:
    """Make this process's device the current one, and megatron-core ready for it. May be called again."""
    if device_type == "cuda":
        bind_to_gpu(local_rank)
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    put_in_place_of_cuda(CudaStandIn(torch.device("cpu")))
    return torch.device("cpu")


def share_groups() -> None:
    """Have megatron-core make one process group for each set of ranks of this world, and use it under all of its names.

    Of the 18 groups that it makes, most have the same few ranks, and gloo keeps three threads for each, one of which wakes up a
    hundred times a second. NCCL makes nothing before a group is used, and there they stay as they are. Called in every world,
    when ranks have met. Collectives of a group keep their order: one thread of a rank issues all of them.
    """
    parallel_state: Any = importlib.import_module("megatron.core.parallel_state")
    create = inspect.unwrap(parallel_state.create_group)
    made: dict[tuple[int, ...], Any] = {tuple(range(dist.get_world_size())): dist.group.WORLD}

    @functools.wraps(create)
    def create_group(ranks: list[int], *args: Any, **kwargs: Any) -> Any:
        """Every rank asks for every group, so that all agree on which are new."""
        key = tuple(sorted(ranks))
        if key not in made:
            made[key] = create(ranks, *args, **kwargs)
        return made[key]

    parallel_state.create_group = create_group


def keep_groups_apart() -> None:
    """Have megatron-core make its own groups again: what ``share_groups`` made is of the world that this process had before."""
    parallel_state: Any = importlib.import_module("megatron.core.parallel_state")
    parallel_state.create_group = inspect.unwrap(parallel_state.create_group)


def put_in_place_of_cuda(stand_in: "CudaStandIn") -> None:
    """Give megatron-core another ``torch.cuda``, and its device wherever it says "cuda". May be called again."""
    in_place_of_torch = _TorchStandIn(stand_in)
    for name in MEGATRON_MODULES_THAT_SAY_CUDA:
        vars(importlib.import_module(name))["torch"] = in_place_of_torch
    _patch_rng()
    _patch_tensor_methods(stand_in.device)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the largest memory held so far: by tensors on a GPU, by the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def gpu_held_bytes(device: torch.device) -> tuple[int, int] | None:
    """Return what a GPU holds beyond its tensors: (the most that PyTorch's allocator had, fragments included; all that is not free
    now, with CUDA's context, NCCL's buffers and what other processes have). None on a CPU. Asks the driver, waits for no kernel."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return torch.cuda.max_memory_reserved(device), total - free


def device_name(device: torch.device) -> str:
    """Return the marketing name of the GPU, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class _NoStream:
    """Stands in for a CUDA stream or event: a CPU runs in order, so there is nothing to wait for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def wait_stream(self, *args: Any) -> None: ...

    def wait_event(self, *args: Any) -> None: ...

    def record(self, *args: Any) -> None: ...

    def synchronize(self) -> None: ...


class CudaStandIn(types.ModuleType):
    """``torch.cuda`` as megatron-core sees it on a CPU, or on another device that is not CUDA."""

    Stream = Event = _NoStream

    def __init__(self, device: torch.device) -> None:
        super().__init__("torch.cuda")
        self.device = device
        self.nvtx = types.SimpleNamespace(range_push=lambda *_: None, range_pop=lambda *_: None)

    def current_device(self) -> torch.device:
        return self.device

    @staticmethod
    def current_stream(*_: Any) -> _NoStream:
        return _NoStream()

    default_stream = current_stream

    @staticmethod
    def stream(_: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def synchronize(self, *_: Any) -> None: ...

    @staticmethod
    def empty_cache() -> None: ...

    @staticmethod
    def get_rng_state(*_: Any, **__: Any) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, *_: Any, **__: Any) -> None:
        torch.set_rng_state(state)

    @staticmethod
    def manual_seed(seed: int) -> None:
        torch.manual_seed(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)


class _TorchStandIn(types.ModuleType):
    """``torch`` as megatron-core sees it there."""

    def __init__(self, cuda: CudaStandIn) -> None:
        super().__init__("torch")
        self.cuda = cuda
        for name in FACTORIES:
            setattr(self, name, _on(cuda.device, getattr(torch, name)))

    def __getattr__(self, name: str) -> Any:
        value = getattr(torch, name)
        setattr(self, name, value)  # the next look-up is a plain one
        return value


def _on(device: torch.device, factory: Any) -> Any:
    def create(*args: Any, **kwargs: Any) -> torch.Tensor:
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = device
        return factory(*args, **kwargs)

    return create


def _patch_rng() -> None:
    random = importlib.import_module("megatron.core.tensor_parallel.random")

    def get_state(device: Any = "cpu", clone: bool = False, graph_safe: bool = False) -> torch.Tensor:
        return torch.get_rng_state()

    def set_state(new_state: torch.Tensor, device: Any = -1, graph_safe: bool = False) -> None:
        torch.set_rng_state(new_state)

    for name, function in zip(RNG_FUNCTIONS, (get_state, set_state), strict=True):
        setattr(random, name, function)


_torch_type = torch.Tensor.type


def _patch_tensor_methods(device: torch.device) -> None:
    def cuda(self: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self if self.device.type == device.type else self.to(device)

    def cuda_named_type(self: torch.Tensor, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Answer as a CUDA tensor: megatron's optimizer and clipping compare ``type()`` with "torch.cuda.FloatTensor"."""
        if dtype is not None:
            return _torch_type(self, dtype, *args, **kwargs)
        name = _torch_type(self)
        if self.device.type != device.type:
            return name
        return "torch.cuda." + name.rpartition(".")[2]

    torch.Tensor.cuda = cuda  # type: ignore[method-assign]
    torch.Tensor.type = cuda_named_type  # type: ignore[method-assign,assignment]
