"""The state of a run: with the config, it determines everything that follows."""

from dataclasses import dataclass, field
from typing import Literal

from fanal.run_progress import Standing

Skip = Literal["not finite", "spike"]
"""Reason why a step changed nothing."""


@dataclass(frozen=True, kw_only=True)
class Recent:
    """Values of the last steps, oldest first, all finite, that the next step is compared with (optim/spikes.py)."""

    losses: tuple[float, ...] = ()
    """Mean cross entropy per token of a step, in nats."""
    grad_norms: tuple[float, ...] = ()
    """Gradient norms before gradient clipping."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Progress of a run, counted across restarts."""

    step: int = 0
    """Optimizer steps done, skipped ones included."""
    consumed_samples: int = 0
    """Samples that the steps so far have used; the position in the data."""
    consumed_tokens: int = 0
    """Predicted tokens of those samples, masked ones included."""
    skipped_steps: int = 0
    """Steps without an update, for whatever reason."""
    skipped_in_a_row: int = 0
    """Steps with a non-finite gradient since the last step that did update."""
    skipped_spikes: int = 0
    """Steps without an update because they were spikes; train.spikes.max_skipped_spikes limits them."""
    recent: Recent = field(default_factory=Recent)
    decay_start_sample: int | None = None
    """First sample of the final decay of the learning rate; None before it begins, and where it only follows from the config."""

    @property
    def standing(self) -> Standing:
        """The point of the run that this is."""
        return Standing(self.step, self.consumed_samples, self.decay_start_sample)

    def after(
        self, *, num_samples: int, seq_length: int, skipped: Skip | None, recent: Recent | None = None
    ) -> "TrainState":
        """Return the state after one more step of ``num_samples`` samples; ``recent`` None leaves the values as they are."""
        in_a_row = {None: 0, "not finite": self.skipped_in_a_row + 1, "spike": self.skipped_in_a_row}
        return TrainState(
            step=self.step + 1,
            consumed_samples=self.consumed_samples + num_samples,
            consumed_tokens=self.consumed_tokens + num_samples * seq_length,
            skipped_steps=self.skipped_steps + (skipped is not None),
            skipped_in_a_row=in_a_row[skipped],
            skipped_spikes=self.skipped_spikes + (skipped == "spike"),
            recent=self.recent if recent is None else recent,
            decay_start_sample=self.decay_start_sample,
        )
