"""A value in a message: as Python or JSON writes it, cut to a length that people read; or what kind of value it is."""

import json
import re

KINDS: dict[type, str] = {
    type(None): "null", bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array",
    dict: "an object",
}  # fmt: skip
"""The kinds of values that JSON has."""


ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal or an editor obeys in place of showing them: controls, changes of the direction of writing, ends of
lines other than ours, and bytes that are not UTF-8, as Python keeps them. A tab and the end of a line are not among them."""


def escaped(text: str) -> str:
    """A text with its acting characters written out, ``\\x1b`` or ``\\u202e``. What is JSON stays the same JSON."""
    return ACTS.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x20 else f"\\u{number:04x}"


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


def in_yaml(value: object) -> str:
    """Return a value of a config as YAML spells it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
