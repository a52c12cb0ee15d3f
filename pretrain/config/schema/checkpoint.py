"""Keys of ``checkpoint``: when to write them, and what a run starts from."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints: when to write them, which to keep, and which one a new run starts from."""

    init_from: str | None = None
    """Begin with the weights of this checkpoint of another run, or of that run's last one: a folder; null means initial weights.
    Steps, samples and the learning rate start anew. Of no effect once the run has a checkpoint of its own."""
    init_optimizer: Literal["keep", "fresh"] = "keep"
    """Optimizer states with init_from: keep takes them (AdamW's moments) and the number of updates along; fresh starts at zero,
    and AdamW's first update moves each weight by the whole learning rate, so a warm-up is advised."""

    interval: int | None = None
    """Steps between checkpoints; null means only at the end or at a requested stop."""
    keep_last: int | None = None
    """Number of newest checkpoints to keep; null means all."""
    keep_every_steps: int | None = None
    """Checkpoints whose step is a multiple of this are kept forever; null means none beyond keep_last."""
    asynchronous: bool = True
    """Train on while a checkpoint is written, from a copy in host memory; false waits until it is whole."""
    phase_timeout_s: float = 600.0
    """Seconds that each phase of a save may take (folder, writing, the other ranks' files, sealing) before it counts as failed."""
    max_failed_saves: int = 3
    """Saves in a row that may fail, the training going on, before the run stops."""
