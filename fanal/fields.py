"""Rules for the fields of a line of JSON. A line may be of another version, or a user may have edited it."""

from collections.abc import Callable, Mapping
from typing import Any

Rule = Callable[[Any], bool]
LEFT_OUT = object()


def fit(record: Mapping[str, Any], rules: Mapping[str, Rule]) -> bool:
    """Whether every field that has a rule exists and keeps it; only with ``or_null`` it may be left out."""
    return all(rule(record.get(name, LEFT_OUT)) for name, rule in rules.items())


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def is_count(value: Any) -> bool:
    """Whether a value is a count of steps, tokens or restarts: bounded, so that arithmetic with floats cannot overflow."""
    return type(value) is int and 0 <= value < 2**63  # not isinstance: true and false are ints, too


def is_figure(value: Any) -> bool:
    """Whether a value is a time or a rate: finite and not negative."""
    return (type(value) is float and 0 <= value < 2**63) or is_count(value)  # NaN is in no range


def is_loss(value: Any) -> bool:
    """Whether a value is a loss: a number, which may be NaN or infinite, or null, which the trainer writes for these."""
    return value is None or type(value) is float or (type(value) is int and abs(value) < 2**63)


def is_losses(value: Any) -> bool:
    """Whether a value holds losses by domain."""
    return isinstance(value, dict) and all(map(is_loss, value.values()))


def or_null(rule: Rule) -> Rule:
    """Return the same rule for a field that may be null or missing."""
    return lambda value: value is None or value is LEFT_OUT or rule(value)
