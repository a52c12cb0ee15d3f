"""Our Triton kernels on a GPU in bf16, which the interpreter of `make kernels` cannot multiply, against their definitions in fp64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fanal.kernels import reference
from fanal.kernels.linear_cross_entropy import linear_cross_entropy
from fanal.kernels.triton.activations import geglu, squared_relu, swiglu
from fanal.kernels.triton.attention import flash_attention
from fanal.kernels.triton.cross_entropy import TRITON
from fanal.kernels.triton.rms_norm import add_rms_norm, rms_norm

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

EPS, VOCABULARY, REAL = 1e-5, 1000, 977
Operation = Callable[..., Any]


def halves(activation: Operation) -> Operation:
    return lambda x: activation(*x.chunk(2, dim=-1))


def labels() -> Tensor:
    return torch.arange(300, device="cuda").view(150, 2) % REAL


def starts() -> Tensor:
    return torch.tensor([0, 1, 130, 300, 400, 600], dtype=torch.int32, device="cuda")


def loss_of(logits: Tensor) -> tuple[Tensor, Tensor]:
    counted = reference.soft_cap(logits[..., :REAL], 30.0)
    return reference.cross_entropy(counted, labels()), counted.logsumexp(-1)


def attention(setting: dict[str, Any], head_size: int) -> tuple[Operation, Operation, list[tuple[int, ...]]]:
    def definition(*qkv: Tensor) -> Tensor:
        return reference.causal_grouped_attention(*qkv, **setting).view(qkv[0].shape)

    shapes = [(300, 2, n, head_size) for n in (8, 2, 2)]
    return lambda *qkv: flash_attention(*qkv, **setting), definition, shapes


CASES: dict[str, Callable[[], tuple[Operation, Operation, list[tuple[int, ...]]]]] = {
    "rms_norm": lambda: (lambda x, w: rms_norm(x, w, EPS), lambda x, w: reference.rms_norm(x, w, EPS), [(150, 2, 999), (999,)]),
    "add_rms_norm": lambda: (
        lambda x, r, w: add_rms_norm(x, r, w, EPS),
        lambda x, r, w: (x + r, reference.rms_norm(x + r, w, EPS)),
        [(150, 2, 1024), (150, 2, 1024), (1024,)],
    ),
    "swiglu": lambda: (swiglu, halves(reference.swiglu), [(150, 2, 3000)]),
    "geglu": lambda: (geglu, halves(reference.geglu), [(150, 2, 3000)]),
    "squared_relu": lambda: (squared_relu, reference.squared_relu, [(150, 2, 1500)]),
    "cross_entropy": lambda: (
        lambda x: TRITON(x + 0, labels(), None, columns=REAL, soft_cap=30.0), loss_of, [(150, 2, VOCABULARY)],
    ),
    "linear_cross_entropy": lambda: (
        lambda h, w: linear_cross_entropy(
            h, w, labels(), None, chunk=128, columns=REAL, soft_cap=30.0, passes=TRITON
        ),
        lambda h, w: loss_of(h @ w.T),
        [(150, 2, 128), (VOCABULARY, 128)],
    ),
    **{f"attention {d}": lambda d=d: attention({}, d) for d in (64, 80, 96, 128, 256)},
    "attention, all": lambda: attention({"document_starts": starts(), "window": 90, "soft_cap": 5.0}, 128),
}  # fmt: skip


def outputs_and_gradients(operation: Operation, tensors: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    found = operation(*leaves)
    outputs: list[Tensor] = [found] if isinstance(found, Tensor) else list(found)
    generator = torch.Generator("cuda").manual_seed(1)
    upstream = [torch.randn(output.shape, generator=generator, device="cuda") for output in outputs]
    torch.autograd.backward(outputs, [g.to(o.dtype) for g, o in zip(upstream, outputs, strict=True)])
    return [*(output.detach() for output in outputs), *(leaf.grad for leaf in leaves)]  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_follow_the_definition_and_are_the_same_bits_again(name: str) -> None:
    pytest.importorskip("triton")
    ours, definition, shapes = CASES[name]()
    torch.manual_seed(0)
    tensors = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in shapes]
    found, again = outputs_and_gradients(ours, tensors), outputs_and_gradients(ours, tensors)
    expected = outputs_and_gradients(definition, [tensor.double() for tensor in tensors])
    for result, repeated, wanted in zip(found, again, expected, strict=True):
        assert torch.equal(result, repeated)
        assert (result.double() - wanted).norm() < 2e-2 * wanted.norm()
