"""What a field of a line of JSON may hold. A line may be of another version, or a person may have edited it."""

from collections.abc import Callable, Mapping
from typing import Any

Rule = Callable[[Any], bool]
LEFT_OUT = object()


def fit(record: Mapping[str, Any], rules: Mapping[str, Rule]) -> bool:
    """Whether every field that has a rule is there and keeps it; only with ``or_null`` it may be left out."""
    return all(rule(record.get(name, LEFT_OUT)) for name, rule in rules.items())


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def is_count(value: Any) -> bool:
    """Of steps, tokens, restarts: bounded, so that arithmetic with floats cannot overflow."""
    return type(value) is int and 0 <= value < 2**63  # not isinstance: true and false are ints, too


def is_figure(value: Any) -> bool:
    """A time or a rate: finite and not negative."""
    return (type(value) is float and 0 <= value < 2**63) or is_count(value)  # NaN is in no range


def is_loss(value: Any) -> bool:
    """A number, which may be NaN or infinite; null, which the trainer writes for these."""
    return value is None or type(value) is float or (type(value) is int and abs(value) < 2**63)


def is_losses(value: Any) -> bool:
    """By domain."""
    return isinstance(value, dict) and all(map(is_loss, value.values()))


def or_null(rule: Rule) -> Rule:
    """The same rule for a field that may be null, or not there."""
    return lambda value: value is None or value is LEFT_OUT or rule(value)
