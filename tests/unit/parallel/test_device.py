"""Every name that the device room patches exists in the pinned megatron-core."""

import importlib
import importlib.metadata
import inspect
import re
from pathlib import Path

import pytest
import torch

from pretrain.parallel import device, device_type

ROOT = Path(__file__).parents[3]


def in_place_of_torch() -> device._TorchStandIn:
    return device._TorchStandIn(device.CudaStandIn(torch.device("cpu")))


def test_megatron_core_is_pinned_and_the_installed_version_is_the_pinned_one() -> None:
    pinned = re.search(r'"megatron-core==([^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert pinned is not None
    assert importlib.metadata.version("megatron-core") == pinned.group(1)


@pytest.mark.parametrize("name", device.MEGATRON_MODULES_THAT_SAY_CUDA)
def test_a_module_given_another_torch_has_one_and_says_cuda(name: str) -> None:
    module = importlib.import_module(name)
    assert "torch" in vars(module)
    assert re.search(r"""torch\.cuda\.|device=["']cuda|\.cuda\(|custom_fwd""", inspect.getsource(module))


def test_the_modules_on_the_list_are_there_once() -> None:
    assert len(set(device.MEGATRON_MODULES_THAT_SAY_CUDA)) == len(device.MEGATRON_MODULES_THAT_SAY_CUDA)


def test_the_functions_and_methods_it_replaces_exist() -> None:
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    assert all(callable(getattr(random, name)) for name in device.RNG_FUNCTIONS)
    assert all(callable(getattr(torch.Tensor, name)) for name in device.TENSOR_METHODS)
    assert all(callable(getattr(torch, name)) for name in device.FACTORIES)


def test_the_stand_in_reads_cuda_as_cpu_and_is_torch_otherwise() -> None:
    stand_in = in_place_of_torch()
    assert stand_in.zeros(2, device="cuda").device.type == "cpu"
    assert stand_in.cuda.current_device() == torch.device("cpu")
    assert stand_in.Tensor is torch.Tensor and stand_in.matmul is torch.matmul
    assert stand_in.zeros(2, device="meta").device.type == "meta", "another device is left as it is"
    assert torch.cuda.current_device is not stand_in.cuda.current_device, "torch itself stays as it is"


def test_every_factory_reads_cuda_as_cpu() -> None:
    stand_in, like = in_place_of_torch(), torch.ones(2)
    arguments = {"full": ((2,), 1.0), "tensor": ([1.0],), "empty_like": (like,), "zeros_like": (like,)}
    for name in device.FACTORIES:
        made = getattr(stand_in, name)(*arguments.get(name, (2,)), device="cuda")
        assert made.device.type == "cpu", name


def test_streams_and_events_of_the_stand_in_do_nothing() -> None:
    cuda = in_place_of_torch().cuda
    with cuda.stream(cuda.Stream()):
        cuda.current_stream().wait_stream(cuda.default_stream())
        cuda.Event().record()
    cuda.synchronize()
    cuda.empty_cache()
    cuda.nvtx.range_push("part")
    cuda.nvtx.range_pop()


def test_the_random_state_of_the_stand_in_is_the_cpu_s() -> None:
    cuda = in_place_of_torch().cuda
    before = torch.get_rng_state()
    try:
        cuda.manual_seed(5)
        state = cuda.get_rng_state("cuda:0")
        drawn = torch.rand(3)
        cuda.set_rng_state(state)
        assert torch.equal(torch.rand(3), drawn)
    finally:
        torch.set_rng_state(before)


def test_a_cpu_has_memory_and_a_name() -> None:
    cpu = torch.device("cpu")
    assert device.device_name(cpu) == "cpu"
    assert 2**25 < device.peak_memory_bytes(cpu) < 2**45, "bytes, not kilobytes"


def test_what_a_gpu_holds_is_what_its_allocator_took_and_what_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (30, 80))  # free, total
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 40)
    assert device.gpu_held_bytes(torch.device("cuda", 0)) == (40, 50)
    assert device.gpu_held_bytes(torch.device("cpu")) is None


def test_asking_for_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"parallel.device \(cuda\) needs a GPU .*; parallel.device=cpu works"):
        device_type.resolve_device("cuda")
    assert device_type.resolve_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_type.resolve_device("auto") == "cuda"
    assert device_type.resolve_device("cpu") == "cpu"
