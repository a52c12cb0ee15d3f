"""The reports of a run's steps, and the clock behind its rates."""

import time
from collections.abc import Iterator
from typing import TypeVar

import torch

from fanal.kernels.attention_choice import Choice
from pretrain.checkpoint.loading.load import Start
from pretrain.config.layout_words import layout_in_words
from pretrain.config.schema import RunConfig
from pretrain.config.stages import unequal_text
from pretrain.config.steps import last_step, train_samples
from pretrain.data.packing.padding import source_padding
from pretrain.data.passes import most_read, source_passes
from pretrain.data.read import TrainData
from pretrain.data.sources import Sources
from pretrain.log.bad_steps import budget_line, list_bad_step
from pretrain.log.record import BadStepRecord, StartRecord, StepRecord, throughput
from pretrain.log.sinks import Sinks
from pretrain.model.families.sizes import num_parameters
from pretrain.model.flops import flops_per_token, model_flops_utilization, peak_tflops
from pretrain.optim.registry import optimizer_of
from pretrain.parallel.device import device_name, gpu_held_bytes, peak_memory_bytes
from pretrain.parallel.reduce import largest_each
from pretrain.parallel.world import World
from pretrain.state import TrainState
from pretrain.train.begin_start import library_versions
from pretrain.train.step import StepResult

Batch = TypeVar("Batch")
MOST_SOURCES = 1_000
"""Sources of a start's record: of more, those that are read most often."""


def headline(run: RunConfig, world: World, attention: str) -> str:
    """Return one line with the model, the device and the layout."""
    layers = unequal_text(run.model, run.parallel)
    layout = layout_in_words(run.parallel, replicas=world.data_parallel_size, with_choices=True, layers=layers)
    return (
        f"{num_parameters(run.model):,} parameters, {run.train.precision}, attention {attention}, on {world.size} x "
        f"{device_name(world.device)}: {layout}"
    )


def start_record(run: RunConfig, world: World, attention: Choice, sources: Sources, start: Start) -> StartRecord:
    """Return the record of this start of the run."""
    state, stated = start.state, optimizer_of(run.optim)
    since = state.standing
    return StartRecord(
        step=state.step,
        train_steps=last_step(run.optim, run.train, since),
        headline=headline(run, world, attention.name),
        device=device_name(world.device),
        num_ranks=world.size,
        versions=library_versions(),
        passes={
            source.prefix: round(source.passes, 6)
            for source in most_read(source_passes(run, sources, since), MOST_SOURCES)
        },
        padding={source.prefix: round(source.padding_share, 9) for source in source_padding(sources)[:MOST_SOURCES]},
        deterministic=torch.are_deterministic_algorithms_enabled(),
        attention=attention.name,
        attention_passed_over=attention.passed_over,
        optimizer=f"{stated.title}, {stated.described(run.optim)}",
        optimizer_change=start.optimizer_change or "",
    )


def rows_without_a_token(run: RunConfig, sources: Sources) -> str | None:
    """Return the line that says which rows of the vocabulary are left out of the loss; None if every row has a token. Version 0.1
    let them take part."""
    if run.model.vocab_size <= sources.vocab_size:
        return None
    first, last = sources.vocab_size, run.model.vocab_size - 1
    return (
        f"model.vocab_size ({run.model.vocab_size:,}) is more than the {sources.vocab_size:,} tokens of data.tokenizer: rows "
        f"{first:,} to {last:,} stand for no token and take no part in the loss, as in an export (a checkpoint of version 0.1 "
        "counted them: its loss goes down a little here)"
    )


def list_if_bad(
    run: RunConfig, world: World, data: TrainData, state: TrainState, result: StepResult, batch_size: int, sinks: Sinks
) -> None:
    """Write the samples of a spike, or of a step that was skipped, beside the log. Rank 0 finds them all; no collective."""
    verdict = result.verdict
    if world.rank != 0 or not (verdict.is_spike or verdict.skip):
        return
    assert sinks.stamp is not None, "rank 0 writes logs"
    record = BadStepRecord(
        step=state.step,
        reason="not finite" if verdict.skip == "not finite" else "spike",
        skipped=verdict.skip is not None,
        loss=result.loss,
        loss_z=verdict.loss_z,
        grad_norm=result.grad_norm,
        grad_norm_z=verdict.grad_norm_z,
        first_sample=state.consumed_samples - batch_size,
        num_samples=batch_size,
    )
    sinks.say(list_bad_step(run.run_dir, record, data, sinks.stamp))
    if verdict.out_of_budget:
        assert run.train.spikes is not None, "without spikes there is no budget"
        sinks.say(budget_line(run.train.spikes, state))


class Clock:
    """Time and tokens since the last record, without what is not training (validation, checkpoints)."""

    def __init__(self, state: TrainState) -> None:
        self.restart(state)

    def restart(self, state: TrainState) -> None:
        """Count from here."""
        self.step, self.tokens, self.started = state.step, state.consumed_tokens, time.perf_counter()
        self.data_wait_s = 0.0

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the micro batches of a step, and count the time that each is waited for."""
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.data_wait_s += time.perf_counter() - began
            yield batch


def step_record(
    run: RunConfig,
    world: World,
    state: TrainState,
    result: StepResult,
    clock: Clock,
    rate: float,
    batch_size: int,
) -> StepRecord:
    """Return the record of this step, the same on every rank. Collective; one device sync."""
    wait_us = round(clock.data_wait_s / (state.step - clock.step) * 1e6)
    memory, wait_us, *held = largest_each(
        [peak_memory_bytes(world.device), wait_us, *(gpu_held_bytes(world.device) or ())], world
    )
    samples_left = train_samples(run.optim, run.train, state.standing) - state.consumed_samples
    pace = throughput(
        tokens=state.consumed_tokens - clock.tokens,
        steps=state.step - clock.step,
        elapsed_s=time.perf_counter() - clock.started,
        num_ranks=world.size,
        tokens_left=samples_left * run.data.seq_length,
    )
    clock.restart(state)
    peak = run.log.peak_tflops_per_gpu or peak_tflops(device_name(world.device), run.train.precision)
    full, causal = (
        model_flops_utilization(
            tokens_per_second_per_gpu=pace.tokens_per_second_per_gpu,
            flops_per_token=flops_per_token(run.model, run.data.seq_length, causal=causal),
            peak_tflops=peak,
        )
        for causal in (False, True)
    )
    return StepRecord(
        step=state.step,
        consumed_samples=state.consumed_samples,
        consumed_tokens=state.consumed_tokens,
        global_batch_size=batch_size,
        loss=result.loss,
        loss_by_domain=result.loss_by_domain,
        z_loss=result.z_loss if run.train.z_loss_weight else None,
        loss_tokens=result.loss_tokens,
        learning_rate=rate,
        grad_norm=result.grad_norm,
        skipped_steps=state.skipped_steps,
        skipped_spikes=state.skipped_spikes,
        step_time_s=pace.step_time_s,
        tokens_per_second=pace.tokens_per_second,
        tokens_per_second_per_gpu=pace.tokens_per_second_per_gpu,
        mfu_full=full,
        mfu_causal=causal,
        peak_memory_bytes=memory,
        reserved_memory_bytes=held[0] if held else None,
        used_memory_bytes=held[1] if held else None,
        eta_s=pace.eta_s,
        data_wait_s=wait_us / 1e6,
    )
