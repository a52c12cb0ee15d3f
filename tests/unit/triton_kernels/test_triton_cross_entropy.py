"""The cross entropy through Triton, against its definition, and over two processes. Shapes: s, b micro batch, v vocabulary, t ranks."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from fanal.kernels import cross_entropy, reference
from fanal.kernels.triton.cross_entropy import TRITON
from tests.unit.triton_kernels.against import DTYPES, differences, planted, random, run

VOCABULARY, REAL, CAP = 74, 61, 5.0
SETTINGS = [(None, None), (REAL, None), (None, CAP), (REAL, CAP)]


def inputs(dtype: torch.dtype, size: tuple[int, int] = (7, 3)) -> tuple[Tensor, Tensor]:
    """Logits with one that exp overflows on, and labels at both ends of what counts."""
    logits = random(*size, VOCABULARY, scale=4)
    logits[0, 0, 3] = 300.0
    labels = torch.randint(0, REAL, size, generator=torch.Generator().manual_seed(0))
    labels.view(-1)[:4] = torch.tensor([0, 36, 37, REAL - 1])[: labels.numel()]
    return logits.to(dtype), labels


def ours(labels: Tensor, real: int | None, cap: float | None, group: dist.ProcessGroup | None = None) -> Callable:
    def compute(logits: Tensor) -> tuple[Tensor, Tensor]:
        width = logits.shape[-1]
        first = 0 if group is None else group.rank() * width
        columns = None if real is None else min(max(real - first, 0), width)
        # Not the leaf: the backward writes over what it is given.
        return TRITON(logits + 0, labels, group, columns=columns, soft_cap=cap)

    return compute


def definition(labels: Tensor, real: int | None, cap: float | None) -> Callable:
    def compute(logits: Tensor) -> tuple[Tensor, Tensor]:
        counted = logits[..., :real]
        counted = counted if cap is None else reference.soft_cap(counted, cap)
        return reference.cross_entropy(counted, labels), counted.logsumexp(-1)

    return compute


@pytest.mark.parametrize(("real", "cap"), SETTINGS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(7, 3), (1, 1)])
def test_both_outputs_and_the_gradient_equal_the_definition(
    size: tuple[int, int], dtype: torch.dtype, real: int | None, cap: float | None
) -> None:
    logits, labels = inputs(dtype, size)
    assert not differences(ours(labels, real, cap), definition(labels, real, cap), [logits])
    if real is not None:
        *_, gradient = run(ours(labels, real, cap), [logits])
        assert (gradient[..., real:] == 0).all() and (gradient[..., :real] != 0).any()


def test_a_vocabulary_of_several_blocks_equals_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("FORWARD_LANES", 4), ("BACKWARD_BLOCK", 16)):
        monkeypatch.setattr(f"fanal.kernels.triton.cross_entropy.{name}", size)
    logits, labels = inputs(torch.float32)
    for real, cap in SETTINGS:
        assert not differences(ours(labels, real, cap), definition(labels, real, cap), [logits])


def test_outputs_are_those_of_the_version_that_trains_today() -> None:
    logits, labels = inputs(torch.bfloat16)
    found, expected = ours(labels, None, None)(logits), cross_entropy.TORCH(logits, labels, None)
    for tensor, other in zip(found, expected, strict=True):
        assert tensor.dtype == other.dtype and tensor.shape == other.shape
        torch.testing.assert_close(tensor, other, rtol=1e-6, atol=1e-5)


def test_logits_that_do_not_lie_in_one_piece_give_the_same_bits() -> None:
    logits, labels = inputs(torch.float32)
    expected = run(ours(labels, REAL, CAP), [logits])
    for apart in (lambda x: F.pad(x, (10, 3))[..., 10:-3], lambda x: torch.stack([x, x], dim=-1)[..., 0]):
        found = run(lambda x, f=apart: TRITON(f(x), labels, None, columns=REAL, soft_cap=CAP), [logits])
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_logits_are_held_and_nothing_else_of_their_size_and_a_second_backward_is_refused() -> None:
    logits, labels = inputs(torch.bfloat16)
    given, held = logits.requires_grad_() + 0, []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        TRITON(given, labels, None)
    assert [t.data_ptr() for t in held if t.numel() == logits.numel()] == [given.data_ptr()]
    loss, _ = TRITON(given, labels, None)
    other, _ = TRITON(given, labels, None)
    loss.sum().backward(retain_graph=True)
    with pytest.raises(AssertionError, match="there is no second one"):
        loss.sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        other.sum().backward()


def one_of_two(rank: int, folder: Path) -> None:
    """What one of two processes computes from its half of the columns, the last of which pad the vocabulary."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = []
    for real, cap in [*SETTINGS, (37, None)]:  # 37: the second rank has padding alone
        logits, labels = inputs(torch.float32)
        half = logits.chunk(2, dim=-1)[rank].contiguous()
        results.append(run(ours(labels % (real or VOCABULARY), real, cap, dist.group.WORLD), [half]))
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=one_of_two, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    logits, labels = inputs(torch.float32)
    for i, (real, cap) in enumerate([*SETTINGS, (37, None)]):
        alone = run(ours(labels % (real or VOCABULARY), real, cap), [logits])
        for first, second, expected in zip(halves[0][i][:2], halves[1][i][:2], alone[:2], strict=True):
            assert torch.equal(first, second)  # both outputs on both ranks
            torch.testing.assert_close(first, expected, rtol=1e-6, atol=1e-5)
        parts = [halves[rank][i][2] for rank in range(2)]
        torch.testing.assert_close(torch.cat(parts, dim=-1), alone[2], rtol=4e-6, atol=1e-6)
        assert not torch.allclose(torch.cat(parts[::-1], dim=-1), alone[2], rtol=4e-6, atol=1e-6)  # planted fault


FAULTS = [
    ("a sum that is not carried to a new maximum", "total * tl.exp(largest - pivot) + tl.sum", "total + tl.sum"),
    ("padding counts", "z = tl.where(inside, z, float(\"-inf\"))", "z = tl.where(inside, z, 0.0)"),
    ("the label of the next column", "tl.where(at == label, g_loss, 0.0)", "tl.where(at == label + 1, g_loss, 0.0)"),
    ("the gradient of the log-sum-exp is lost", "(g_loss + g_log_sum_exp)", "(g_loss)"),
    ("a gradient in the padding", "gradient = tl.where(at < columns, gradient, 0.0)", "gradient = gradient"),
    ("the cap's slope is lost", "gradient *= 1.0 - (z / cap) * (z / cap)", "gradient *= 1.0"),
    ("the cap is half as high", "return cap * (2.0 * tl.sigmoid(2.0 * x / cap) - 1.0)", "return cap * (tl.sigmoid(2.0 * x / cap) - 0.5)"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_fault_in_the_kernel_is_seen(right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanal.kernels.triton.cross_entropy.FORWARD_LANES", 2)
    logits, labels = inputs(torch.float32)
    with planted("cross_entropy", right, wrong, tmp_path):
        assert differences(ours(labels, REAL, CAP), definition(labels, REAL, CAP), [logits])


def test_labels_that_do_not_fit_are_refused() -> None:
    logits, labels = inputs(torch.float32)
    with pytest.raises(AssertionError, match=r"labels \(3, 7\) must fit logits \(7, 3, 74\)"):
        TRITON(logits, labels.T, None)
