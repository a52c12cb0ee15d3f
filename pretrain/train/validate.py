"""Validation loss, one figure per domain."""

import dataclasses
import itertools
import time

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from pretrain.config.schema import RunConfig
from pretrain.data.batch import validation_micro_batches
from pretrain.data.validation import ValidationSamples
from pretrain.log.record import ValidationRecord
from pretrain.optim.ema import averages_in_place
from pretrain.parallel.world import World
from pretrain.state import TrainState
from pretrain.train.step import mean_losses, run_micro_batches
from pretrain.train.stop import Requests


def validate(
    model: list[DistributedDataParallel],
    samples: ValidationSamples,
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
    for chunk in model:
        chunk.eval()
    with torch.no_grad():
        counted = _validate_samples(model, samples, run, world, requests)
    for chunk in model:
        chunk.train()
    if counted is None:
        return None
    losses = mean_losses(counted, samples.domains, world).by_domain
    return ValidationRecord(
        step=state.step,
        consumed_tokens=state.consumed_tokens,
        validation_loss={domain: losses.get(domain, float("nan")) for domain in samples.domains},
        validation_time_s=time.perf_counter() - started,
    )


def validate_with_average(
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    samples: ValidationSamples,
    run: RunConfig,
    world: World,
    state: TrainState,
    requests: Requests,
) -> ValidationRecord | None:
    """Return the losses of the weights, and on the same samples those of their moving average. Collective; as ``validate``."""
    record = validate(model, samples, run, world, state, requests)
    if record is None:
        return None
    with averages_in_place(optimizer, model):
        average = validate(model, samples, run, world, state, requests)
    if average is None:
        return None
    return dataclasses.replace(
        record,
        ema_validation_loss=average.validation_loss,
        validation_time_s=record.validation_time_s + average.validation_time_s,
    )


def _validate_samples(
    model: list[DistributedDataParallel], samples: ValidationSamples, run: RunConfig, world: World, requests: Requests
) -> torch.Tensor | None:
    """This replica's sums by domain, as of run_micro_batches; None if the run was asked to stop. Collective.

    A batch is as large as one of training, so that a pipeline is as full. One more collective, and a device sync, for each.
    """
    per_pass = run.train.micro_batch_size * world.data_parallel_size
    # The interleaved schedule takes a multiple of the pipeline size; rows past the last sample are masked out.
    pipeline = world.pipeline_model_parallel_size if len(model) > 1 else 1
    left = count = -(-samples.num_samples // (per_pass * pipeline)) * pipeline
    batch = max(1, run.train.global_batch_size // (per_pass * pipeline)) * pipeline
    batches = validation_micro_batches(samples, run.data, run.train, world, count=count)
    total = torch.zeros(len(samples.domains), 3, dtype=torch.float64, device=world.device)
    while left:
        if requests.agreed(world).stop:
            return None
        size = min(batch, left)
        total += run_micro_batches(
            model, itertools.islice(batches, size), run.data, run.train, world, num_samples=size * per_pass,
            num_domains=len(samples.domains), forward_only=True,
        )  # fmt: skip
        left -= size
    return total
