"""RMSNorm through Triton, alone and after an addition, against the definition. Shapes: s sequence, b micro batch, h hidden."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fanal.kernels import reference
from fanal.kernels.triton.rms_norm import add_rms_norm, rms_norm
from tests.unit.triton_kernels.against import DTYPES, differences, planted, random, run

EPS = 1e-2  # large enough to be seen where the mean square is one
SIZES = [(1, 1, 64), (7, 3, 127), (3, 2, 256), (5, 1)]


def inputs(*size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return random(*size, dtype=dtype), 1 + random(size[-1], dtype=dtype, seed=1, scale=0.3)


def added(x: Tensor, residual: Tensor, weight: Tensor, zero_centered: bool = False) -> tuple[Tensor, Tensor]:
    """The definition: the sum, and its norm."""
    return x + residual, reference.rms_norm(x + residual, weight, EPS, zero_centered)


@pytest.mark.parametrize("zero_centered", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_the_norm_and_its_gradients_equal_the_definition(
    size: tuple[int, ...], dtype: torch.dtype, zero_centered: bool
) -> None:
    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, EPS, zero_centered)

    def definition(x: Tensor, weight: Tensor) -> Tensor:
        return reference.rms_norm(x, weight, EPS, zero_centered)

    assert not differences(ours, definition, inputs(*size, dtype=dtype))


@pytest.mark.parametrize("zero_centered", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_the_sum_its_norm_and_their_gradients_equal_the_definition(
    size: tuple[int, ...], dtype: torch.dtype, zero_centered: bool
) -> None:
    x, weight = inputs(*size, dtype=dtype)
    # A sum that is exact in any dtype, so that the definition norms the same: both are multiples of 1/8, below 8.
    x, residual = ((8 * t.float()).round().clamp(-60, 60).div(8).to(dtype) for t in (x, random(*size, seed=5)))
    found = differences(
        lambda x, r, w: add_rms_norm(x, r, w, EPS, zero_centered),
        lambda x, r, w: added(x, r, w, zero_centered),
        (x, residual, weight),
    )
    assert not found


def test_rows_that_do_not_lie_in_one_piece_give_the_same_bits() -> None:
    wide, weight = inputs(6, 3, 200, dtype=torch.float32)
    for cut in (wide[..., 10:110], wide[:, 1], wide.transpose(0, 1)[..., :100], wide.permute(2, 1, 0)):
        weight = 1 + random(cut.shape[-1], seed=1, scale=0.3)
        for operation in (lambda x, w: rms_norm(x, w, EPS), lambda x, w: add_rms_norm(x, x, w, EPS)):
            for found, expected in zip(
                run(operation, (cut, weight)),
                run(operation, (cut.clone(memory_format=torch.contiguous_format), weight)),
                strict=True,
            ):
                assert torch.equal(found, expected)


def test_more_rows_than_programs_are_all_summed_and_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanal.kernels.triton.rms_norm.MAX_PROGRAMS", 4)
    tensors = inputs(11, 3, 32, dtype=torch.float32)
    assert not differences(lambda x, w: rms_norm(x, w, EPS), lambda x, w: reference.rms_norm(x, w, EPS), tensors)
    first, second = (run(lambda x, w: rms_norm(x, w, EPS), tensors) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_sum_that_rounds_is_normed_as_it_was_rounded() -> None:
    x, residual, (_, weight) = random(5, 64).half(), random(5, 64, seed=3).half(), inputs(64, dtype=torch.half)
    total, normed = add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(total, x + residual)
    assert torch.equal(normed, rms_norm(total, weight, EPS))


def test_between_forward_and_backward_the_sum_is_held_and_neither_summand() -> None:
    x, residual, weight = (t.requires_grad_() for t in (random(5, 64), random(5, 64, seed=3), random(64)))
    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        total, _ = add_rms_norm(x, residual, weight, EPS)
    assert sorted(t.data_ptr() for t in held if t.numel() == x.numel()) == [total.data_ptr()]
    assert sum(t.numel() for t in held) == x.numel() + 64 + 5


FAULTS = [
    ("no eps", "/ h + eps)", "/ h)"),
    ("the mean over the block, not the row", "tl.sum(x * x, axis=0) / h", "tl.sum(x * x, axis=0) / BLOCK"),
    ("a mask that leaves out the last column", "inside = columns < h\n    x = ", "inside = columns < h - 1\n    x = "),
    ("no mean in the backward", "- x * (inverse_rms * inverse_rms * mean)", ""),
    ("the cube of 1/rms is a square", "(inverse_rms * inverse_rms * mean)", "(inverse_rms * mean)"),
    ("the weight's gradient of unscaled rows", "dw += dy * x * inverse_rms", "dw += dy * x"),
    ("the gradient of the sum is lost", "dx += tl.load(d_total_ptr", "dx += 0 * tl.load(d_total_ptr"),
    ("the residual is lost", "x += tl.load(residual_ptr", "x += 0 * tl.load(residual_ptr"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_fault_in_the_kernel_is_seen(right: str, wrong: str, tmp_path: Path) -> None:
    x, weight = inputs(7, 3, 100, dtype=torch.float32)
    tensors = (x, random(7, 3, 100, seed=5), weight)
    assert not differences(lambda x, r, w: add_rms_norm(x, r, w, EPS), added, tensors)
    with planted("rms_norm", right, wrong, tmp_path):
        assert differences(lambda x, r, w: add_rms_norm(x, r, w, EPS), added, tensors)


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, weight = inputs(3, 2, 6, dtype=torch.float32)
    with pytest.raises(AssertionError, match=r"weight \(5,\) must match the last dim of x \(3, 2, 6\)"):
        rms_norm(x, weight[:5], EPS)
    with pytest.raises(AssertionError, match="must have the same shape"):
        add_rms_norm(x, x[:2], weight, EPS)
    with pytest.raises(AssertionError, match=r"torch\.float64 is not one of"):
        rms_norm(x.double(), weight.double(), EPS)
