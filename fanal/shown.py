"""A value in a message: as Python writes it, cut to a length that people read."""


def shown(value: object, limit: int = 100) -> str:
    """The value, at most ``limit`` characters of it."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
