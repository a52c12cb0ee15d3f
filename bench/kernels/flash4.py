"""flash-attn 4, compiled ahead for a Hopper GPU that is not here: ``make kernels-weekly`` prints a row for each kind of attention.

Through our own call (kernels/flash4_attention.py), forward and backward. It proves that the version of the lock takes our arguments
and compiles with them, and what its kernels take of a GPU. It computes nothing, so it proves neither values nor speed.
"""

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

TARGET = {"CUTE_DSL_ARCH": "sm_90a", "FLASH_ATTENTION_ARCH": "sm_90", "FLASH_ATTENTION_NUM_SMS": "132"}
"""An H100 or H200 with SXM."""
S, BATCH = 4096, 1


class Kind(NamedTuple):
    """One kind of attention that a configuration can ask for."""

    name: str
    heads: int = 32
    groups: int = 8
    head_size: int = 128
    documents: int = 0
    window: int | None = None
    soft_cap: float | None = None
    deterministic: bool = False


KINDS = (
    Kind("causal"),
    Kind("causal, deterministic", deterministic=True),
    Kind("heads of 64", head_size=64),
    Kind("documents", documents=4),
    Kind("documents, deterministic", documents=4, deterministic=True),
    Kind("window", window=1024),
    Kind("window and cap", window=1024, soft_cap=50.0),
)


class _Context(SimpleNamespace):
    """What torch gives an autograd function: its own needs a CUDA that is there."""

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def set_materialize_grads(self, _: bool) -> None: ...

    def mark_non_differentiable(self, *_: Any) -> None: ...


def compiled(kind: Kind) -> tuple[float, float]:
    """Compile forward and backward of one kind, and return the seconds of each."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from fanal.kernels.flash4_attention import FLASH4

    bf16: Any = {"dtype": torch.bfloat16, "device": "cuda"}
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        stack.enter_context(torch.no_grad())
        stack.enter_context(_of_a_gpu(torch.cuda))
        contexts = [stack.enter_context(_recorded(function)) for function in _functions()]
        torch.use_deterministic_algorithms(kind.deterministic)
        query = torch.empty(S, BATCH, kind.heads, kind.head_size, **bf16)
        key, value = (torch.empty(S, BATCH, kind.groups, kind.head_size, **bf16) for _ in range(2))
        starts = torch.empty(kind.documents + 1, dtype=torch.int32, device="cuda") if kind.documents else None
        began = time.perf_counter()
        output = FLASH4.call(query, key, value, None, starts, kind.window, kind.soft_cap)
        between = time.perf_counter()
        assert output.shape == query.shape, f"{kind.name}: {tuple(output.shape)}"
        ((backward, saved),) = [run for runs in contexts for run in runs]
        gradients = backward(saved, torch.empty_like(saved.out), None)
        assert [grad.shape[-2:] for grad in gradients[:3]] == [x.shape[-2:] for x in (query, key, value)], kind.name
        return between - began, time.perf_counter() - between


def _functions() -> list[Any]:
    """Return the package's two autograd functions."""
    from flash_attn.cute import interface  # pyright: ignore[reportMissingImports]

    return [interface.FlashAttnFunc, interface.FlashAttnVarlenFunc]


@contextmanager
def _recorded(function: Any) -> Iterator[list[tuple[Callable[..., Any], _Context]]]:
    """Run an autograd function's forward without autograd, and keep its backward with what that needs."""
    runs: list[tuple[Callable[..., Any], _Context]] = []

    def apply(*arguments: Any) -> Any:
        context = _Context(needs_input_grad=(True,) * len(arguments))
        for tensor in arguments[:3]:
            tensor.requires_grad_()  # which a view made without autograd has not: the forward asks for it
        found = function.forward(context, *arguments)
        context.out = found[0] if isinstance(found, tuple) else found
        runs.append((function.backward, context))
        return found

    with mock.patch.object(function, "apply", apply):
        yield runs


def _of_a_gpu(cuda: Any) -> Any:
    """Answer as torch.cuda with one GPU and a stream that is none."""
    stream = SimpleNamespace(cuda_stream=0)
    return mock.patch.multiple(cuda, current_device=lambda: 0, current_stream=lambda *_, **__: stream)


def taken_from(folder: Path) -> Iterator[str]:
    """Yield what each kernel that was compiled into a folder takes of a thread, and empty it: names come again with every kind."""
    from bench.kernels.ahead import resources

    for cubin in sorted(folder.glob("*.cubin")):
        name = re.search(r"FlashAttention(\w+?)_object", cubin.name)
        assert name, cubin.name
        registers, spilled = resources(cubin)
        yield f"{name[1]} {registers}" + (f", {spilled} bytes spilled" if spilled else "")
        cubin.unlink()


def main() -> None:
    """Print a page. A kind that is refused or does not compile ends it."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(TARGET, CUTE_DSL_KEEP_CUBIN="1", CUTE_DSL_DUMP_DIR=folder)
        print("| attention | forward, s | backward, s | registers of a thread, in kernels not compiled before |")
        print("|---|---|---|---|")
        num_kernels = 0
        for kind in KINDS:
            forward, backward = compiled(kind)
            taken = list(taken_from(Path(folder)))
            num_kernels += len(taken)
            print(f"| {kind.name} | {forward:.1f} | {backward:.1f} | {'; '.join(taken)} |", flush=True)
        assert num_kernels > 2 * len(KINDS), f"{num_kernels} kernels: some were not compiled"


if __name__ == "__main__":
    main()
