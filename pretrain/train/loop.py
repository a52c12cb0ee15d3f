"""The spine: one run from its first to its last step, on one screen."""

import enum
from dataclasses import dataclass

from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from fanal import exit_codes
from fanal.errors import user_path
from pretrain.checkpoint.disk.origin import described
from pretrain.checkpoint.loading.load import load_checkpoint
from pretrain.checkpoint.saving.save import Saver, open_saver
from pretrain.config.derive import global_batch_size_at
from pretrain.config.path_rules import paths_of
from pretrain.config.rules import check_ranks
from pretrain.config.schema import RunConfig, TrainConfig
from pretrain.data.batch import train_micro_batches
from pretrain.data.reader import TrainReader, open_reader
from pretrain.data.sources import open_sources
from pretrain.log.record import EndRecord
from pretrain.log.run_dir import hold_run_dir, open_run_dir
from pretrain.log.sinks import Sinks, open_sinks
from pretrain.model.gpt import attention_backend, build_model
from pretrain.optim.optimizer import build_optimizer, set_learning_rate
from pretrain.optim.schedule import learning_rate
from pretrain.parallel.environment import rank_and_size
from pretrain.parallel.world import World, open_world
from pretrain.state import TrainState
from pretrain.train.report import Clock, list_if_bad, rows_without_a_token, start_record, step_record
from pretrain.train.step import StepResult, train_step
from pretrain.train.stop import Asked, Requests, open_requests
from pretrain.train.validate import validate
from pretrain.train.watchdog import Watchdog, open_watchdog


class Outcome(enum.IntEnum):
    """The way ``train`` ended; the value is the process's exit code."""

    FINISHED = exit_codes.FINISHED
    STOPPED = exit_codes.STOPPED


