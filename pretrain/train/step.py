"""One optimizer step: forward and backward over all micro batches, then the update."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func

from pretrain.config.derive import num_microbatches
from pretrain.config.schema import RunConfig
from pretrain.data.batch import MicroBatch
from pretrain.model.loss import masked_loss
from pretrain.optim.optimizer import step_unless_not_finite
from pretrain.parallel.reduce import sum_over_replicas_and_share
from pretrain.parallel.world import World


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step leaves behind."""

    loss_sum_and_tokens: torch.Tensor
    """float64 [2] on the device, this replica's part; on the last pipeline stage alone. See ``mean_loss``."""
    grad_norm: float
    skipped: bool


def train_step(
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    micro_batches: Iterator[MicroBatch | None],
    run: RunConfig,
    world: World,
    *,
    global_batch_size: int,
) -> StepResult:
    """Train one global batch. Collective: every rank calls it."""
    for chunk in model:
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    loss = run_micro_batches(model, micro_batches, run, world, num_samples=global_batch_size, forward_only=False)
    update = step_unless_not_finite(optimizer)
    return StepResult(loss_sum_and_tokens=loss, grad_norm=update.grad_norm, skipped=update.skipped)


def run_micro_batches(
    model: list[DistributedDataParallel],
    micro_batches: Iterator[MicroBatch | None],
    run: RunConfig,
    world: World,
    *,
    num_samples: int,
    forward_only: bool,
) -> torch.Tensor:
    """Megatron's schedule over ``num_samples`` samples of the global batch, backward pass included or not.

    Returns: float64 [2], this replica's (loss sum, tokens); zeros but on the last pipeline stage.
    """
    count = num_microbatches(
        global_batch_size=num_samples,
        micro_batch_size=run.train.micro_batch_size,
        data_parallel_size=world.data_parallel_size,
    )
    reports = get_forward_backward_func()(
        forward_step_func=_forward,
        data_iterator=_one_iterator_per_chunk(micro_batches, len(model)),
        model=list(model) if len(model) > 1 else model[0],
        num_microbatches=count,
        seq_length=run.data.seq_length,
        micro_batch_size=run.train.micro_batch_size,
        forward_only=forward_only,
    )
    if not world.is_pipeline_last:
        return torch.zeros(2, dtype=torch.float64, device=world.device)
    return torch.stack(reports).sum(dim=0)


def mean_loss(loss_sum_and_tokens: torch.Tensor, world: World) -> float:
    """Mean loss per token of the whole batch, on every rank. Collective; one device sync. The result is consumed."""
    total, tokens = sum_over_replicas_and_share(loss_sum_and_tokens.clone(), world).tolist()
    return total / tokens if tokens else float("nan")


def _forward(micro_batches: Iterator[MicroBatch | None], chunk: Any) -> tuple[torch.Tensor, Any]:
    """megatron's forward_step_func: the chunk's output, and what to make of it on the last stage."""
    batch = next(micro_batches)
    if batch is None:  # a stage in the middle: the input comes from its neighbour
        return chunk(None, None, None), None
    output = chunk(batch.tokens, batch.position_ids, None, labels=batch.labels)
    return output, partial(masked_loss, batch.loss_mask)


def _one_iterator_per_chunk(micro_batches: Iterator[MicroBatch | None], chunks: int) -> Any:
    """The interleaved schedule walks each chunk through the same micro batches."""
    if chunks == 1:
        return micro_batches
    batches = list(micro_batches)
    return [iter(batches) for _ in range(chunks)]
