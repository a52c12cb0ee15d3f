"""The cross entropy that trains, against its definition, against Megatron's, and over two processes.

Shapes: s sequence, b micro batch, v vocabulary, t ranks.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fanal.kernels import reference, rows
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
def test_loss_and_gradient_are_megatrons(
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
            torch.testing.assert_close(found[0], loss, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found[2], for_logits, rtol=BOUND[dtype], atol=1e-6)
            assert found[0].dtype == loss.dtype and found[2].dtype == for_logits.dtype
    # Planted fault: the gradient of the log-sum-exp instead.
    other = run(lambda x: vocab_parallel_cross_entropy(x, labels, None)[::-1], logits, gradient)
    assert not torch.allclose(other[2], for_logits, rtol=BOUND[dtype], atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("columns", "soft_cap"), [(70, None), (VOCABULARY, 5.0), (61, 2.0)])
def test_columns_without_a_token_and_a_cap_are_those_of_the_definition(
    columns: int, soft_cap: float | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "CPU_PART_BYTES", 4 * VOCABULARY * 5)  # parts of five rows, the last of one
    logits, labels = inputs(dtype)
    labels = labels % (columns - 1)
    gradients = upstream(labels.shape)

    def defined(x: Tensor, cap: float | None = soft_cap, count: int = columns) -> tuple[Tensor, Tensor]:
        real = x[..., :count] if cap is None else reference.soft_cap(x[..., :count], cap)
        return reference.cross_entropy(real, labels), real.logsumexp(-1)

    options = {"columns": columns, "soft_cap": soft_cap}
    found = run(lambda x: vocab_parallel_cross_entropy(x, labels, None, **options), logits, *gradients)
    expected = run(defined, logits.double(), *gradients)
    for one, other in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found[2].double(), expected[2], rtol=BOUND[dtype], atol=2e-6)
    assert not found[2][..., columns:].any()
    # Planted faults: another cap, one column more or less.
    for wrong in (
        run(lambda x: defined(x, cap=(soft_cap or 9.0) + 0.1), logits.double(), *gradients),
        run(
            lambda x: defined(x, count=columns - 1 if columns == VOCABULARY else columns + 1),
            logits.double(),
            *gradients,
        ),
    ):
        assert not torch.allclose(found[2].double(), wrong[2], rtol=BOUND[dtype], atol=2e-6)


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


@pytest.mark.parametrize(("columns", "soft_cap"), [(VOCABULARY, None), (61, 2.0)])
def test_in_fp64_gradients_of_both_outputs_are_the_definitions_to_its_rounding(
    columns: int, soft_cap: float | None
) -> None:
    logits, labels = inputs(torch.float64)
    labels, gradients = labels % columns, upstream(labels.shape)

    def defined(x: Tensor) -> tuple[Tensor, Tensor]:
        real = x[..., :columns] if soft_cap is None else reference.soft_cap(x[..., :columns], soft_cap)
        return reference.cross_entropy(real, labels), real.logsumexp(-1)

    found = run(
        lambda x: vocab_parallel_cross_entropy(x, labels, None, columns=columns, soft_cap=soft_cap), logits, *gradients
    )
    for one, other in zip(found, run(defined, logits, *gradients), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_logits_are_held_as_they_are_and_their_gradient_takes_their_place_once() -> None:
    logits, labels = inputs(torch.bfloat16, (33, 3))
    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        loss, _ = vocab_parallel_cross_entropy(logits.requires_grad_(), labels, None)
    assert [tensor.data_ptr() for tensor in held if tensor.numel() == logits.numel()] == [logits.data_ptr()]
    (gradient,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    assert gradient.data_ptr() == logits.data_ptr()
    with pytest.raises(AssertionError, match="there is no second one"):
        loss.sum().backward()


def test_labels_that_do_not_fit_are_refused() -> None:
    logits, labels = inputs(torch.float32)
    with pytest.raises(AssertionError, match=r"labels \(3, 7\) must fit logits \(7, 3, 74\)"):
        vocab_parallel_cross_entropy(logits, labels.T, None)
