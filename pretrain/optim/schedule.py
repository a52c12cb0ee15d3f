"""The learning rate as a pure function of consumed samples."""

import math

from pretrain.config.derive import lr_decay_samples
from pretrain.config.schema import OptimConfig, TrainConfig


def learning_rate(optim: OptimConfig, train: TrainConfig, consumed_samples: int) -> float:
    """Learning rate of the step that starts at ``consumed_samples``.

    A linear warm-up from 0, then one of: constant; linear to min_lr; cosine to min_lr (Loshchilov and Hutter, 2017); WSD,
    which stays at lr and falls linearly to min_lr over the last lr_wsd_decay_samples (Hu et al., MiniCPM, 2024).
    """
    warmup, end = optim.lr_warmup_samples, lr_decay_samples(optim, train)
    if consumed_samples < warmup:
        return optim.lr * consumed_samples / warmup
    if optim.lr_decay_style == "constant":
        return optim.lr
    if consumed_samples >= end:
        return optim.min_lr
    return optim.min_lr + (optim.lr - optim.min_lr) * _height(optim, consumed_samples, warmup, end)


def _height(optim: OptimConfig, consumed: int, warmup: int, end: int) -> float:
    """1 after the warm-up, 0 at the end of the decay."""
    if optim.lr_decay_style == "WSD":
        assert optim.lr_wsd_decay_samples is not None, "config/rules.py asks for it"
        return min(1.0, (end - consumed) / optim.lr_wsd_decay_samples)
    done = (consumed - warmup) / (end - warmup)
    if optim.lr_decay_style == "linear":
        return 1.0 - done
    return 0.5 * (1.0 + math.cos(math.pi * done))
