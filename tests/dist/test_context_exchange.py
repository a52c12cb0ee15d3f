"""Attention over ranks that share a sequence is attention of the whole: outputs and gradients, with one message and with several."""

from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from fanal.kernels.attention import causal_attention
from pretrain.config.schema import RunConfig
from pretrain.model import context_parallel
from pretrain.model.context_parallel import ContextParallelAttention
from pretrain.parallel.local import run_local_ranks
from pretrain.parallel.sequence_chunks import part_of
from pretrain.parallel.world import World, open_world
from tests.dist.harness import PRELOAD, make_run

LENGTH, BATCH, HEADS_PER_GROUP, HEAD_SIZE = 48, 2, 2, 8
DOCUMENTS = (0, 1, 5, 23, 24, 25, 40, 48, 60, 71, 72, 96)
"""Begin at the ends of chunks, one before and one behind them; two documents of one token."""
CASES: dict[str, dict[str, Any]] = {
    "rows": {},
    "documents": {"documents": True},
    "window": {"window": 9},
    "window, cap and documents": {"window": 9, "soft_cap": 0.7, "documents": True},
}
PIECES = {1: (1, 2), 2: (1, 2), 3: (1, 2, 3)}
"""Query groups, and the most messages of an attention: fewer, as many, and so that pieces differ in size."""


class Attention(torch.nn.Module):
    """What a layer calls, without a layer."""

    def __init__(self, window: int | None, soft_cap: float | None) -> None:
        super().__init__()
        self.attend = partial(causal_attention, backend="reference", window=window, soft_cap=soft_cap)

    def forward(self, query: Any, key: Any, value: Any, starts: Any) -> torch.Tensor:
        return self.attend(query, key, value, document_starts=starts)


def results(
    attention: torch.nn.Module, inputs: list[torch.Tensor], starts: Any, up: torch.Tensor
) -> list[torch.Tensor]:
    """The output, and the gradients of queries, keys and values."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    output = attention(*leaves, starts)
    return [output.detach(), *torch.autograd.grad(output, leaves, up)]


def worst_error(groups: int, pieces: int, world: World, *, documents: bool = False, **options: Any) -> float:
    """Of this rank's part, fp64."""
    generator = torch.Generator().manual_seed(groups)
    heads = groups * HEADS_PER_GROUP
    shapes = [(LENGTH, BATCH, count, HEAD_SIZE) for count in (heads, groups, groups)]
    whole = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    up = torch.randn(LENGTH, BATCH, heads * HEAD_SIZE, generator=generator, dtype=torch.float64)
    starts = torch.tensor(DOCUMENTS, dtype=torch.int32) if documents else None
    attention = Attention(options.get("window"), options.get("soft_cap"))

    def part(tensor: torch.Tensor) -> torch.Tensor:
        return part_of(tensor, world.cp_rank, world.context_parallel_size, dim=0)

    with patch.object(context_parallel, "MAX_PIECES", pieces):
        found = results(ContextParallelAttention(attention), [part(tensor) for tensor in whole], starts, part(up))
    expected = [part(tensor) for tensor in results(attention, whole, starts, up)]
    return max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))


def compare(run: RunConfig) -> int:
    """One rank."""
    torch.set_num_threads(1)
    with open_world(run.parallel, seed=1) as world:
        for groups, most in PIECES.items():
            for pieces in most:
                for name, options in CASES.items():
                    error = worst_error(groups, pieces, world, **options)
                    assert error < 1e-13, (
                        f"{name}, {groups} groups in {pieces} pieces: {error:.1e} on rank {world.rank}"
                    )
        with patch.object(context_parallel, "in_order", lambda of_ranks: of_ranks.flatten(0, 1)):
            assert worst_error(2, 2, world) > 1e-2, "keys in the order of ranks"
        with patch.object(context_parallel, "by_rank", lambda both, ranks: torch.stack(both).unflatten(1, (ranks, -1)).movedim(1, 0).contiguous()):  # fmt: skip
            assert worst_error(2, 2, world) > 1e-2, "gradients in the order of positions"
    return 0


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_parts_attend_as_the_whole_does(ranks: int, small_run: Path, tmp_path: Path) -> None:
    run = make_run(small_run, tmp_path, f"parallel.context_parallel_size={ranks}", "data.seq_length=48")
    code, failure = run_local_ranks(
        compare, run, preload=PRELOAD, num_ranks=ranks, device_type="cpu", log_dir=tmp_path / "logs"
    )
    assert code == 0, failure and failure.text
