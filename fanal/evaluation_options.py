"""Options that ``fanal evaluate`` and ``fanal launch submit --evaluate-...`` share, and the bounds of their numbers."""

from fanal.errors import UserError

BY = ("source", "domain", "language", "licence", "host")
"""What a perplexity may be by."""
PACKED = "packed.json"
"""File by which a folder of ``fanal evaluate --pack`` is known."""
BOUNDS = {"limit": (1, 10**9, 1000), "fewshot": (0, 10_000, 5), "batch-size": (1, 65_536, 16)}
"""Least and largest value of the numbers of an evaluation, and one in use. Records keep them as JSON, for readers with 64 bits."""


def check_number(option: str, value: int | None, *, of: str) -> None:
    """Refuse a number outside of its bounds. Args: option: as a user writes it; of: its name in BOUNDS. Raises: UserError."""
    least, largest, works = BOUNDS[of]
    if value is not None and value < least:
        raise UserError(f"{option} ({value}) must be at least {least}; {option} {least} works")
    if value is not None and value > largest:
        raise UserError(f"{option} ({brief(value)}) must be at most {largest:,}; {option} {works} works")


def brief(value: int) -> str:
    """Return a whole number in decimal, a long one by its length in bits: Python writes no number of thousands of digits."""
    return str(value) if value.bit_length() <= 128 else f"a number of {value.bit_length():,} bits"
