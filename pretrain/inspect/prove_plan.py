"""The plan of a proof: what ``fanal prove`` changes in a config, and when it kills. Pure; a seed gives the same plan."""

import math
import random
from dataclasses import replace

from fanal.errors import UserError
from pretrain.config.schema import OptimConfig, RunConfig, TrainConfig
from pretrain.config.steps import lr_decay_samples
from pretrain.inspect.kill import KillPlan, Target

CHECKPOINT_INTERVAL = 2
"""Steps: so that a few steps hold several saves."""
KEEP_LAST = 2
"""So that checkpoints are also deleted while runs are killed."""
DEFAULT_STEPS = 8
FEWEST_STEPS = 2 * CHECKPOINT_INTERVAL
"""One checkpoint to resume from and one to compare."""
MOST_KILLS = 1_000
MOST_VALIDATION_SAMPLES = 8
SHORTEST_DELAY_S, LONGEST_DELAY_S = 0.001, 0.3
"""Drawn on a logarithmic scale, since a save of a small model takes milliseconds and one of a large model seconds."""
TARGETS: tuple[Target, ...] = ("one rank", "all ranks", "launcher")


def num_steps(train: TrainConfig, asked: int | None) -> int:
    """Steps of each run of the proof.

    Raises: UserError if the run has fewer, or these hold no checkpoint to resume from.
    """
    steps = min(DEFAULT_STEPS, train.train_steps) if asked is None else asked
    if steps > train.train_steps:
        raise UserError(
            f"--steps ({steps}) must not be above train.train_steps ({train.train_steps}), the whole run; "
            f"--steps {train.train_steps} works"
        )
    if steps < FEWEST_STEPS:
        raise UserError(
            f"--steps ({steps}; without it train.train_steps, {DEFAULT_STEPS} at most) must be at least {FEWEST_STEPS}, so that "
            f"there is a checkpoint to resume from; --steps {FEWEST_STEPS} works where train.train_steps is as large"
        )
    return steps


def with_decay_stated(run: RunConfig, decay_start_sample: int | None) -> RunConfig:
    """Return the run with the beginning of its final decay in its config: the runs of a proof are asked for none.

    Args: decay_start_sample: of the run's newest checkpoint; None leaves the config as it is.
    """
    if decay_start_sample is None:
        return run
    stated = {"lr_wsd_decay_start_sample": decay_start_sample, "lr_decay_samples": None}
    return replace(run, optim=replace(run.optim, **stated))


def proof_overrides(optim: OptimConfig, train: TrainConfig, steps: int, *, device: str = "cpu") -> tuple[str, ...]:
    """Return the overrides that make the config a run of a few steps and leave all else the same.

    The schedule stays that of the whole run: a rate that fell to its end within these steps would be another training.
    Validation losses stay on, with few samples: a validation that disturbs the training would show as a difference, since
    a resumed run does not repeat those before its checkpoint. On a GPU the same bits come out only when asked for.
    """
    interval = (
        "null" if train.validation_interval is None else str(min(train.validation_interval, CHECKPOINT_INTERVAL + 1))
    )
    return (
        f"train.train_steps={steps}",
        f"optim.lr_decay_samples={lr_decay_samples(optim, train)}",
        f"train.validation_interval={interval}",
        f"train.validation_samples={min(train.validation_samples, MOST_VALIDATION_SAMPLES)}",
        f"checkpoint.interval={CHECKPOINT_INTERVAL}",
        f"checkpoint.keep_last={KEEP_LAST}",
        "log.interval=1",
        "log.tensorboard=false",
        *(["train.deterministic=true"] if device == "cuda" else []),
    )


def kill_plans(*, kills: int, steps: int, num_ranks: int, seed: int) -> list[KillPlan]:
    """Moments for one run that is killed again and again: saves and steps in turn, later and later, each target in turn.

    Each waits for a whole checkpoint, so that every kill is followed by a resume and not by a fresh start; and no save of the last
    step is aimed at, which may be whole before the kill comes and then leaves no step to resume.
    Raises: UserError if there is none to plan.
    """
    if kills < 1:
        raise UserError(f"--kills ({kills}) must be at least 1; --kills 3 works")
    if kills > MOST_KILLS:
        raise UserError(
            f"--kills ({kills}) must not be above {MOST_KILLS:,}, each with a start of all ranks; --kills 3 works"
        )
    draw = random.Random(seed)
    last_save = (steps - 1) // CHECKPOINT_INTERVAL * CHECKPOINT_INTERVAL  # of those that a step follows
    moments = sorted(draw.randint(CHECKPOINT_INTERVAL, last_save) for _ in range(kills))
    first_target = draw.randrange(len(TARGETS))
    low, high = math.log(SHORTEST_DELAY_S), math.log(LONGEST_DELAY_S)
    return [
        KillPlan(
            aim="save" if index % 2 == 0 and last_save > CHECKPOINT_INTERVAL else "step",
            target=TARGETS[(first_target + index) % len(TARGETS)],
            rank=draw.randrange(num_ranks),
            after_step=moment,
            delay_s=math.exp(draw.uniform(low, high)),
            needs_checkpoint=True,
        )
        for index, moment in enumerate(moments)
    ]
