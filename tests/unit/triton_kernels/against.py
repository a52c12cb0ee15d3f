"""A kernel against its definition in fp64, and the same with a fault planted in the kernel's source."""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

DEVICE = Path(__file__).parents[3] / "kernels" / "triton" / "device"
BOUND = {torch.float32: 3e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""Relative to the value and to the largest one: some roundings of fp32, else one unit in the last place. Triton's interpreter
cuts fp32 to bf16 where a GPU rounds, and a product of matrices in bf16 is wrong in it (triton 3.7.1): those run in fp16."""
DTYPES = tuple(BOUND)

Operation = Callable[..., Tensor | tuple[Tensor, ...]]


def random(*size: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(size, generator=torch.Generator().manual_seed(seed))).to(dtype)


def run(operation: Operation, inputs: Sequence[Tensor], upstream: Sequence[Tensor] = ()) -> list[Tensor]:
    """The outputs, then the gradients of all inputs. Without upstream gradients: random ones, the same each time."""
    # A view of a leaf keeps its strides, where a clone would lie in one piece.
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    outputs = operation(*leaves)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    upstream = upstream or [random(*output.shape, dtype=output.dtype, seed=90 + i) for i, output in enumerate(outputs)]
    torch.autograd.backward(
        outputs, [gradient.to(output.dtype) for gradient, output in zip(upstream, outputs, strict=True)]
    )
    assert all(leaf.grad is not None for leaf in leaves)
    return [*(output.detach() for output in outputs), *(leaf.grad for leaf in leaves)]  # pyright: ignore[reportReturnType]


def differences(
    operation: Operation,
    definition: Operation,
    inputs: Sequence[Tensor],
    bound: float | None = None,
    floor: float = 0.0,
) -> list[str]:
    """Where the operation's outputs and gradients leave those of the definition, computed in fp64 from the same inputs.

    floor: what the bound is relative to where the definition has less, as in a gradient that is zero because terms cancel.
    """
    narrow = run(operation, inputs)
    upstream = [
        random(*output.shape, dtype=output.dtype, seed=90 + i) for i, output in enumerate(narrow[: -len(inputs)])
    ]
    wide = run(definition, [tensor.double() for tensor in inputs], [gradient.double() for gradient in upstream])
    return [
        f"tensor {i}: {(found.double() - expected).abs().max():.2e} of {expected.abs().max():.2e}"
        for i, (found, expected) in enumerate(zip(narrow, wide, strict=True))
        if not close(found, expected, bound or BOUND[inputs[0].dtype], floor)
    ]


def close(found: Tensor, expected: Tensor, bound: float, floor: float = 0.0) -> bool:
    largest = max(expected.abs().max().item(), floor)
    return torch.allclose(found.double(), expected, rtol=bound, atol=bound * largest)


@contextmanager
def planted(module: str, right: str, wrong: str, folder: Path) -> Iterator[None]:
    """Run with a kernel in which a piece of source that stands there once is another."""
    name = f"fanal.kernels.triton.device.{module}"
    source = (DEVICE / f"{module}.py").read_text()
    assert source.count(right) == 1, f"{right!r} stands {source.count(right)} times in {module}.py"
    path = folder / f"{module}_with_a_fault.py"
    path.write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location(f"{module}_with_a_fault", path)
    assert spec is not None and spec.loader is not None
    faulty = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faulty)
    before = _device_modules()
    sys.modules[name] = faulty
    try:
        yield
    finally:
        # Also what was first imported meanwhile: it may hold a function with the fault.
        for imported in _device_modules():
            del sys.modules[imported]
        sys.modules.update(before)


def _device_modules() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.startswith("fanal.kernels.triton.device.")}
