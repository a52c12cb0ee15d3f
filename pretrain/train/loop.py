"""The spine: one run from its first to its last step, on one screen."""

import enum
import math
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from fanal import exit_codes
from fanal.errors import FanalError, UserError, user_path
from fanal.run_progress import newest_metrics
from pretrain.checkpoint.disk.origin import described
from pretrain.checkpoint.loading.load import load_checkpoint
from pretrain.checkpoint.saving.save import Saver, open_saver
from pretrain.config.library_variables import library_variables
from pretrain.config.path_rules import paths_of
from pretrain.config.rules import check_ranks
from pretrain.config.schema import RunConfig, TrainConfig
from pretrain.config.steps import global_batch_size_at, last_step
from pretrain.data.batch import train_micro_batches
from pretrain.data.labels import labelled, labels_line
from pretrain.data.packing.padding import padding_line
from pretrain.data.pass_watch import PassWatch
from pretrain.data.passes import passes_warning
from pretrain.data.reader import TrainReader, open_reader
from pretrain.data.sources import open_sources
from pretrain.data.validation import ValidationSamples
from pretrain.log.elsewhere import check_sinks
from pretrain.log.record import EndRecord
from pretrain.log.run_dir import hold_run_dir, open_run_dir
from pretrain.log.sinks import Sinks, open_sinks
from pretrain.model.gpt import attention_choice, build_model
from pretrain.optim.optimizer import build_optimizer, set_learning_rate
from pretrain.optim.schedule import learning_rate
from pretrain.parallel.determinism import deterministic
from pretrain.parallel.device_type import resolve_device
from pretrain.parallel.environment import least_ranks_on_node, rank_and_size
from pretrain.parallel.precision import imitated_precision
from pretrain.parallel.reduce import any_rank, any_rank_each
from pretrain.parallel.signals import keep_exit_code, stop_signal
from pretrain.parallel.texts import share_text
from pretrain.parallel.world import World, open_world
from pretrain.state import TrainState
from pretrain.train.begin_start import begin_start, changes_line
from pretrain.train.decay import begin_decay
from pretrain.train.energy import measured_energy
from pretrain.train.memory import check_memory
from pretrain.train.report import Clock, list_if_bad, rows_without_a_token, start_record, step_record
from pretrain.train.stability import Stability
from pretrain.train.step import StepResult, train_step
from pretrain.train.stop import Asked, Requests, open_requests
from pretrain.train.tracing import Tracer, open_tracer
from pretrain.train.validate import validate, validate_with_average
from pretrain.train.watchdog import Watchdog, open_watchdog


class Outcome(enum.IntEnum):
    """The way ``train`` ended; the value is the process's exit code."""

    FINISHED = exit_codes.FINISHED
    STOPPED = exit_codes.STOPPED


class TooManySkippedStepsError(FanalError):
    """The gradient was not finite for more steps in a row than train.max_skipped_steps allows."""

    exit_code = exit_codes.CRASH


@dataclass(frozen=True, kw_only=True)
class Training:
    """The objects that are open while a run trains."""

    run: RunConfig
    world: World
    model: list[DistributedDataParallel]
    optimizer: MegatronOptimizer
    reader: TrainReader
    validation: ValidationSamples | None
    saver: Saver
    sinks: Sinks
    requests: Requests
    watchdog: Watchdog
    tracer: Tracer
    stability: Stability
    passes: PassWatch


def train(run: RunConfig) -> Outcome:
    """Train a run from where it stands to its last step, on the watch from the first file to the last collective.

    Collective over all ranks. On an exception no checkpoint is written and no further collective is issued: ranks may
    disagree about where they are.
    """
    rank, num_ranks, _ = rank_and_size()
    check_ranks(run, num_ranks)
    check_sinks(run.log)
    for name, (value, _) in library_variables(run).items():
        os.environ.setdefault(name, value)  # before anything asks for a GPU, which starts the driver
    watched = open_watchdog(run.train.watchdog, run.run_dir, rank=rank)
    with watched as watchdog, deterministic(run.train.deterministic):
        try:
            return _train(run, rank, watchdog)
        except Exception as error:
            # A peer that heard of the stop first is gone, and this rank was waiting for it.
            if watchdog.is_starting and stop_signal() is not None and not isinstance(error, FanalError):
                watchdog.end_stopped()
            raise


