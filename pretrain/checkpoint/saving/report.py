"""What became of a save."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SaveReport:
    """A checkpoint that is whole, or one that there is not."""

    step: int
    path: str
    num_bytes: int
    """Of the tensors of all ranks."""
    stall_s: float
    """Training stood still."""
    save_s: float
    """From its beginning to its end, the stall included."""
    failure: str | None = None
    """Why there is no checkpoint; the older ones are as they were."""
    warning: str | None = None
    """What went wrong once it was whole."""
