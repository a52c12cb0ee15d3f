"""The learning rate as a pure function of consumed samples. A new shape is a row of SHAPES, and its name in config/schema/optim.py."""

import math
from collections.abc import Callable

from fanal.run_progress import NEW_RUN, Standing
from pretrain.config.derive import lr_decay_samples
from pretrain.config.schema import OptimConfig, TrainConfig

Shape = Callable[[OptimConfig, int, int], float]
"""Shape of the schedule: the height of the rate between min_lr (0) and lr (1), from the settings, the samples since the warm-up,
and the samples of the whole decay; the former are below the latter."""


def learning_rate(optim: OptimConfig, train: TrainConfig, consumed_samples: int, since: Standing = NEW_RUN) -> float:
    """Return the learning rate of the step that starts at ``consumed_samples``: a linear warm-up, then a shape, then min_lr.

    Args: since: a point that the run has reached, which decides where a schedule ends that spans the whole run.
    """
    warmup, end = optim.lr_warmup_samples, lr_decay_samples(optim, train, since)
    if consumed_samples < warmup:
        return optim.lr * consumed_samples / warmup
    if optim.lr_decay_style == "constant":  # without an end
        return optim.lr
    if consumed_samples >= end:
        return optim.min_lr
    height = SHAPES[optim.lr_decay_style](optim, consumed_samples - warmup, end - warmup)
    return optim.min_lr + (optim.lr - optim.min_lr) * height


def _linear(_: OptimConfig, done: int, whole: int) -> float:
    return 1.0 - done / whole


def _cosine(_: OptimConfig, done: int, whole: int) -> float:
    """Return the height of a cosine decay (Loshchilov and Hutter, 2017)."""
    return 0.5 * (1.0 + math.cos(math.pi * (done / whole)))


def _warmup_stable_decay(optim: OptimConfig, done: int, whole: int) -> float:
    """Return the height of warmup-stable-decay: lr, then a line to min_lr over the last lr_wsd_decay_samples (Hu et al., MiniCPM,
    2024)."""
    assert optim.lr_wsd_decay_samples is not None, "config/rules.py asks for it"
    return min(1.0, (whole - done) / optim.lr_wsd_decay_samples)


SHAPES: dict[str, Shape] = {"linear": _linear, "cosine": _cosine, "WSD": _warmup_stable_decay}
