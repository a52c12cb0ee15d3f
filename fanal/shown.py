"""A value in a message: as Python writes it, cut to a length that people read; or what kind of value it is."""

KINDS = {
    type(None): "null", bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list",
    dict: "an object",
}  # fmt: skip
"""The kinds of values that JSON has."""


def shown(value: object, limit: int = 100) -> str:
    """The value, at most ``limit`` characters of it."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def kind_of(value: object) -> str:
    """Return the kind of a value with its article: JSON's name where there is one, else that of its class."""
    name = type(value).__name__
    return KINDS.get(type(value)) or f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def on_one_line(text: str) -> str:
    """A message with its control characters, and bytes that are not UTF-8, written as Python writes them: a terminal shows one
    line, and takes no order from it."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )
