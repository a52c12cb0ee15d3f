"""Validation loss, one figure per domain."""

import itertools
import time
from collections.abc import Sequence

import torch
from megatron.core.distributed import DistributedDataParallel

from pretrain.config.schema import RunConfig
from pretrain.data.batch import validation_micro_batches
from pretrain.data.sources import Source
from pretrain.log.record import ValidationRecord
from pretrain.parallel.world import World
from pretrain.state import TrainState
from pretrain.train.step import mean_losses, run_micro_batches
from pretrain.train.stop import Requests


def validate(
    model: list[DistributedDataParallel],
    sources: Sequence[Source],
    run: RunConfig,
    world: World,
    state: TrainState,
    requests: Requests,
) -> ValidationRecord | None:
    """Loss on the first train.validation_samples chunks of every validation source; sources of one domain are weighed by token.

    Collective: every rank calls it after the same step.
    Returns: None if the run was asked to stop meanwhile; it ends after the batch at hand.
    """
    started = time.perf_counter()
    by_domain: dict[str, torch.Tensor] = {}
    counted = None
    for chunk in model:
        chunk.eval()
    with torch.no_grad():
        for source in sources:
            counted = _validate_source(model, source, run, world, requests)
            if counted is None:
                break
            by_domain[source.domain] = by_domain.get(source.domain, torch.zeros_like(counted)) + counted
    for chunk in model:
        chunk.train()
    if counted is None:
        return None
    _, losses = mean_losses(torch.cat(list(by_domain.values())), list(by_domain), world)
    return ValidationRecord(
        step=state.step,
        consumed_tokens=state.consumed_tokens,
        validation_loss={domain: losses.get(domain, float("nan")) for domain in by_domain},
        validation_time_s=time.perf_counter() - started,
    )


def _validate_source(
    model: list[DistributedDataParallel], source: Source, run: RunConfig, world: World, requests: Requests
) -> torch.Tensor | None:
    """This replica's (loss sum, tokens) of one source: float64 [1, 2]; None if the run was asked to stop. Collective.

    A batch is as large as one of training, so that a pipeline is as full. One more collective, and a device sync, for each.
    """
    wanted = min(run.train.validation_samples, source.order.chunks_per_epoch)
    per_pass = run.train.micro_batch_size * world.data_parallel_size
    # The interleaved schedule takes a multiple of the pipeline size; rows past the last sample are masked out.
    pipeline = world.pipeline_model_parallel_size if len(model) > 1 else 1
    left = count = -(-wanted // (per_pass * pipeline)) * pipeline
    batch = max(1, run.train.global_batch_size // (per_pass * pipeline)) * pipeline
    batches = validation_micro_batches(source, run.data, run.train, world, num_samples=wanted, count=count)
    total = torch.zeros(1, 2, dtype=torch.float64, device=world.device)
    while left:
        if requests.agreed(world).stop:
            return None
        size = min(batch, left)
        total += run_micro_batches(
            model, itertools.islice(batches, size), run.data, run.train, world, num_samples=size * per_pass, num_domains=1,
            forward_only=True,
        )  # fmt: skip
        left -= size
    return total
