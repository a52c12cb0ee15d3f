"""The output layer with its cross entropy in chunks, against the definition, and over two processes."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fanal.kernels import reference
from fanal.kernels.cross_entropy import Passes
from fanal.kernels.linear_cross_entropy import linear_cross_entropy
from fanal.kernels.triton.cross_entropy import TRITON
from tests.unit.triton_kernels.against import differences, planted, random, run

HIDDEN, VOCABULARY, REAL, CAP = 24, 74, 61, 5.0
BOUND = {torch.float32: 5e-6, torch.float16: 2**-8, torch.bfloat16: 2**-5}
"""In two bytes the logits are rounded before they enter the softmax; the interpreter cuts bf16, where a GPU rounds."""


def inputs(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor]:
    hidden, weight = random(7, 3, HIDDEN, dtype=dtype), random(VOCABULARY, HIDDEN, dtype=dtype, seed=1, scale=0.5)
    labels = torch.randint(0, REAL, (7, 3), generator=torch.Generator().manual_seed(0))
    labels.view(-1)[:4] = torch.tensor([0, 36, 37, REAL - 1])
    return [hidden, weight], labels


def ours(labels: Tensor, chunk: int = 4, group: dist.ProcessGroup | None = None, passes: Passes = TRITON) -> Callable:
    def compute(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        first = 0 if group is None else group.rank() * len(weight)
        options = {"columns": min(REAL - first, len(weight)), "soft_cap": CAP, "passes": passes}
        return linear_cross_entropy(hidden, weight, labels, group, chunk=chunk, **options)

    return compute


def definition(labels: Tensor) -> Callable:
    def compute(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        logits = reference.soft_cap((hidden @ weight.T)[..., :REAL], CAP)
        return reference.cross_entropy(logits, labels), logits.logsumexp(-1)

    return compute


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("chunk", [1, 4, 21, 100])
def test_both_outputs_and_both_gradients_equal_the_definition(chunk: int, dtype: torch.dtype) -> None:
    tensors, labels = inputs(dtype)
    assert not differences(ours(labels, chunk), definition(labels), tensors, BOUND[dtype])


def test_no_more_than_a_chunk_of_logits_is_there() -> None:
    tensors, labels = inputs()
    sizes: list[int] = []
    counted = Passes(
        *(
            lambda logits, *rest, f=right: sizes.append(len(logits)) or f(logits, *rest)
            for right in (TRITON.statistics, TRITON.over_logits)
        )
    )
    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        run(ours(labels, passes=counted), tensors)
    assert sizes == 2 * [4, 4, 4, 4, 4, 1]
    assert sum(t.numel() for t in held) == sum(t.numel() for t in tensors) + 2 * labels.numel()


def one_of_two(rank: int, folder: Path) -> None:
    """What one of two processes computes from its half of the weight."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    (hidden, weight), labels = inputs()
    torch.save(run(ours(labels, group=dist.group.WORLD), [hidden, weight.chunk(2)[rank]]), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=one_of_two, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    tensors, labels = inputs()
    loss, log_sum_exp, d_hidden, d_weight = run(ours(labels), tensors)
    for one, other, alone in zip(first[:2], second[:2], (loss, log_sum_exp), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, alone, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(first[2] + second[2], d_hidden, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([first[3], second[3]]), d_weight, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(first[2], d_hidden, rtol=1e-5, atol=1e-5)  # planted fault: one part is not the sum


def test_a_fault_in_the_kernel_is_seen(tmp_path: Path) -> None:
    tensors, labels = inputs()
    with planted("cross_entropy", "(g_loss + g_log_sum_exp)", "(g_loss)", tmp_path):
        assert differences(ours(labels), definition(labels), tensors, BOUND[torch.float32])
