"""What a resume makes of the learning rate: whether it is the one that the checkpoint's own config gives at this point."""

import math
from dataclasses import replace

from fanal.errors import UserError
from fanal.run_progress import Standing
from pretrain.config.rules import check_rate_left
from pretrain.config.schema import OptimConfig, TrainConfig
from pretrain.config.steps import last_step, lr_decay_samples
from pretrain.optim.schedule import learning_rate

ACTING = ("lr", "min_lr", "lr_decay_style", "lr_warmup_samples", "lr_decay_samples", "lr_wsd_decay_samples",
          "lr_wsd_decay_style", "lr_wsd_decay_start_sample")  # fmt: skip
"""Keys of OptimConfig that decide the rate, with the samples so far."""
ACTING_WITHOUT_END = tuple(name for name in ACTING if name not in ("min_lr", "lr_decay_samples"))
"""Those of them that act on a rate that does not decay."""


def rate_change(
    saved: tuple[OptimConfig, TrainConfig], optim: OptimConfig, train: TrainConfig, since: Standing
) -> str | None:
    """Return one line for people if the next step has another learning rate than the checkpoint's config gives it, with the keys
    that keep that one; None if it has not, or if no step is left.

    Args: saved: the checkpoint's settings; since: the point that it was written at.
    """
    if since.step >= last_step(optim, train, since):
        return None
    before = replace(saved[0], lr_decay_samples=lr_decay_samples(*saved, since))
    today = replace(optim, lr_decay_samples=lr_decay_samples(optim, train, since))
    was, now = (learning_rate(of, train, since.consumed_samples, since) for of in (before, today))
    if math.isclose(was, now, rel_tol=1e-9):
        return None
    acting = ACTING_WITHOUT_END if before.lr_decay_style == "constant" else ACTING
    changed = [name for name in acting if getattr(before, name) != getattr(today, name)]
    try:
        check_rate_left(before, train, since)
        keeps = f"{_overrides(before, changed)} keeps that schedule"
    except UserError:  # it has come to its end, and nothing keeps a rate of 0
        past = [name for name in changed if name != "min_lr"]
        keeps = "that schedule has come to its end, and this run goes on at optim.min_lr"
        if past:
            keeps = (
                f"{_overrides(before, past)} optim.min_lr={before.lr / 10:g} goes on behind the end of that schedule"
            )
    return (
        f"the learning rate of step {since.step + 1} is {now:.2e}, and {was:.2e} by the config of the checkpoint"
        f"{_ends(before, today)}; {keeps}"
    )


def past_its_end(optim: OptimConfig, train: TrainConfig, since: Standing) -> str | None:
    """Return one line for people if the schedule has come to its end and steps are left, which train at min_lr; else None."""
    end, left = lr_decay_samples(optim, train, since), last_step(optim, train, since) - since.step
    if optim.lr_decay_style == "constant" or left <= 0 or since.consumed_samples < end:
        return None
    return (
        f"the schedule has ended at sample {end} of optim.lr_decay_samples: the {left} steps that are left train at optim.min_lr "
        f"({optim.min_lr:g}); optim.lr_decay_samples=null ends it with the last step"
    )


def another_start(optim: OptimConfig, since: Standing) -> str | None:
    """Return one line for people if the config states another beginning of the final decay than the one that is behind the run."""
    began, stated = since.decay_start_sample, optim.lr_wsd_decay_start_sample
    if began is None or stated in (None, began):
        return None
    return (
        f"the final decay of this run began at sample {began}: optim.lr_wsd_decay_start_sample ({stated}) changes nothing "
        "any more"
    )


def _ends(before: OptimConfig, today: OptimConfig) -> str:
    """Return where both schedules end, in samples; nothing if they end together."""
    if "constant" in (before.lr_decay_style, today.lr_decay_style) or before.lr_decay_samples == today.lr_decay_samples:
        return ""
    return f" (the schedule ends at sample {today.lr_decay_samples}, and ended at {before.lr_decay_samples})"


def _overrides(optim: OptimConfig, names: list[str]) -> str:
    values = {name: getattr(optim, name) for name in names}
    return " ".join(f"optim.{name}={'null' if value is None else value}" for name, value in values.items())