def _train(run: RunConfig, rank: int, watchdog: Watchdog) -> Outcome:
    with user_path(run.run_dir, *paths_of(run).values()):
        sources = labelled(open_sources(run, keeps_plans=True), run.log)
        check_memory(
            run,
            device_type=resolve_device(run.parallel.device),
            num_ranks=rank_and_size()[1],
            ranks_here=least_ranks_on_node(),
            is_first=False,
        )
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
            start = load_checkpoint(run, model, optimizer, reader, world)
        state, origin = start.state, start.origin
        with (
            open_sinks(run, world, start_step=state.step) as sinks,
            open_saver(run, model, optimizer, world, resumed_step=state.step or None, origin=origin) as saver,
            open_tracer(run.log, run.run_dir, world) as tracer,
        ):
            number = 0 if sinks.stamp is None else sinks.stamp.start
            begun = begin_start(run, world, sources, state, origin, number=number)
            sinks.write(start_record(run, world, attention_choice(model), sources, start))
            if origin is not None:
                sinks.say(f"started from {described(origin)}")
            since = state.standing
            slow = imitated_precision(run.train.precision, world.device.type)
            of_sources = padding_line(sources), passes_warning(run, sources, since), labels_line(sources, run.log)
            changed = None if begun is None else changes_line(begun)
            for line in (slow, rows_without_a_token(run, sources), changed, *start.changes, *of_sources):
                if line is not None:
                    sinks.say(line)
            samples = run.train.validation_samples
            validation = (
                ValidationSamples(
                    sources.validation, run.data, samples_per_source=samples, objectives=sources.objectives
                )
                if sources.validation
                else None
            )
            training = Training(
                run=run, world=world, model=model, optimizer=optimizer, reader=reader, validation=validation, saver=saver,
                sinks=sinks, requests=requests, watchdog=watchdog, tracer=tracer,
                stability=Stability(run, world, model, optimizer), passes=PassWatch(run, sources, state.consumed_samples),
            )  # fmt: skip
            start = int(share_text(str(number), world) or 0)
            with measured_energy(run.run_dir, start=start, device=world.device):
                return _steps(training, state)


def _steps(training: Training, state: TrainState) -> Outcome:
    """Run step after step, and what happens between them, on every rank alike."""
    run, world, sinks = training.run, training.world, training.sinks
    validation = training.validation
    if state.step:
        began = "" if state.decay_start_sample is None else f"; its decay began at sample {state.decay_start_sample:,}"
        sinks.say(f"resumed after step {state.step}, {state.consumed_samples:,} samples{began}")
    is_due = validation is not None and _begins_with_validation(training, state)
    if is_due:
        is_due = not _validate(training, state)
    clock = Clock(state)
    asked = _ask(training, state)
    while not _is_complete(training, state) and not asked.stop:
        training.watchdog.enter("step")
        rate = learning_rate(run.optim, run.train, state.consumed_samples, state.standing)
        batch_size = global_batch_size_at(run.train, state.consumed_samples)
        with training.tracer.around(state.step + 1), training.stability.around(state.step + 1):
            state, result = _step(training, state, rate, batch_size, clock)
        report = training.stability.record(state)
        sinks.step_done(state.step)
        list_if_bad(run, world, training.reader.data, state, result, batch_size, sinks)
        if report is not None:
            sinks.write(report)
        often = training.passes.line(step=state.step, consumed_samples=state.consumed_samples)
        if often is not None:
            sinks.say(often)
        stop_if_nothing_is_predicted(state, result)
        stop_if_diverged(run.train, state, result)
        asked = _act_on(training, Asked(*result.answers))
        before = state
        state = begin_decay(run, state, asked=asked.decay, requests=training.requests, sinks=sinks)
        begins_on_request = asked.decay and state.decay_start_sample != before.decay_start_sample
        last = _is_complete(training, state)
        if last or every(run.log.interval, state.step):
            sinks.write(step_record(run, world, state, result, clock, rate, batch_size))
        # Who asks a run to stop does not wait for a validation; that of the last step follows at the next start.
        is_due = validation is not None and (last or every(run.train.validation_interval, state.step))
        if is_due and not asked.stop:
            is_due = not _validate(training, state)
            asked = _ask(training, state) if is_due else asked
            clock.restart(state)
        # Not while the gradient is not finite: retention would push out the last checkpoint that is any good.
        is_save_due = asked.save or begins_on_request or every(run.checkpoint.interval, state.step)
        if is_save_due and result.skipped != "not finite" and not last:
            _begin_save(training, state, asked)
            clock.restart(state)
    return _finish(training, state, is_complete=_is_complete(training, state) and not is_due)


def _is_complete(training: Training, state: TrainState) -> bool:
    """Return whether the run has come to its last step, that of its final decay if there is one."""
    return state.step >= last_step(training.run.optim, training.run.train, state.standing)


def _begins_with_validation(training: Training, state: TrainState) -> bool:
    """Return whether a validation is due before anything else: the first, or the last one if a stop cut it off. Collective."""
    if not _is_complete(training, state):
        return state.step == 0
    there = training.world.rank == 0 and any(
        record.get("step") == state.step for record in newest_metrics(Path(training.run.run_dir), kinds=("validation",))
    )
    return not any_rank(there, training.world)


