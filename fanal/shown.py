"""A value in a message: as Python or JSON writes it, cut to a length that people read; or what kind of value it is."""

import json

KINDS: dict[type, str] = {
    type(None): "null", bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array",
    dict: "an object",
}  # fmt: skip
"""The kinds of values that JSON has."""


def shown(value: object, limit: int = 100) -> str:
    """The value, at most ``limit`` characters of it."""
    return _cut(repr(value), limit)


def shown_json(value: object, limit: int = 100) -> str:
    """A value that was read from JSON, as it stands there."""
    return _cut(json.dumps(value, ensure_ascii=False, default=repr), limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def kind_of(value: object) -> str:
    """Return the kind of a value with its article: JSON's name where there is one, else that of its class."""
    name = type(value).__name__
    return KINDS.get(type(value)) or f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def on_one_line(text: str) -> str:
    """A message of several lines as one, its other control characters, and bytes that are not UTF-8, written as Python writes
    them: a terminal shows one line, and takes no order from it."""
    line = " ".join(part for line in text.splitlines() if (part := line.strip()))
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in line
    )
