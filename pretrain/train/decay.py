"""The beginning of a run's final decay: at the sample that the config states, or after the step in which somebody asked for it."""

from dataclasses import replace

from pretrain.config.schema import RunConfig
from pretrain.config.steps import consumed_samples_at, last_step, lr_decay_samples, step_at
from pretrain.log.record import DecayRecord
from pretrain.log.sinks import Sinks
from pretrain.optim.schedule import learning_rate, why_no_decay
from pretrain.state import TrainState
from pretrain.train.stop import Requests


def begin_decay(run: RunConfig, state: TrainState, *, asked: bool, requests: Requests, sinks: Sinks) -> TrainState:
    """Return the state after a step with the beginning of the final decay, if it is here; from then on it is the state's.

    No collective: every rank knows the same, and comes to the same end. Args: asked: whether a DECAY file asks for it.
    """
    if asked:
        refusal = why_no_decay(run.optim, run.train, state.standing)
        if refusal is None:
            requests.decay_began(state.step)
            return _begun(run, state, state.consumed_samples, "DECAY file", sinks)
        requests.decay_refused()
        sinks.say(f"the request for a decay (DECAY file) changes nothing: {refusal}")
    stated = run.optim.lr_wsd_decay_start_sample
    if stated is None or state.decay_start_sample is not None or state.consumed_samples < stated:
        return state
    return _begun(run, state, stated, "optim.lr_wsd_decay_start_sample", sinks)


def _begun(run: RunConfig, state: TrainState, start: int, asked_by: str, sinks: Sinks) -> TrainState:
    state = replace(state, decay_start_sample=start)
    sinks.write(decay_record(run, state, asked_by=asked_by))
    return state


def decay_record(run: RunConfig, state: TrainState, *, asked_by: str) -> DecayRecord:
    """Return the record of a decay that has begun: where it ends, and where the run does. Args: asked_by: who, in words."""
    optim, train, since = run.optim, run.train, state.standing
    assert since.decay_start_sample is not None, "it has begun"
    end, last = lr_decay_samples(optim, train, since), last_step(optim, train, since)
    last_start = consumed_samples_at(train, max(last - 1, since.step), since)
    return DecayRecord(
        step=state.step,
        asked_by=asked_by,
        start_sample=since.decay_start_sample,
        end_sample=end,
        style=optim.lr_wsd_decay_style,
        train_steps=last,
        last_learning_rate=learning_rate(optim, train, last_start, since),
        steps_to_its_end=step_at(train, end, since),
    )
