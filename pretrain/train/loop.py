"""The spine: one run from its first to its last step, on one screen."""

import enum
import time
from collections.abc import Sequence

from pretrain import exit_codes
from pretrain.checkpoint.load import load_checkpoint
from pretrain.checkpoint.origin import described
from pretrain.checkpoint.save import Saver, open_saver
from pretrain.config.derive import global_batch_size_at, num_parameters
from pretrain.config.rules import check_ranks
from pretrain.config.schema import RunConfig
from pretrain.data.batch import train_micro_batches
from pretrain.data.reader import open_reader
from pretrain.data.sources import open_sources
from pretrain.log.record import StepRecord, throughput
from pretrain.log.run_dir import hold_run_dir, open_run_dir
from pretrain.log.sinks import Sinks, open_sinks
from pretrain.model.flops import flops_per_token, model_flops_utilization, peak_tflops
from pretrain.model.gpt import attention_backend, build_model
from pretrain.optim.optimizer import build_optimizer, set_learning_rate
from pretrain.optim.schedule import learning_rate
from pretrain.parallel.device import device_name, peak_memory_bytes
from pretrain.parallel.environment import rank_and_size
from pretrain.parallel.reduce import any_rank_each, largest
from pretrain.parallel.world import World, open_world
from pretrain.state import TrainState
from pretrain.train.evaluate import evaluate
from pretrain.train.step import StepResult, mean_losses, train_step
from pretrain.train.stop import StopSignal, open_stop_signal


class Outcome(enum.IntEnum):
    """How ``train`` came to its end; the value is the process's exit code."""

    FINISHED = exit_codes.FINISHED
    STOPPED = exit_codes.STOPPED


class TooManySkippedStepsError(RuntimeError):
    """The gradient was not finite for more steps in a row than train.max_skipped_steps allows."""


def train(run: RunConfig) -> Outcome:
    """Train a run from where it stands to its last step.

    Collective over all ranks. On an exception no checkpoint is written and no further collective is issued: ranks may
    disagree about where they are.
    """
    rank, num_ranks, _ = rank_and_size()
    check_ranks(run, num_ranks)
    sources = open_sources(run)
    open_run_dir(run.run_dir)
    with (
        hold_run_dir(run.run_dir, rank=rank),
        open_world(run.parallel, seed=run.train.seed) as world,
        open_stop_signal() as stop,
        open_reader(sources, run, world) as reader,
    ):
        model = build_model(run, world)
        optimizer = build_optimizer(run, model)
        state, origin = load_checkpoint(run, model, optimizer, reader, world)
        with (
            open_sinks(run, world, start_step=state.step) as sinks,
            open_saver(run, model, optimizer, world, origin=origin) as saver,
        ):
            sinks.say(headline(run, world, attention_backend(model)))
            if origin is not None:
                sinks.say(f"began with {described(origin)}")
            if state.step:
                saver.restored(state.step)
                sinks.say(f"resumed after step {state.step}, {state.consumed_samples:,} samples")
            elif sources.held_out:
                sinks.write(evaluate(model, sources.held_out, run, world, state))  # before the first step
            clock = Clock(state)
            outcome = Outcome.FINISHED
            while state.step < run.train.train_steps:
                if agree_to_stop(stop, saver, sinks, world):
                    outcome = Outcome.STOPPED
                    break
                rate = learning_rate(run.optim, run.train, state.consumed_samples)
                set_learning_rate(optimizer, rate)
                batch_size = global_batch_size_at(run.train, state.consumed_samples)
                batches = train_micro_batches(
                    reader,
                    run,
                    world,
                    consumed_samples=state.consumed_samples,
                    global_batch_size=batch_size,
                    steps_left=run.train.train_steps - state.step,
                )
                result = train_step(
                    model,
                    optimizer,
                    batches,
                    run,
                    world,
                    global_batch_size=batch_size,
                    num_domains=len(reader.data.domains),
                )
                state = state.after(num_samples=batch_size, seq_length=run.data.seq_length, skipped=result.skipped)
                stop_if_diverged(run, state, result)
                last = state.step == run.train.train_steps
                if last or every(run.log.interval, state.step):
                    domains = reader.data.domains
                    sinks.write(step_record(run, world, state, result, domains, clock, rate, batch_size))
                if sources.held_out and (last or every(run.train.eval_interval, state.step)):
                    sinks.write(evaluate(model, sources.held_out, run, world, state))
                    clock.restart(state)
                # Not while the gradient is not finite: retention would push out the last checkpoint that is any good.
                if every(run.checkpoint.interval, state.step) and not result.skipped and not last:
                    saver.begin(state, reader.position(state.consumed_samples))
                    clock.restart(state)
            if state.step > 0:
                saver.finish(state, reader.position(state.consumed_samples))
                write_reports(saver, sinks)
            if outcome is Outcome.STOPPED:
                sinks.say(f"stopped on request; checkpoint: {saver.newest}")
            if outcome is Outcome.FINISHED:
                sinks.say(f"complete: step {state.step} of {run.train.train_steps}")
                sinks.finish(run.run_dir)
    return outcome


