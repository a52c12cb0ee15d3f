"""The trial of an implementation: what is right passes, what is wrong or does not run is named."""

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from fanal.kernels import activations, compiled, cross_entropy, operation_trial, reference, rms_norm, rotary
from fanal.kernels.operation_trial import failure

CPU = torch.device("cpu")


def adamw(
    main: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, *, copy: Tensor, clip: Tensor, **numbers: Any
) -> None:
    """torch's fused update, clipped before it and copied after it."""
    (beta1, beta2), lr = numbers["betas"], numbers["learning_rate"]
    torch.ops.aten._fused_adamw_(
        *([main], [gradient * clip], [exp_avg], [exp_avg_sq], [], [torch.tensor(float(numbers["update"]))]),
        lr=lr, beta1=beta1, beta2=beta2, weight_decay=numbers["weight_decay"], eps=numbers["eps"],
        amsgrad=False, maximize=False,
    )  # fmt: skip
    copy.copy_(main)


OPERATIONS = {
    "rms_norm": rms_norm.rms_norm,
    "swiglu": activations.swiglu,
    "geglu": activations.geglu,
    "squared_relu": activations.squared_relu,
    "rotary": rotary.rotary_qkv,
    "cross_entropy": cross_entropy.vocab_parallel_cross_entropy,
    "adamw": adamw,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_trains_on_a_cpu_passes(name: str, dtype: torch.dtype) -> None:
    assert operation_trial.DEFINITIONS.keys() == OPERATIONS.keys()
    assert failure(name, OPERATIONS[name], CPU, dtype) is None


FAULTS = {
    "a norm without its epsilon": ("rms_norm", lambda x, w, eps, centered: rms_norm.rms_norm(x, w, 0.1, centered)),
    "a gate at the wrong half": ("swiglu", lambda both: activations.swiglu(both.roll(both.shape[-1] // 2, -1))),
    "another gelu": ("geglu", activations.swiglu),
    "a square left out": ("squared_relu", torch.relu),
    "angles of another position": ("rotary", lambda m, table, heads: rotary.rotary_qkv(m, table.roll(1, 1), heads)),
    "a key that is not turned": ("rotary", lambda m, table, heads: _key_as_it_is(m, table, heads)),
    "no cap": (
        "cross_entropy",
        lambda logits, labels, group, *, columns, soft_cap: cross_entropy.vocab_parallel_cross_entropy(
            logits, labels, group, columns=columns
        ),
    ),
    "padding that counts": (
        "cross_entropy",
        lambda logits, labels, group, *, columns, soft_cap: cross_entropy.vocab_parallel_cross_entropy(
            logits, labels, group, soft_cap=soft_cap
        ),
    ),
    "a gradient that is not clipped": ("adamw", lambda *tensors, clip, **rest: adamw(*tensors, clip=clip * 2, **rest)),
    "a decay left out": ("adamw", lambda *tensors, **rest: adamw(*tensors, **{**rest, "weight_decay": 0.0})),
    "the count of another update": (
        "adamw",
        lambda *tensors, update, **rest: adamw(*tensors, update=update + 1, **rest),
    ),
    "a copy of the weights before": (
        "adamw",
        lambda main, *rest, copy, **others: _copied_before(main, *rest, copy=copy, **others),
    ),
}


def _copied_before(main: Tensor, *rest: Tensor, copy: Tensor, **others: Any) -> None:
    before = main.clone()
    adamw(main, *rest, copy=copy, **others)
    copy.copy_(before)


def _key_as_it_is(mixed: Tensor, table: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    query, _, value = rotary.rotary_qkv(mixed, table, heads)
    return query, mixed.unflatten(-1, (heads + 2, -1))[..., heads, :], value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_one_is_off_its_definition(fault: str, dtype: torch.dtype) -> None:
    name, operation = FAULTS[fault]
    found = failure(name, operation, CPU, dtype)
    assert found is not None and "is off the definition by" in found


def test_one_that_does_not_run_is_named_with_its_error() -> None:
    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("no kernel image\nis available")

    assert failure("swiglu", broken, CPU, torch.float32) == (
        "its trial on this device ended with RuntimeError: no kernel image is available"
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
@pytest.mark.parametrize("name", ["rms_norm", "swiglu", "rotary"])
def test_what_torch_compiles_passes(name: str) -> None:
    assert failure(name, compiled.OPERATIONS[name](), CPU, torch.float32) is None


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
@pytest.mark.parametrize("name", ["rms_norm", "swiglu", "rotary"])
def test_what_torch_compiles_keeps_what_torch_s_operation_keeps(name: str) -> None:
    assert _kept_bytes(name, compiled.OPERATIONS[name]()) == _kept_bytes(name, OPERATIONS[name])


def test_a_definition_that_is_not_compiled_keeps_more() -> None:
    assert _kept_bytes("rms_norm", reference.rms_norm) > _kept_bytes("rms_norm", rms_norm.rms_norm)
    assert _kept_bytes("swiglu", compiled._swiglu) > _kept_bytes("swiglu", activations.swiglu)


def _kept_bytes(name: str, operation: Any) -> int:
    """Bytes that an operation keeps for its backward."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    leaves, others = operation_trial._inputs(name, CPU, torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        operation(*leaves, *others)
    return sum(kept.values())
