"""Our Triton kernels on the device, forward and backward, against their definitions in fp64. Needs torch and triton alone."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.gpu.found import findings_here
from bench.gpu.setting import here
from fanal.kernels import reference
from fanal.kernels.linear_cross_entropy import linear_cross_entropy
from fanal.kernels.triton.activations import geglu, squared_relu, swiglu
from fanal.kernels.triton.adamw import adamw_step
from fanal.kernels.triton.attention import flash_attention
from fanal.kernels.triton.cross_entropy import TRITON
from fanal.kernels.triton.rms_norm import add_rms_norm, rms_norm
from fanal.kernels.triton.rotary import rotary_qkv, rotary_tables

DTYPES = (torch.float32, torch.bfloat16)
EPS, THETA, CAP = 1e-5, 1e4, 30.0
BOUND = {torch.float32: 2e-5, torch.bfloat16: 2**-7}
"""Of the norm of the difference from the definition, as a share of the definition's norm."""
Outputs = Tensor | tuple[Tensor, ...]
Operation = Callable[..., Outputs]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An operation, its definition, and the shapes that it is tried on."""

    name: str
    operation: Operation
    definition: Operation
    shapes: Sequence[Sequence[int]]
    looseness: float = 1.0
    """Of the bounds, where products are rounded before they enter the next one."""


def cases(*, tiny: bool, device: torch.device) -> list[Case]:
    """Return a case of every kernel: sizes of a model on a GPU, which fill no block evenly, or of a test."""
    s, h, f, v, heads, groups, d = (20, 40, 72, 74, 4, 2, 16) if tiny else (1000, 2048, 5632, 32_000, 16, 8, 128)
    labels = torch.randint(0, v - 3, (s, 2), generator=torch.Generator().manual_seed(0)).to(device)
    starts = torch.tensor([0, 5, 6, s // 3, s, s + 3, 2 * s], dtype=torch.int32, device=device)
    qkv = [(s, 2, heads, d), (s, 2, groups, d), (s, 2, groups, d)]

    def attention(name: str, **options: object) -> Case:
        return Case(
            name=name, operation=partial(flash_attention, **options), shapes=qkv, looseness=3.0,  # pyright: ignore[reportArgumentType]
            definition=lambda *qkv: reference.causal_grouped_attention(*qkv, **options).view(qkv[0].shape),
        )  # fmt: skip

    return [
        Case(
            name="rms_norm", shapes=[(s, 2, h), (h,)], operation=lambda x, w: rms_norm(x, w, EPS),
            definition=lambda x, w: reference.rms_norm(x, w, EPS),
        ),
        Case(
            name="add_rms_norm", shapes=[(s, 2, h), (h,)], operation=lambda x, w: add_rms_norm(x, x, w, EPS),
            definition=lambda x, w: (x + x, reference.rms_norm(x + x, w, EPS)),
        ),
        Case(name="swiglu", shapes=[(s, 2, 2 * f)], operation=swiglu, definition=_halves(reference.swiglu)),
        Case(name="geglu", shapes=[(s, 2, 2 * f)], operation=geglu, definition=_halves(reference.geglu)),
        Case(name="squared_relu", shapes=[(s, 2, f)], operation=squared_relu, definition=reference.squared_relu),
        Case(
            name="rotary_qkv", shapes=[(s, 2, groups, (heads // groups + 2) * d)],
            operation=lambda x: rotary_qkv(x, *rotary_tables(_angles(s, d, x.device)), d),
            definition=lambda x: _rotated(x, heads // groups, d),
        ),
        Case(
            name="cross_entropy", shapes=[(s, 2, v)],
            # Not the leaf: the backward writes over what it is given.
            operation=lambda x: TRITON(x + 0, labels, None, columns=v - 3, soft_cap=CAP),
            definition=lambda x: _cross_entropy(x, labels, v - 3),
        ),
        Case(
            name="linear_cross_entropy", shapes=[(s, 2, h), (v, h)], looseness=4.0,
            operation=lambda x, w: linear_cross_entropy(
                x, w * h**-0.5, labels, None, chunk=1024, columns=v - 3, soft_cap=CAP, passes=TRITON
            ),
            definition=lambda x, w: _cross_entropy(x @ (w * h**-0.5).T, labels, v - 3),
        ),
        attention("flash_attention"),
        attention("flash_attention, documents", document_starts=starts),
        attention("flash_attention, window and cap", window=s // 5, soft_cap=CAP),
    ]  # fmt: skip


def differences(case: Case, dtype: torch.dtype, device: torch.device) -> list[float]:
    """Return how far outputs, then gradients, are from the definition: norm of the difference by norm of the definition."""
    generator = torch.Generator().manual_seed(1)
    given = [torch.randn(*shape, generator=generator).to(device, dtype) for shape in case.shapes]
    narrow = [tensor.clone().requires_grad_() for tensor in given]
    wide = [tensor.double().requires_grad_() for tensor in given]
    found, wanted = _several(case.operation(*narrow)), _several(case.definition(*wide))
    upstream = [torch.randn(out.shape, generator=generator).to(device) for out in wanted]
    torch.autograd.backward(found, [gradient.to(out.dtype) for gradient, out in zip(upstream, found, strict=True)])
    rounded = [gradient.to(out.dtype).double() for gradient, out in zip(upstream, found, strict=True)]
    torch.autograd.backward(wanted, rounded)
    pairs = [*zip(found, wanted, strict=True), *((a.grad, b.grad) for a, b in zip(narrow, wide, strict=True))]
    return [_off(a, b) for a, b in pairs]


def adamw_difference(device: torch.device, size: int = 100_003) -> float:
    """Return how far three updates leave the weights from torch's in fp64, relative to how far they moved."""
    generator = torch.Generator().manual_seed(2)
    main, *gradients = (torch.randn(size, generator=generator).to(device) for _ in range(4))
    start, exact = main.double(), main.double().requires_grad_()
    optimizer = torch.optim.AdamW([exact], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False)
    m, v = torch.zeros_like(main), torch.zeros_like(main)
    for number, gradient in enumerate(gradients):
        exact.grad = gradient.double()
        optimizer.step()
        adamw_step(
            main, m, v, gradient, learning_rate=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, update=number + 1
        )
    return float((main.double() - exact.detach()).norm() / (exact.detach() - start).norm())


