"""The spine: one run from its first to its last step, on one screen."""

import enum
import time

from pretrain import exit_codes
from pretrain.checkpoint.load import load_checkpoint
from pretrain.checkpoint.save import save_checkpoint
from pretrain.config.derive import global_batch_size_at, num_parameters
from pretrain.config.rules import check_ranks
from pretrain.config.schema import RunConfig
from pretrain.data.batch import train_micro_batches
from pretrain.data.read import TrainData
from pretrain.data.reader import open_reader
from pretrain.data.sources import open_sources
from pretrain.log.bad_steps import budget_line, list_bad_step
from pretrain.log.record import BadStepRecord, StepRecord, throughput
from pretrain.log.run_dir import hold_run_dir, open_run_dir
from pretrain.log.sinks import Sinks, open_sinks
from pretrain.model.flops import flops_per_token, model_flops_utilization, peak_tflops
from pretrain.model.gpt import attention_backend, build_model
from pretrain.optim.optimizer import build_optimizer, set_learning_rate
from pretrain.optim.schedule import learning_rate
from pretrain.parallel.device import device_name, peak_memory_bytes
from pretrain.parallel.environment import rank_and_size
from pretrain.parallel.reduce import largest
from pretrain.parallel.world import World, open_world
from pretrain.state import TrainState
from pretrain.train.evaluate import evaluate
from pretrain.train.step import StepResult, train_step
from pretrain.train.stop import open_stop_signal


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
        state = load_checkpoint(run, model, optimizer, reader, world)
        with open_sinks(run, world, start_step=state.step) as sinks:
            sinks.say(headline(run, world, attention_backend(model)))
            if state.step:
                sinks.say(f"resumed after step {state.step}, {state.consumed_samples:,} samples")
            elif sources.held_out:
                sinks.write(evaluate(model, sources.held_out, run, world, state))  # what an untrained model does
            clock = Clock(state)
            outcome = Outcome.FINISHED
            while state.step < run.train.train_steps:
                if stop.agreed(world):
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
                    state=state,
                    global_batch_size=batch_size,
                    domains=reader.data.domains,
                )
                state = state.after(
                    num_samples=batch_size,
                    seq_length=run.data.seq_length,
                    skipped=result.skipped,
                    recent=result.verdict.recent,
                )
                list_if_bad(run, world, reader.data, state, result, batch_size, sinks)
                stop_if_diverged(run, state, result)
                last = state.step == run.train.train_steps
                if last or every(run.log.interval, state.step):
                    sinks.write(step_record(run, world, state, result, clock, rate, batch_size))
                if sources.held_out and (last or every(run.train.eval_interval, state.step)):
                    sinks.write(evaluate(model, sources.held_out, run, world, state))
                    clock.restart(state)
                # Not while the gradient is not finite: retention would push out the last checkpoint that is any good.
                if last or (every(run.checkpoint.interval, state.step) and result.skipped != "not finite"):
                    position = reader.position(state.consumed_samples)
                    sinks.say(f"checkpoint: {save_checkpoint(run, model, optimizer, state, position, world)}")
                    clock.restart(state)
            if outcome is Outcome.STOPPED and state.step > 0:
                position = reader.position(state.consumed_samples)
                saved = save_checkpoint(run, model, optimizer, state, position, world)
                sinks.say(f"stopped on request; checkpoint: {saved}")
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


def stop_if_diverged(run: RunConfig, state: TrainState, result: StepResult) -> None:
    """Give up when the gradient stays not finite. All ranks see the same norm, so all of them raise."""
    if state.skipped_in_a_row > run.train.max_skipped_steps:
        raise TooManySkippedStepsError(
            f"the gradient norm was not finite ({result.grad_norm}) in {state.skipped_in_a_row} steps in a row, up to step "
            f"{state.step}; train.max_skipped_steps ({run.train.max_skipped_steps}) allows no more. No checkpoint was written: "
            "resume from the last one with a lower optim.lr"
        )


def list_if_bad(
    run: RunConfig, world: World, data: TrainData, state: TrainState, result: StepResult, batch_size: int, sinks: Sinks
) -> None:
    """Write the samples of a spike, or of a step that was skipped, beside the log. Rank 0 finds them all; no collective."""
    verdict = result.verdict
    if world.rank != 0 or not (verdict.is_spike or verdict.skip):
        return
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
    sinks.say(list_bad_step(run.run_dir, record, data))
    if verdict.out_of_budget:
        sinks.say(budget_line(run, state))


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
    clock: Clock,
    rate: float,
    batch_size: int,
) -> StepRecord:
    """The record of this step, the same on every rank. Collective; one device sync."""
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
        loss=result.loss,
        loss_by_domain=result.loss_by_domain,
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
        eta_s=pace.eta_s,
    )