def _step(
    training: Training, state: TrainState, rate: float, batch_size: int, clock: Clock
) -> tuple[TrainState, StepResult]:
    """Run one optimizer step; return the state of the run after it. Collective."""
    run, world, reader = training.run, training.world, training.reader
    set_learning_rate(training.optimizer, rate)
    next_batch = global_batch_size_at(run.train, state.consumed_samples + batch_size)
    batches = train_micro_batches(
        reader,
        run.train,
        world,
        consumed_samples=state.consumed_samples,
        global_batch_size=batch_size,
        steps_left=last_step(run.optim, run.train, state.standing) - state.step,
    )
    result = train_step(
        training.model,
        training.optimizer,
        clock.timed(batches),
        run,
        world,
        state=state,
        global_batch_size=batch_size,
        domains=reader.data.domains,
        questions=partial(_asked_here, training, state.step + 1, next_batch_grows=next_batch / batch_size),
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
    return _act_on(training, Asked(*any_rank_each(_asked_here(training, state.step), training.world)))


def _asked_here(training: Training, step: int, next_batch_grows: float = 1.0) -> list[bool]:
    """Return what this rank is asked for after this step, and whether its save has failed; no collective."""
    training.saver.poll()
    failed = training.saver.has_failed
    return training.requests.asked_here(step=step, save_failed=failed, next_batch_grows=next_batch_grows)


def _act_on(training: Training, asked: Asked) -> Asked:
    """Give up a save that has failed on some rank, report those that ended, and return what is left to do."""
    if asked.give_up_save:
        training.saver.give_up()
    _report_saves(training)
    return asked


def _validate(training: Training, state: TrainState) -> bool:
    """Write the validation losses after this step; return whether no request to stop cut them off. Collective."""
    assert training.validation is not None, "without samples none is due"
    model, rest = training.model, (training.validation, training.run, training.world, state, training.requests)
    with training.watchdog.during("validation"):
        if training.run.train.validate_ema:
            record = validate_with_average(model, training.optimizer, *rest)
        else:
            record = validate(model, *rest)
    if record is not None:
        training.sinks.write(record)
    return record is not None


def _begin_save(training: Training, state: TrainState, asked: Asked) -> None:
    """Start a save. Collective; waits only for a save that is still under way."""
    with training.watchdog.during("save"):
        training.saver.begin(state, training.reader.position(state.consumed_samples))
    if asked.save:
        training.sinks.say(f"started the checkpoint of step {state.step} on request (SAVE file)")
    training.requests.save_started()
    _report_saves(training)


def _finish(training: Training, state: TrainState, *, is_complete: bool) -> Outcome:
    """Write the last checkpoint, wait for it, and record how the run ended. Collective."""
    saver, sinks, began = training.saver, training.sinks, time.perf_counter()
    if state.step:
        with training.watchdog.during("save"):
            saver.finish(state, training.reader.position(state.consumed_samples))
        training.requests.save_started()
        _report_saves(training)
    waited = time.perf_counter() - began
    keep_exit_code(Outcome.FINISHED if is_complete else Outcome.STOPPED)  # whatever signal comes from now on
    if not is_complete:
        who = training.requests.who_asked_to_stop(training.world)
        newest = str(saver.newest) if state.step else None
        sinks.write(EndRecord(step=state.step, outcome="stopped", asked_by=who, checkpoint=newest, save_wait_s=waited))
        return Outcome.STOPPED
    newest = str(saver.newest)
    sinks.write(EndRecord(step=state.step, outcome="finished", asked_by="", checkpoint=newest, save_wait_s=waited))
    sinks.finish(training.run.run_dir)
    return Outcome.FINISHED


def _report_saves(training: Training) -> None:
    for report in training.saver.reports():
        training.sinks.write(report)
        if report.failure is None:
            training.requests.saved(report.step)


def every(interval: int | None, step: int) -> bool:
    """Return whether something that happens each ``interval`` steps happens after ``step``."""
    return interval is not None and step % interval == 0


def stop_if_nothing_is_predicted(state: TrainState, result: StepResult) -> None:
    """Refuse a run whose objectives leave no token of its first batch: it would learn nothing, and its loss be no number."""
    if state.step == 1 and not result.loss_tokens and math.isfinite(result.grad_norm):
        raise UserError(
            f"objective must leave tokens to predict, and of the {state.consumed_tokens:,} of the first batch none counts; "
            "objective.mask_between=[] works"
        )


def stop_if_diverged(train: TrainConfig, state: TrainState, result: StepResult) -> None:
    """Give up when the gradient stays not finite. All ranks see the same norm, so all of them raise."""
    if state.skipped_in_a_row > train.max_skipped_steps:
        raise TooManySkippedStepsError(
            f"the gradient norm was not finite ({result.grad_norm}) in {state.skipped_in_a_row} steps in a row, up to step "
            f"{state.step}; train.max_skipped_steps ({train.max_skipped_steps}) allows no more. The same command with a "
            "lower optim.lr goes on from the newest checkpoint; where there is none, from the beginning"
        )
