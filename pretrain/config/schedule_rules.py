"""Rules of a final decay of the learning rate: of WSD, and of a constant rate that decays at a stated sample or on request."""

from fanal.errors import UserError
from fanal.run_progress import Standing
from pretrain.config.number_rules import LARGEST_SAMPLE
from pretrain.config.schema import OptimConfig
from pretrain.config.steps import DECAY_ON_REQUEST


def check_final_decay(optim: OptimConfig, since: Standing, decay: int) -> None:
    """Refuse keys of a final decay that do not fit together, or do not fit the decay that a run has begun.

    Args: since: the point from which the run resumes; decay: samples, warm-up included, until min_lr.
    Raises: UserError naming the first broken rule.
    """
    style, length = optim.lr_decay_style, optim.lr_wsd_decay_samples
    if style == "WSD" and length is None:
        raise UserError(
            "optim.lr_wsd_decay_samples (null) must be stated with optim.lr_decay_style WSD: the samples of its final decay; "
            f"{max(1, (decay - optim.lr_warmup_samples) // 10)} works"
        )
    _check_style(optim)
    if since.decay_start_sample is not None and (style not in DECAY_ON_REQUEST or length is None):
        stated = "null" if length is None else length
        raise UserError(
            f"optim.lr_decay_style ({style}) with optim.lr_wsd_decay_samples ({stated}) must go on with the decay that this run "
            f"began at sample {since.decay_start_sample}: WSD or constant, and the samples that it takes; "
            "lr_decay_style=WSD works with the decay samples of the run's last config"
        )
    if length is not None and not 0 < length <= LARGEST_SAMPLE:
        raise UserError(
            f"optim.lr_wsd_decay_samples ({length}) must be above 0 and at most {LARGEST_SAMPLE}; "
            f"{max(1, (decay - optim.lr_warmup_samples) // 2)} works"
        )
    _check_start(optim, since)
    if style == "WSD" and optim.lr_wsd_decay_start_sample is None and since.decay_start_sample is None:
        _check_room(optim, decay)


def _check_style(optim: OptimConfig) -> None:
    """Check that no key of a final decay is stated where the rate has none."""
    style = optim.lr_decay_style
    if style in DECAY_ON_REQUEST:
        return
    for name in ("lr_wsd_decay_samples", "lr_wsd_decay_start_sample"):
        value = getattr(optim, name)
        if value is not None:
            raise UserError(
                f"optim.{name} ({value}) must be null unless optim.lr_decay_style is WSD or constant, and it is {style}; "
                "null works, or lr_decay_style=WSD"
            )
    if optim.lr_wsd_decay_style != "linear":
        raise UserError(
            f"optim.lr_wsd_decay_style ({optim.lr_wsd_decay_style}) must be linear, its default, unless optim.lr_decay_style "
            f"is WSD or constant, and it is {style}; linear works, or lr_decay_style=WSD"
        )


def _check_start(optim: OptimConfig, since: Standing) -> None:
    """Check the sample that the config states for the beginning of the decay."""
    start, length = optim.lr_wsd_decay_start_sample, optim.lr_wsd_decay_samples
    if start is None:
        return
    name = f"optim.lr_wsd_decay_start_sample ({start})"
    if length is None:
        raise UserError(
            f"{name} needs optim.lr_wsd_decay_samples (null), the samples of the decay that begins there; "
            f"lr_wsd_decay_samples={max(1, start // 10)} works"
        )
    if not optim.lr_warmup_samples <= start <= LARGEST_SAMPLE:
        raise UserError(
            f"{name} must not be below optim.lr_warmup_samples ({optim.lr_warmup_samples}), and at most {LARGEST_SAMPLE}; "
            f"{optim.lr_warmup_samples} works"
        )
    if since.decay_start_sample is None and start < since.consumed_samples:
        raise UserError(
            f"{name} must not lie behind the run, which resumes after {since.consumed_samples} samples without a decay that has "
            f"begun; optim.lr_wsd_decay_start_sample={since.consumed_samples} works"
        )
    if optim.lr_decay_style == "WSD" and optim.lr_decay_samples not in (None, start + length):
        raise UserError(
            f"{name} ends the schedule {length} samples later (optim.lr_wsd_decay_samples), at {start + length}, and "
            f"optim.lr_decay_samples ({optim.lr_decay_samples}) must say the same; lr_decay_samples=null works"
        )


def _check_room(optim: OptimConfig, decay: int) -> None:
    """Check that a decay that is counted back from the end fits behind the warm-up."""
    length = optim.lr_wsd_decay_samples
    assert length is not None, "WSD states it"
    if length > decay - optim.lr_warmup_samples:
        raise UserError(
            f"optim.lr_wsd_decay_samples ({length}) must be above 0 and fit between the warm-up "
            f"({optim.lr_warmup_samples}) and the end of the schedule ({decay}); "
            f"{max(1, (decay - optim.lr_warmup_samples) // 2)} works"
        )
