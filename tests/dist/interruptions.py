"""Planted interruptions: someone asks a run for something, or a rank hangs, at a known step. Called in every rank, as faults are."""

import os
import signal
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

HANG_GRACE_S = 2.0


def _before_call(module: Any, name: str, call: int, act: Callable[..., None]) -> None:
    """``act`` gets the arguments of that call of module.name, first; calls are counted from 1."""
    original = getattr(module, name)
    calls = iter(range(1, 1000))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            act(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(module, name, interrupted)


def _is_rank(rank: int) -> bool:
    return os.environ["RANK"] == str(rank)


def _signal_at(name: str, number: signal.Signals, *, rank: int, call: int = 1) -> None:
    from pretrain.train import loop

    if _is_rank(rank):
        _before_call(loop, name, call, lambda *_, **__: os.kill(os.getpid(), number))


def rank_1_gets_sigusr1_at_step_3() -> None:
    """What Slurm sends ahead of the end of a job, to one rank alone."""
    _signal_at("train_step", signal.SIGUSR1, rank=1, call=3)


def rank_0_gets_sigint_at_step_3() -> None:
    """Ctrl-C, to one rank alone."""
    _signal_at("train_step", signal.SIGINT, rank=0, call=3)


def rank_1_gets_sigterm_while_loading() -> None:
    """Before the first step of this process."""
    _signal_at("load_checkpoint", signal.SIGTERM, rank=1)


def rank_1_gets_sigterm_in_the_second_batch_of_the_second_validation() -> None:
    """A validation is ten batches here. None may follow the one that is under way."""
    from pretrain.train import validate

    def further(*_: Any, **__: Any) -> None:
        raise RuntimeError("a further batch of the validation")

    if _is_rank(1):
        _before_call(validate, "run_micro_batches", 12, lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    _before_call(validate, "run_micro_batches", 13, further)


def _drop_at_step_3(name: str) -> None:
    """Rank 1 is the colleague; from then on steps take a while, and rank 0 looks more often than in earnest."""
    from pretrain.train import loop, request_files

    request_files.LOOK_EVERY_S = 0.05
    for call in range(4, 11):
        _before_call(loop, "train_step", call, lambda *_, **__: time.sleep(0.4))
    if _is_rank(1):
        _before_call(loop, "train_step", 3, lambda _m, _o, _b, run, *_, **__: (Path(run.run_dir) / name).touch())


def stop_is_dropped_at_step_3() -> None:
    _drop_at_step_3("STOP")


def save_is_dropped_at_step_3() -> None:
    _drop_at_step_3("SAVE")


def stuck_for_ever(*args: Any, **kwargs: Any) -> None:
    """What the stacks must name."""
    time.sleep(3600)


def _hang(module: Any, name: str, call: int) -> None:
    from pretrain.train import watchdog

    watchdog.GRACE_S = HANG_GRACE_S
    if _is_rank(1):
        _before_call(module, name, call, stuck_for_ever)


def _rank_1_hangs_while_rank_0_waits_and_gets_sigterm(module: Any, name: str) -> None:
    """Rank 0 waits inside C++ by the time of the signal."""
    _hang(module, name, 1)
    if _is_rank(0):
        kill = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGTERM))
        _before_call(module, name, 1, lambda *_, **__: kill.start())


def rank_0_gets_sigterm_in_group_creation() -> None:
    from pretrain.parallel import world

    _rank_1_hangs_while_rank_0_waits_and_gets_sigterm(world.parallel_state, "initialize_model_parallel")


def rank_0_gets_sigterm_in_model_build() -> None:
    from pretrain.train import loop

    _rank_1_hangs_while_rank_0_waits_and_gets_sigterm(loop, "build_model")


def rank_0_gets_sigterm_in_load() -> None:
    from pretrain.train import loop

    _rank_1_hangs_while_rank_0_waits_and_gets_sigterm(loop, "load_checkpoint")


def rank_1_hangs_in_init() -> None:
    from pretrain.train import loop

    _hang(loop, "load_checkpoint", 1)


def rank_1_hangs_in_step_2() -> None:
    from pretrain.train import loop

    _hang(loop, "train_step", 2)


def rank_1_hangs_in_validation() -> None:
    from pretrain.train import loop

    _hang(loop, "validate", 1)


def rank_1_hangs_in_save() -> None:
    from pretrain.checkpoint.saving import save

    _hang(save, "sums_of", 1)


def _kill_in_the_decay(*, steps: int) -> None:
    """Rank 1 is killed so many steps after the decay has begun."""
    from pretrain.train import loop

    begin, left = loop.begin_decay, iter(range(steps, -1, -1))

    def watched(run: Any, state: Any, **kwargs: Any) -> Any:
        after = begin(run, state, **kwargs)
        if after.decay_start_sample is not None and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return after

    if _is_rank(1):
        loop.begin_decay = watched


def decay_is_dropped_at_step_3() -> None:
    _drop_at_step_3("requests/DECAY")


def decay_is_dropped_at_step_3_and_rank_1_is_killed_in_it() -> None:
    """By then the checkpoint of the step after which it began is complete."""
    _drop_at_step_3("requests/DECAY")
    _kill_in_the_decay(steps=2)


def decay_is_dropped_at_step_3_and_rank_1_is_killed_before_a_checkpoint_holds_it() -> None:
    _drop_at_step_3("requests/DECAY")
    _kill_in_the_decay(steps=0)


def beginning_of_the_decay_forgotten_at_the_resume() -> None:
    """As if no checkpoint held it."""
    from dataclasses import replace

    from pretrain.checkpoint.loading import load

    read = load.read_state
    load.read_state = lambda *args, **kwargs: replace(read(*args, **kwargs), decay_start_sample=None)


def killed_at_step_9() -> None:
    """As by a node that goes down: nothing is written any more."""
    from pretrain.train import loop

    _before_call(loop, "train_step", 9, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))


def the_clock_goes_back_an_hour_at_the_second_step() -> None:
    from pretrain.log import stamp
    from pretrain.train import loop

    lost_s = [0.0]
    stamp.time = types.SimpleNamespace(time=lambda: time.time() - lost_s[0], monotonic=time.monotonic)  # type: ignore[assignment]
    _before_call(loop, "train_step", 2, lambda *_, **__: lost_s.__setitem__(0, 3600.0))


def the_clock_goes_back_and_durations_are_taken_from_it() -> None:
    the_clock_goes_back_an_hour_at_the_second_step()
    from pretrain.log import stamp

    ahead_s = time.time() - time.monotonic()
    stamp.time.monotonic = lambda: stamp.time.time() - ahead_s
