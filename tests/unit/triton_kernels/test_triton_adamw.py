"""AdamW through Triton, against torch's in fp64, update by update."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fanal.kernels.triton.adamw import adamw_step
from tests.unit.triton_kernels.against import planted, random

SETTINGS = {"betas": (0.9, 0.95), "eps": 1e-3, "weight_decay": 0.1}
RATES = [0.02, 0.01, 0.03]
Update = Callable[[Tensor, int], None]


def gradients(size: int, dtype: torch.dtype) -> list[Tensor]:
    return [random(size, dtype=dtype, seed=10 + i) for i in range(len(RATES))]


def by_torch(size: int, dtype: torch.dtype, clip: float) -> list[Tensor]:
    """Weights and moments after three updates, in fp64."""
    main = random(size, seed=1).double().requires_grad_()
    optimizer = torch.optim.AdamW([main], lr=1.0, **SETTINGS, foreach=False)
    for rate, gradient in zip(RATES, gradients(size, dtype), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        main.grad = gradient.double() * clip
        optimizer.step()
    state = optimizer.state[main]
    return [main.detach(), state["exp_avg"], state["exp_avg_sq"]]


def ours(size: int, dtype: torch.dtype, clip: float | None, copy: torch.dtype | None = None) -> list[Tensor]:
    main, m, v = random(size, seed=1), torch.zeros(size), torch.zeros(size)
    factor = None if clip is None else torch.tensor(clip)
    narrow = None if copy is None else torch.empty(size, dtype=copy)
    for i, (rate, gradient) in enumerate(zip(RATES, gradients(size, dtype), strict=True)):
        adamw_step(main, m, v, gradient, learning_rate=rate, **SETTINGS, update=i + 1, clip=factor, copy=narrow)
    return [main, m, v, *([] if narrow is None else [narrow])]


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(
        torch.allclose(a.double(), b, rtol=2e-6, atol=2e-6 * b.abs().max().item())
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 1000, 1024, 2500])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_three_updates_equal_torchs(size: int, dtype: torch.dtype, clip: float | None) -> None:
    assert equal(ours(size, dtype, clip), by_torch(size, dtype, clip or 1.0))


def test_the_copy_is_the_weight_rounded() -> None:
    main, _, _, copy = ours(1000, torch.float32, 0.3, torch.float16)
    assert torch.equal(copy, main.half())


def test_the_clip_factor_is_read_on_the_device_and_the_tensors_are_marked_as_changed() -> None:
    clip, main, m, v = torch.zeros(1), torch.ones(8), torch.zeros(8), torch.zeros(8)
    before = main._version
    adamw_step(
        main, m, v, torch.ones(8), learning_rate=0.5, betas=(0.9, 0.9), eps=1.0, weight_decay=0.0, update=1, clip=clip
    )
    assert torch.equal(main, torch.ones(8)) and torch.equal(m, torch.zeros(8))  # a factor of zero: no gradient
    assert main._version > before


FAULTS = [
    ("no weight decay", "p = kept * p - rate", "p = p - rate"),
    ("no eps", "root_correction + eps)", "root_correction)"),
    ("eps within the root's correction", "(tl.sqrt_rn(v) / root_correction + eps)", "((tl.sqrt_rn(v) + eps) / root_correction)"),
    ("the clip factor is lost", "g *= tl.load(clip_ptr)", "g *= 1.0"),
    ("the gradient is not squared", "towards_square * (g * g)", "towards_square * g"),
    ("the last weight is left out", "inside = at < n", "inside = at < n - 1"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_fault_in_the_kernel_is_seen(right: str, wrong: str, tmp_path: Path) -> None:
    with planted("adamw", right, wrong, tmp_path):
        assert not equal(ours(100, torch.float32, 0.3), by_torch(100, torch.float32, 0.3))


def test_tensors_that_are_no_flat_shard_are_refused() -> None:
    tensors = [torch.zeros(4, 2) for _ in range(4)]
    with pytest.raises(AssertionError, match="a shard is flat and in one piece"):
        adamw_step(*tensors, learning_rate=0.1, **SETTINGS, update=1)
