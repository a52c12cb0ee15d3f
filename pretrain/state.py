"""Where a run stands: three counters that, with the config, determine everything that follows."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Progress of a run, counted across restarts."""

    step: int = 0
    """Optimizer steps done, skipped ones included."""
    consumed_samples: int = 0
    """Samples the steps so far have used; the position in the data."""
    consumed_tokens: int = 0
    """Predicted tokens of those samples, masked ones included."""
    skipped_steps: int = 0
    """Steps without an update since their gradient was not finite."""
    skipped_in_a_row: int = 0
    """The same, since the last step that did update."""

    def after(self, *, num_samples: int, seq_length: int, skipped: bool) -> "TrainState":
        """The state after one more step of ``num_samples`` samples."""
        return TrainState(
            step=self.step + 1,
            consumed_samples=self.consumed_samples + num_samples,
            consumed_tokens=self.consumed_tokens + num_samples * seq_length,
            skipped_steps=self.skipped_steps + skipped,
            skipped_in_a_row=self.skipped_in_a_row + 1 if skipped else 0,
        )
