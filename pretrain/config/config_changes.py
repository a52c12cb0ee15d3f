"""What differs between two configurations, key by key, in words."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from fanal.errors import UserError
from pretrain.config.load import typed
from pretrain.config.misfits import flow
from pretrain.config.renamed import with_current_names
from pretrain.config.schema import RunConfig

MOST_CHANGES = 1_000
"""Differences that are named: whoever exchanges a mixture of 50,000 sources reads no more."""
ABSENT = "(none)"
"""Stands for an entry of a list that the other configuration does not have."""


def config_changes(before: dict[str, Any], after: RunConfig) -> tuple[str, ...]:
    """Return what differs, such as ``train.global_batch_size: 8 -> 16``, in the order of keys.

    Args: before: a resolved configuration, also of an earlier version: keys that were renamed count under their current name, and
        younger ones had their defaults.
    """
    changes = list(_changes("", _completed(before), asdict(after)))
    more = len(changes) - MOST_CHANGES
    return (*changes[:MOST_CHANGES], f"and {more:,} more") if more > 0 else tuple(changes)


def _completed(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with every key of this version; as it is, where a newer version wrote it."""
    try:
        return asdict(typed([with_current_names(tree, where="the start before")], RunConfig, where="the start before"))
    except UserError:
        return tree


def _changes(key: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys((*after, *before)):
            yield from _changes(f"{key}.{name}".lstrip("."), before.get(name, ABSENT), after.get(name, ABSENT))
    elif _has_sections(before) and _has_sections(after):
        for number in range(max(len(before), len(after))):
            old, new = (side[number] if number < len(side) else ABSENT for side in (before, after))
            yield from _changes(f"{key}[{number}]", old, new)
    elif before != after:
        yield f"{key}: {_in_words(before)} -> {_in_words(after)}"


def _has_sections(value: Any) -> bool:
    """Whether this is a list of sections, such as data.train; an empty one may be."""
    return isinstance(value, list | tuple) and all(isinstance(entry, dict) for entry in value)


def _in_words(value: Any) -> str:
    return value if value is ABSENT else flow(list(value) if isinstance(value, tuple) else value)
