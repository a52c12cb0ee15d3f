"""The optimizer with AdamW in one pass, beside the same optimizer with torch's update: parameters, masters and moments.

The kernel is interpreted by ``make kernels``; its definition stands in for it everywhere, since what is proved here is the way that
gradients, clipping and copies take through megatron-core's optimizers.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from fanal.errors import UserError
from fanal.kernels import reference
from fanal.kernels.choice import Choice
from pretrain.config.schema import (
    DataConfig,
    KernelsConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    RunConfig,
    TrainConfig,
)
from pretrain.model.gpt import build_model
from pretrain.optim import fused_adamw
from pretrain.optim.optimizer import apply_gradients, build_optimizer, gradient_norm, set_learning_rate
from pretrain.optim.states import num_updates, owned_states, publish_masters
from pretrain.parallel.world import World, open_lone_world

CPU = torch.device("cpu")
RUN = RunConfig(
    run_dir="",
    model=ModelConfig(
        num_layers=1, hidden_size=8, ffn_hidden_size=8, num_attention_heads=2, num_query_groups=1, vocab_size=130
    ),
    data=DataConfig(tokenizer="", seq_length=8),
    parallel=ParallelConfig(device="cpu"),
    optim=OptimConfig(lr=0.1, adam_eps=1e-3),
    train=TrainConfig(train_steps=1, global_batch_size=1, micro_batch_size=1, precision="fp32"),
)  # fmt: skip
Kernel = Callable[..., None]
Numbers = dict[str, torch.Tensor]


def triton_kernel() -> Kernel:
    if find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("triton's interpreter is off: make kernels")
    from fanal.kernels.triton.adamw import adamw_step

    return adamw_step


KERNELS: dict[str, Callable[[], Kernel]] = {"definition": lambda: reference.adamw, "triton": triton_kernel}


@pytest.fixture(autouse=True)
def interpreter() -> None:
    """One of the kernels needs none."""


@pytest.fixture
def world() -> Iterator[World]:
    with open_lone_world():
        yield World(
            rank=0, size=1, device=CPU, tp_rank=0, pp_rank=0, dp_rank=0,
            tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=1,
        )  # fmt: skip


def run_of(precision: Any, *, distributed: bool, clip_grad: float = 1.0) -> RunConfig:
    return replace(
        RUN,
        train=replace(RUN.train, precision=precision),
        parallel=replace(RUN.parallel, use_distributed_optimizer=distributed),
        optim=replace(RUN.optim, clip_grad=clip_grad),
    )


def updated(run: RunConfig, world: World, kernel: Kernel | None) -> Numbers:
    """All numbers after three updates, by name; with torch's update, or in one pass by a kernel."""
    with pytest.MonkeyPatch.context() as patch:
        if kernel is not None:
            patch.setattr(fused_adamw, "choose_with_trial", lambda *_, **__: Choice("triton", "a test"))
            patch.setattr(fused_adamw, "_triton", lambda: kernel)
        model = build_model(run, world)
        optimizer = build_optimizer(run, model)
    generator = torch.Generator().manual_seed(1)
    for rate in (0.03, 0.01, 0.02):
        set_learning_rate(optimizer, rate)
        optimizer.zero_grad()
        for parameter in model[0].parameters():
            gradient: Any = parameter.main_grad  # type: ignore[attr-defined]
            gradient.copy_(torch.randn(parameter.shape, generator=generator))
        apply_gradients(optimizer, gradient_norm(optimizer, world.device))
    assert num_updates(optimizer) == 3
    numbers = {f"parameter {name}": p.detach().clone() for name, p in model[0].named_parameters()}
    for index, owned in enumerate(owned_states(optimizer)):
        numbers |= {f"{name} of {index}": values.clone() for name, values in owned.states.items()}
    return numbers


def differences(found: Numbers, expected: Numbers) -> list[str]:
    """Names of what is not close: masters and moments to fp32's rounding, bf16 parameters to a unit in the last place."""
    assert found.keys() == expected.keys() != set()
    bounds = {torch.float32: 3e-6, torch.bfloat16: 2**-7}  # the interpreter cuts fp32 to bf16
    return [
        name
        for name, values in expected.items()
        if not torch.allclose(
            *(found[name].float(), values.float()), rtol=bounds[values.dtype], atol=bounds[values.dtype] * 0.1
        )
    ]


CASES = {
    f"{precision}, {'distributed' if distributed else 'whole'}": (precision, distributed)
    for precision in ("fp32", "bf16")
    for distributed in (True, False)
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("clip_grad", [0.3, 0.0, 1e6])
def test_one_pass_makes_what_torch_s_update_makes(
    case: tuple[str, bool], kernel: Callable[[], Kernel], clip_grad: float, world: World
) -> None:
    run = run_of(case[0], distributed=case[1], clip_grad=clip_grad)
    assert not differences(updated(run, world, kernel()), updated(run, world, None))


def not_clipped(*tensors: torch.Tensor, clip: torch.Tensor | None, **rest: Any) -> None:
    reference.adamw(*tensors, clip=None, **rest)


def not_copied(*tensors: torch.Tensor, copy: torch.Tensor | None, **rest: Any) -> None:
    reference.adamw(*tensors, copy=None, **rest)


def decayed_everywhere(*tensors: torch.Tensor, weight_decay: float, **rest: Any) -> None:
    reference.adamw(*tensors, weight_decay=0.1, **rest)


def counted_from_zero(*tensors: torch.Tensor, update: int, **rest: Any) -> None:
    reference.adamw(*tensors, update=update + 1, **rest)


@pytest.mark.parametrize("distributed", [True, False])
@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (not_clipped, "exp_avg"),
        (not_copied, "parameter"),
        (decayed_everywhere, "param of"),
        (counted_from_zero, "param of"),
    ],
)
def test_a_fault_in_the_pass_is_seen(fault: Kernel, what: str, distributed: bool, world: World) -> None:
    run = run_of("bf16", distributed=distributed, clip_grad=0.3)
    found = differences(updated(run, world, fault), updated(run, world, None))
    assert any(name.startswith(what) for name in found), found


@pytest.mark.parametrize("distributed", [True, False])
def test_what_a_checkpoint_puts_into_the_masters_still_reaches_the_parameters(
    distributed: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_adamw, "choose_with_trial", lambda *_, **__: Choice("triton", "a test"))
    run = run_of("bf16", distributed=distributed)
    model = build_model(run, world)
    optimizer = build_optimizer(run, model)
    for owned in owned_states(optimizer):
        owned.states["param"].fill_(0.5)
    publish_masters(optimizer, model)
    assert all((parameter == 0.5).all() for parameter in model[0].parameters())


def test_on_a_cpu_the_update_is_torch_s_and_triton_is_refused_with_what_works(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_model(RUN, world)
    with caplog.at_level("INFO", logger="pretrain.optim.fused_adamw"):
        build_optimizer(RUN, model)
    (line,) = caplog.messages
    assert line.startswith("kernels.adamw: torch (the device is 'cpu'")
    with pytest.raises(UserError, match=r"the device is 'cpu'.*'torch'"):
        build_optimizer(replace(RUN, kernels=KernelsConfig(adamw="triton")), model)
    build_optimizer(replace(RUN, kernels=KernelsConfig(adamw="torch")), model)
