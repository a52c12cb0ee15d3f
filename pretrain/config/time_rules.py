"""Rules of the times a run may take: its walltime, and what the watchdog allows for each act."""

import math
from dataclasses import fields

from fanal.errors import UserError
from pretrain.config.schema import TrainConfig


def check_times(train: TrainConfig) -> None:
    """Refuse a walltime that leaves no time to train, and limits that are none.

    Raises: UserError naming the first broken rule.
    """
    if train.walltime_margin_s < 0:
        raise UserError(f"train.walltime_margin_s ({train.walltime_margin_s}) must not be negative; 120 works")
    if train.walltime_s is not None and train.walltime_s <= train.walltime_margin_s:
        raise UserError(
            f"train.walltime_s ({train.walltime_s}) must be above train.walltime_margin_s ({train.walltime_margin_s}), which is "
            f"kept for the last checkpoint, or no time is left to train; walltime_s={train.walltime_margin_s + 3600} works"
        )
    for field in fields(train.watchdog):
        limit = getattr(train.watchdog, field.name)
        if limit is not None and not 0 <= limit < math.inf:
            raise UserError(
                f"train.watchdog.{field.name} ({limit}) must be finite and not negative, in seconds; {field.default} works, and "
                "null for no limit"
            )
