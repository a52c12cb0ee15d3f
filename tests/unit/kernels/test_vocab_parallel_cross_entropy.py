"""The cross entropy that trains, against its definition, against Megatron's bit for bit, and over two processes.

Shapes: s sequence, b micro batch, v vocabulary, t ranks.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fanal.kernels import reference
from fanal.kernels.cross_entropy import vocab_parallel_cross_entropy

Loss = Callable[[Tensor], tuple[Tensor, ...]]
DTYPES = [torch.float32, torch.bfloat16]
BOUND = {torch.float32: 4e-6, torch.bfloat16: 2**-8}
"""For gradients, relative to the value and to the largest one; in bf16 they are rounded once. Outputs are fp32 for both."""
VOCABULARY = 74


def inputs(dtype: torch.dtype, size: tuple[int, int] = (7, 3)) -> tuple[Tensor, Tensor]:
    """Logits with one that exp overflows on, and labels at both ends of the vocabulary and of its halves."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(*size, VOCABULARY, generator=generator)
    logits[0, 0, 3] = 300.0
    labels = torch.randint(0, VOCABULARY, size, generator=generator)
    labels.view(-1)[:5] = torch.tensor([0, VOCABULARY // 2 - 1, VOCABULARY // 2, VOCABULARY - 1, 1])[: labels.numel()]
    return logits.to(dtype), labels


def upstream(size: torch.Size, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, generator=generator), scale * torch.randn(size, generator=generator)


def run(operation: Loss, logits: Tensor, *gradients: Tensor) -> list[Tensor]:
    """The outputs, then the gradient of the logits."""
    leaf = logits.clone().requires_grad_()
    outputs = operation(leaf + 0)  # not the leaf: Megatron's writes over fp32 logits
    torch.autograd.backward(
        outputs[: len(gradients)], [g.to(o.dtype) for g, o in zip(gradients, outputs, strict=False)]
    )
    assert leaf.grad is not None
    return [*(output.detach() for output in outputs), leaf.grad]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(7, 3), (1, 1)])
def test_both_outputs_and_the_gradient_equal_the_definition(size: tuple[int, int], dtype: torch.dtype) -> None:
    logits, labels = inputs(dtype, size)
    gradients = upstream(labels.shape)
    loss, log_sum_exp, for_logits = run(lambda x: vocab_parallel_cross_entropy(x, labels, None), logits, *gradients)
    assert (loss.dtype, log_sum_exp.dtype, for_logits.dtype) == (torch.float32, torch.float32, dtype)
    wide = logits.double()
    expected = run(lambda x: (reference.cross_entropy(x, labels), x.logsumexp(-1)), wide, *gradients)
    torch.testing.assert_close(loss.double(), expected[0], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(log_sum_exp.double(), expected[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_sum_exp.square().double(), reference.z_loss(wide), rtol=2e-6, atol=1e-5)
    bound = BOUND[dtype]
    torch.testing.assert_close(for_logits.double(), expected[2], rtol=bound, atol=1e-6)
    # Planted faults: the gradient of one output alone, labels off by one.
    for wrong in (
        run(lambda x: vocab_parallel_cross_entropy(x, labels, None), logits, gradients[0]),
        run(
            lambda x: vocab_parallel_cross_entropy(x, labels.roll(1) + (labels.numel() == 1), None), logits, *gradients
        ),
    ):
        assert not torch.allclose(wrong[2].double(), expected[2], rtol=bound, atol=1e-6)


@pytest.fixture
def megatrons_loss(tmp_path: Path) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
    """Megatron's function in a world of one process."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy as theirs

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    yield theirs
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_and_gradient_are_megatrons_bit_for_bit(
    megatrons_loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    from megatron.core import parallel_state

    logits, labels = inputs(dtype, (33, 3))
    gradient, zero = upstream(labels.shape, scale=0.0)
    loss, for_logits = run(lambda x: (megatrons_loss(x, labels),), logits, gradient)
    group = parallel_state.get_tensor_model_parallel_group()
    for given in ((gradient,), (gradient, zero)):
        for where in (None, group):
            found = run(lambda x, g=where: vocab_parallel_cross_entropy(x, labels, g), logits, *given)
            assert torch.equal(found[0], loss) and torch.equal(found[2], for_logits)
            assert found[0].dtype == loss.dtype and found[2].dtype == for_logits.dtype
    # Planted fault: the same function, another order of operations.
    other = run(lambda x: (reference.cross_entropy(x, labels),), logits, gradient)
    assert not torch.equal(other[0], loss)


def one_of_two(rank: int, folder: Path) -> None:
    """What one of two processes computes, from the logits of its half of the vocabulary."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = []
    for dtype in DTYPES:
        logits, labels = inputs(dtype)
        half = logits.chunk(2, dim=-1)[rank].contiguous()
        gradients = upstream(labels.shape)
        results.append(run(lambda x, y=labels: vocab_parallel_cross_entropy(x, y, dist.group.WORLD), half, *gradients))
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=one_of_two, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for i, dtype in enumerate(DTYPES):
        logits, labels = inputs(dtype)
        alone = run(lambda x, y=labels: vocab_parallel_cross_entropy(x, y, None), logits, *upstream(labels.shape))
        for first, second in zip(halves[0][i][:2], halves[1][i][:2], strict=True):
            assert torch.equal(first, second)  # both outputs on both ranks
        for found, expected in zip(halves[0][i][:2], alone[:2], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)
        found = torch.cat([halves[rank][i][2] for rank in range(2)], dim=-1)
        torch.testing.assert_close(found.float(), alone[2].float(), rtol=BOUND[dtype], atol=1e-6)
        swapped = torch.cat([halves[1 - rank][i][2] for rank in range(2)], dim=-1)  # planted fault
        assert not torch.allclose(swapped.float(), alone[2].float(), rtol=BOUND[dtype], atol=1e-6)


def test_gradients_of_both_outputs_match_finite_differences() -> None:
    logits, labels = inputs(torch.float64, (2, 2))
    logits = logits[..., ::6].clone().requires_grad_()
    # Backward writes over what it holds, and gradcheck asks many times: it is given a copy each time.
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.clone()):
        assert torch.autograd.gradcheck(lambda x: vocab_parallel_cross_entropy(x, labels % 13, None), (logits,))


def test_one_tensor_of_the_logits_size_is_held_the_logits_are_left_alone_and_a_second_backward_is_refused() -> None:
    logits, labels = inputs(torch.bfloat16, (33, 3))
    before = logits.clone()
    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        vocab_parallel_cross_entropy(logits.requires_grad_(), labels, None)
    assert [tensor.numel() == logits.numel() for tensor in held].count(True) == 1
    loss, _ = vocab_parallel_cross_entropy(logits, labels, None)
    loss.sum().backward(retain_graph=True)
    assert torch.equal(logits.detach(), before)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()


def test_labels_that_do_not_fit_are_refused() -> None:
    logits, labels = inputs(torch.float32)
    with pytest.raises(AssertionError, match=r"labels \(3, 7\) must fit logits \(7, 3, 74\)"):
        vocab_parallel_cross_entropy(logits, labels.T, None)
