"""The learning rate as a pure function of consumed samples. A new shape is a row of SHAPES or DECAYS, and its name in
config/schema/optim.py. Formulas and sources: docs/schedules.md.
"""

import math
from collections.abc import Callable

from fanal.run_progress import NEW_RUN, Standing
from pretrain.config.schema import OptimConfig, TrainConfig
from pretrain.config.steps import DECAY_ON_REQUEST, decay_start_sample, lr_decay_samples

Shape = Callable[[int, int], float]
"""Shape of a decay: the height of the rate between min_lr (0) and lr (1), from the samples since it began, and the samples of the
whole decay; the former are below the latter."""


def learning_rate(optim: OptimConfig, train: TrainConfig, consumed_samples: int, since: Standing = NEW_RUN) -> float:
    """Return the learning rate of the step that starts at ``consumed_samples``: a linear warm-up, then a shape, then min_lr.

    Args: since: a point that the run has reached, which decides where a schedule ends that spans the whole run, and where the
        final decay began.
    """
    warmup, style = optim.lr_warmup_samples, optim.lr_decay_style
    if consumed_samples < warmup:
        return optim.lr * consumed_samples / warmup
    start = final_decay_start(optim, train, since)
    if style == "constant" and (start is None or consumed_samples < start):  # without an end
        return optim.lr
    end = lr_decay_samples(optim, train, since)
    if consumed_samples >= end:
        return optim.min_lr
    if start is None:
        height = SHAPES[style](consumed_samples - warmup, end - warmup)
    elif consumed_samples < start:
        height = 1.0
    else:
        height = DECAYS[optim.lr_wsd_decay_style](consumed_samples - start, end - start)
    return optim.min_lr + (optim.lr - optim.min_lr) * height


def final_decay_start(optim: OptimConfig, train: TrainConfig, since: Standing = NEW_RUN) -> int | None:
    """First sample of the final decay, wherever that is known from; None if there is none so far."""
    start = decay_start_sample(optim, since)
    if start is None and optim.lr_decay_style == "WSD":
        assert optim.lr_wsd_decay_samples is not None, "config/schedule_rules.py asks for it"
        start = lr_decay_samples(optim, train, since) - optim.lr_wsd_decay_samples
    return start


def why_no_decay(optim: OptimConfig, train: TrainConfig, since: Standing) -> str | None:
    """Return why a final decay cannot begin at this point of the run, for people; None if it can."""
    if optim.lr_decay_style not in DECAY_ON_REQUEST:
        return f"optim.lr_decay_style ({optim.lr_decay_style}) decays from the warm-up on; a rate that is constant or WSD can"
    if optim.lr_wsd_decay_samples is None:
        return "optim.lr_wsd_decay_samples (null) does not say how long it takes; a resume that states it can"
    start, end = final_decay_start(optim, train, since), lr_decay_samples(optim, train, since)
    if start is not None and since.consumed_samples >= start:
        return f"the decay began at sample {start} and ends at sample {end}"
    if since.consumed_samples < optim.lr_warmup_samples:
        until = optim.lr_warmup_samples
        return f"the warm-up lasts until sample {until}, and the run is at {since.consumed_samples}; ask again then"
    return None


def _linear(done: int, whole: int) -> float:
    return 1.0 - done / whole


def _cosine(done: int, whole: int) -> float:
    """Return the height of a cosine decay (Loshchilov and Hutter, 2017)."""
    return 0.5 * (1.0 + math.cos(math.pi * (done / whole)))


def _straight(done: int, whole: int) -> float:
    """Return the height of a line, counted from its end (Hu et al., MiniCPM, 2024, and many since)."""
    return (whole - done) / whole


def _minus_sqrt(done: int, whole: int) -> float:
    """Return the height of 1 - sqrt (Hägele et al., 2024, arXiv:2405.18392)."""
    return 1.0 - math.sqrt(done / whole)


def _exponential(done: int, whole: int) -> float:
    """Return the height of an exponential decay, of half-life ``whole``, brought down to 0 at its end as megatron-core does."""
    return 2.0 * 0.5 ** (done / whole) - 1.0


SHAPES: dict[str, Shape] = {"linear": _linear, "cosine": _cosine}
"""Shapes from the warm-up to the end, by optim.lr_decay_style."""
DECAYS: dict[str, Shape] = {
    "linear": _straight,
    "cosine": _cosine,
    "minus_sqrt": _minus_sqrt,
    "exponential": _exponential,
}
"""Shapes of the final decay of a WSD or constant rate, by optim.lr_wsd_decay_style, as megatron-core names them."""