class TooManySkippedStepsError(RuntimeError):
    """The gradient was not finite for more steps in a row than train.max_skipped_steps allows."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """The objects that are open while a run trains."""

    run: RunConfig
    world: World
    model: list[DistributedDataParallel]
    optimizer: MegatronOptimizer
    reader: TrainReader
    saver: Saver
    sinks: Sinks
    requests: Requests
    watchdog: Watchdog


def train(run: RunConfig) -> Outcome:
    """Train a run from where it stands to its last step, on the watch from the first file to the last collective.

    Collective over all ranks. On an exception no checkpoint is written and no further collective is issued: ranks may
    disagree about where they are.
    """
    rank, num_ranks, _ = rank_and_size()
    check_ranks(run, num_ranks)
    with open_watchdog(run.train.watchdog, run.run_dir, rank=rank) as watchdog:
        return _train(run, rank, watchdog)


def _train(run: RunConfig, rank: int, watchdog: Watchdog) -> Outcome:
    with user_path(run.run_dir, *paths_of(run).values()):
        sources = open_sources(run)
        open_run_dir(run.run_dir)
    with (
        hold_run_dir(run.run_dir, rank=rank),
        open_requests(run.train, run.run_dir, rank=rank) as requests,
        open_world(run.parallel, seed=run.train.seed) as world,
        open_reader(sources, run, world) as reader,
    ):
        if requests.agreed(world).stop:  # before what takes a while: there is nothing to save yet
            who = requests.who_asked_to_stop(world)
            if rank == 0:
                print(f"stopped on request ({who}); nothing to save, no step was done", flush=True)
            return Outcome.STOPPED
        model = build_model(run, world, tokenizer_vocab_size=sources.vocab_size)
        optimizer = build_optimizer(run, model)
        with user_path(run.run_dir, *paths_of(run).values()):
            state, origin = load_checkpoint(run, model, optimizer, reader, world)
        with (
            open_sinks(run, world, start_step=state.step) as sinks,
            open_saver(run, model, optimizer, world, resumed_step=state.step or None, origin=origin) as saver,
        ):
            sinks.write(start_record(run, world, attention_backend(model), step=state.step))
            if origin is not None:
                sinks.say(f"started from {described(origin)}")
            if run.model.vocab_size > sources.vocab_size:
                sinks.say(rows_without_a_token(run, sources))
            training = Training(
                run=run, world=world, model=model, optimizer=optimizer, reader=reader, saver=saver, sinks=sinks,
                requests=requests, watchdog=watchdog,
            )  # fmt: skip
            return _steps(training, state)


def _steps(training: Training, state: TrainState) -> Outcome:
    """Run step after step, and what happens between them, on every rank alike."""
    run, world, sinks = training.run, training.world, training.sinks
    validation = training.reader.data.sources.validation
    if state.step:
        sinks.say(f"resumed after step {state.step}, {state.consumed_samples:,} samples")
    elif validation:
        _validate(training, state)  # before the first step
    clock = Clock(state)
    asked = _ask(training, state)
    while state.step < run.train.train_steps and not asked.stop:
        training.watchdog.enter("step")
        rate = learning_rate(run.optim, run.train, state.consumed_samples)
        batch_size = global_batch_size_at(run.train, state.consumed_samples)
        state, result = _step(training, state, rate, batch_size)
        list_if_bad(run, world, training.reader.data, state, result, batch_size, sinks)
        stop_if_diverged(run.train, state, result)
        asked = _ask(training, state)
        last = state.step == run.train.train_steps
        if last or every(run.log.interval, state.step):
            sinks.write(step_record(run, world, state, result, clock, rate, batch_size))
        # Who asks a run to stop does not wait for a validation.
        if validation and (last or (every(run.train.validation_interval, state.step) and not asked.stop)):
            _validate(training, state)
            clock.restart(state)
        # Not while the gradient is not finite: retention would push out the last checkpoint that is any good.
        if (asked.save or every(run.checkpoint.interval, state.step)) and result.skipped != "not finite" and not last:
            _begin_save(training, state, asked)
            clock.restart(state)
    return _finish(training, state)


def _step(training: Training, state: TrainState, rate: float, batch_size: int) -> tuple[TrainState, StepResult]:
    """Run one optimizer step; return the state of the run after it. Collective."""
    run, world, reader = training.run, training.world, training.reader
    set_learning_rate(training.optimizer, rate)
    batches = train_micro_batches(
        reader,
        run.train,
        world,
        consumed_samples=state.consumed_samples,
        global_batch_size=batch_size,
        steps_left=run.train.train_steps - state.step,
    )
    result = train_step(
        training.model,
        training.optimizer,
        batches,
        run,
        world,
        state=state,
        global_batch_size=batch_size,
        domains=reader.data.domains,
    )
    after = state.after(
        num_samples=batch_size,
        seq_length=run.data.seq_length,
        skipped=result.skipped,
        recent=result.verdict.recent,
    )
    return after, result


def _ask(training: Training, state: TrainState) -> Asked:
    """Return what is asked of all ranks after this step, and how the save under way went. Collective; one device sync."""
    saver = training.saver
    saver.poll()
    asked = training.requests.agreed(training.world, step=state.step, save_failed=saver.has_failed)
    if asked.give_up_save:
        saver.give_up()
    _report_saves(training)
    return asked


def _validate(training: Training, state: TrainState) -> None:
    """Collective."""
    with training.watchdog.during("validation"):
        sources = training.reader.data.sources.validation
        training.sinks.write(validate(training.model, sources, training.run, training.world, state))


def _begin_save(training: Training, state: TrainState, asked: Asked) -> None:
    """Start a save. Collective; waits only for a save that is still under way."""
    with training.watchdog.during("save"):
        training.saver.begin(state, training.reader.position(state.consumed_samples))
    if asked.save:
        training.sinks.say(f"started the checkpoint of step {state.step} on request (SAVE file)")
    training.requests.save_started()
    _report_saves(training)


def _finish(training: Training, state: TrainState) -> Outcome:
    """Write the last checkpoint, wait for it, and record how the run ended. Collective."""
    saver, sinks, last_step = training.saver, training.sinks, training.run.train.train_steps
    if state.step:
        with training.watchdog.during("save"):
            saver.finish(state, training.reader.position(state.consumed_samples))
        training.requests.save_started()
        _report_saves(training)
    if state.step < last_step:
        who = training.requests.who_asked_to_stop(training.world)
        newest = str(saver.newest) if state.step else None
        sinks.write(EndRecord(step=state.step, outcome="stopped", asked_by=who, checkpoint=newest))
        return Outcome.STOPPED
    sinks.write(EndRecord(step=state.step, outcome="finished", asked_by="", checkpoint=str(saver.newest)))
    sinks.finish(training.run.run_dir)
    return Outcome.FINISHED


def _report_saves(training: Training) -> None:
    for report in training.saver.reports():
        training.sinks.write(report)


def every(interval: int | None, step: int) -> bool:
    """Return whether something that happens each ``interval`` steps happens after ``step``."""
    return interval is not None and step % interval == 0


def stop_if_diverged(train: TrainConfig, state: TrainState, result: StepResult) -> None:
    """Give up when the gradient stays not finite. All ranks see the same norm, so all of them raise."""
    if state.skipped_in_a_row > train.max_skipped_steps:
        raise TooManySkippedStepsError(
            f"the gradient norm was not finite ({result.grad_norm}) in {state.skipped_in_a_row} steps in a row, up to step "
            f"{state.step}; train.max_skipped_steps ({train.max_skipped_steps}) allows no more. No checkpoint was written: "
            "resume from the last one with a lower optim.lr"
        )