def main() -> int:
    setting, findings = here(), findings_here()
    device = torch.device(setting.device)
    for case in cases(tiny=setting.tiny, device=device):
        try:
            worst = {dtype: max(differences(case, dtype, device)) for dtype in _dtypes(device)}
        except Exception as error:  # of whatever kind: a kernel that does not run must not hide how the others do
            traceback.print_exc()
            findings.fault(f"{case.name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            continue
        findings.row(
            "largest relative difference of an output or a gradient from the definition",
            {"kernel": case.name, **{str(dtype).removeprefix("torch."): f"{one:.1e}" for dtype, one in worst.items()}},
        )
        for dtype, one in worst.items():
            if not one <= BOUND[dtype] * case.looseness:  # NaN too
                findings.fault(f"{case.name} in {dtype} is off its definition by {one:.1e}")
    off = adamw_difference(device, 1003 if setting.tiny else 100_003)
    findings.note(f"three updates of adamw are off torch's in fp64 by {off:.1e} of how far they go")
    if not off <= 1e-5:
        findings.fault(f"adamw is off torch's by {off:.1e}; 1e-05 is allowed")
    return findings.exit_code()


def _dtypes(device: torch.device) -> Sequence[torch.dtype]:
    """Triton's interpreter multiplies bf16 wrongly (triton 3.7.1): a test on a CPU tries fp32 alone."""
    return DTYPES if device.type == "cuda" else DTYPES[:1]


def _several(outputs: Outputs) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _off(found: Tensor | None, wanted: Tensor | None) -> float:
    assert found is not None and wanted is not None, "every input has a gradient"
    found, wanted = found.detach(), wanted.detach()
    return float((found.double() - wanted).norm() / wanted.norm().clamp(min=1e-30))


def _halves(activation: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return lambda x: activation(*x.chunk(2, dim=-1))


def _angles(s: int, d: int, device: torch.device) -> Tensor:
    return reference.rotary_angles(s, reference.rotary_frequencies(d, THETA, device))


def _rotated(mixed: Tensor, per_group: int, d: int) -> tuple[Tensor, ...]:
    query, key, value = mixed.split([per_group * d, d, d], dim=-1)
    query = query.reshape(*mixed.shape[:2], -1, d)
    return reference.rotary_embedding(query, THETA), reference.rotary_embedding(key, THETA), value


def _cross_entropy(logits: Tensor, labels: Tensor, real: int) -> tuple[Tensor, Tensor]:
    counted = reference.soft_cap(logits[..., :real], CAP)
    return reference.cross_entropy(counted, labels), counted.logsumexp(-1)


if __name__ == "__main__":
    if here().device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before the first kernel imports Triton
    sys.exit(main())