def headline(run: RunConfig, world: World, attention: str) -> str:
    """What runs where, in one line."""
    virtual = run.parallel.virtual_pipeline_model_parallel_size
    return (
        f"{num_parameters(run.model):,} parameters, {run.train.precision}, attention {attention}, on {world.size} x "
        f"{device_name(world.device)}: TP{world.tensor_model_parallel_size}{' + SP' if run.parallel.sequence_parallel else ''} x "
        f"PP{world.pipeline_model_parallel_size}{f' ({virtual} stages a rank)' if virtual > 1 else ''} x "
        f"DP{world.data_parallel_size}"
    )


def every(interval: int | None, step: int) -> bool:
    """Whether something that happens each ``interval`` steps happens after ``step``."""
    return interval is not None and step % interval == 0


def agree_to_stop(stop: StopSignal, saver: Saver, sinks: Sinks, world: World) -> bool:
    """Whether any rank was asked to stop; and what became of the save under way. Collective; one device sync."""
    saver.poll()
    is_stop_asked, has_save_failed = any_rank_each([stop.is_asked, saver.has_failed], world)
    if has_save_failed:
        saver.give_up()
    write_reports(saver, sinks)
    return is_stop_asked


def write_reports(saver: Saver, sinks: Sinks) -> None:
    """Tell what became of checkpoints since the last time."""
    for report in saver.reports():
        sinks.write(report)


def stop_if_diverged(run: RunConfig, state: TrainState, result: StepResult) -> None:
    """Give up when the gradient stays not finite. All ranks see the same norm, so all of them raise."""
    if state.skipped_in_a_row > run.train.max_skipped_steps:
        raise TooManySkippedStepsError(
            f"the gradient norm was not finite ({result.grad_norm}) in {state.skipped_in_a_row} steps in a row, up to step "
            f"{state.step}; train.max_skipped_steps ({run.train.max_skipped_steps}) allows no more. No checkpoint was written: "
            "resume from the last one with a lower optim.lr"
        )


class Clock:
    """Time and tokens since the last record, without what is not training (evaluation, checkpoints)."""

    def __init__(self, state: TrainState) -> None:
        self.restart(state)

    def restart(self, state: TrainState) -> None:
        """Count from here."""
        self.step, self.tokens, self.started = state.step, state.consumed_tokens, time.perf_counter()


def step_record(
    run: RunConfig,
    world: World,
    state: TrainState,
    result: StepResult,
    domains: Sequence[str],
    clock: Clock,
    rate: float,
    batch_size: int,
) -> StepRecord:
    """The record of this step, the same on every rank. Collective; our device syncs are here."""
    loss, loss_by_domain = mean_losses(result.loss_sums_and_tokens, domains, world)
    memory = int(largest(peak_memory_bytes(world.device), world))
    pace = throughput(
        tokens=state.consumed_tokens - clock.tokens,
        steps=state.step - clock.step,
        elapsed_s=time.perf_counter() - clock.started,
        num_ranks=world.size,
        steps_left=run.train.train_steps - state.step,
    )
    clock.restart(state)
    peak = run.log.peak_tflops_per_gpu or peak_tflops(device_name(world.device))
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
        loss=loss,
        loss_by_domain=loss_by_domain,
        learning_rate=rate,
        grad_norm=result.grad_norm,
        skipped_steps=state.skipped_steps,
        step_time_s=pace.step_time_s,
        tokens_per_second=pace.tokens_per_second,
        tokens_per_second_per_gpu=pace.tokens_per_second_per_gpu,
        mfu_full=full,
        mfu_causal=causal,
        peak_memory_bytes=memory,
        eta_s=pace.eta_s,
    )
