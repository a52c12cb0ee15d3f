"""Rules for ``train.spikes``. Each error names the field, its value, the rule and a value that works."""

import math

from fanal.errors import UserError
from pretrain.config.schema import SpikeConfig

LARGEST_WINDOW = 10_000
"""Steps; every checkpoint's state.json holds the window, and every step sums over it."""


def check_spikes(spikes: SpikeConfig) -> None:
    """Refuse a detector that could find nothing, or that would call every step a spike.

    Raises: UserError naming the first broken rule.
    """
    if not 2 <= spikes.window_steps <= LARGEST_WINDOW:
        raise UserError(
            f"train.spikes.window_steps ({spikes.window_steps}) must be from 2, so that there is a standard deviation, to "
            f"{LARGEST_WINDOW}; 128 works with min_steps=64"
        )
    if not 2 <= spikes.min_steps <= spikes.window_steps:
        raise UserError(
            f"train.spikes.min_steps ({spikes.min_steps}) must be from 2 to train.spikes.window_steps ({spikes.window_steps}), the "
            f"most steps there can be; min_steps={max(2, spikes.window_steps // 2)} works"
        )
    if not 0 < spikes.z_score < math.inf:
        raise UserError(
            f"train.spikes.z_score ({spikes.z_score}) must be above 0 and finite; 6.0 works, and train.spikes=null looks for none"
        )
    if spikes.max_skipped_spikes < 0:
        raise UserError(
            f"train.spikes.max_skipped_spikes ({spikes.max_skipped_spikes}) must not be negative; 0 skips none"
        )
