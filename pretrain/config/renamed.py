"""Keys that had another name in an earlier version. A config or a checkpoint of that version is read as it is."""

import re
from collections.abc import Sequence
from typing import Any

from fanal.errors import UserError

RENAMED = {
    "data.held_out": "data.validation",
    "data.held_out_fraction": "data.validation_fraction",
    "train.eval_interval": "train.validation_interval",
    "train.eval_samples": "train.validation_samples",
    "train.watchdog.evaluation_s": "train.watchdog.validation_s",
}
"""Today's key of each earlier one (2026-11-28: one word, validation, for what was held-out here and eval there)."""


def with_current_names(tree: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Return a config, or a part of one, with every renamed key under its current name.

    Raises: UserError if a key is given under both names.
    """
    for old, new in RENAMED.items():
        tree = _moved(tree, old.split("."), new.split(".")[-1], where=where, names=(old, new))
    return tree


def refuse_both_names(overrides: Sequence[str]) -> None:
    """Refuse overrides that give a key under both of its names: the last one would win without a word. Raises: UserError."""
    keys = [override.partition("=")[0] for override in overrides]
    for old, new in RENAMED.items():
        if all(any(re.match(rf"{re.escape(name)}($|[.\[])", key) for key in keys) for name in (old, new)):
            raise UserError(f"override: {old} is the earlier name of {new}, and both are given; keep {new}")


def _moved(tree: dict[str, Any], path: list[str], name: str, *, where: str, names: tuple[str, str]) -> dict[str, Any]:
    """Return the tree with the key at a path under another name, in the same place of its section."""
    first, *rest = path
    if first not in tree:
        return tree
    if rest:
        section = tree[first]
        return (
            tree | {first: _moved(section, rest, name, where=where, names=names)} if isinstance(section, dict) else tree
        )
    if name in tree:
        raise UserError(f"{where}: {names[0]} is the earlier name of {names[1]}, and both are given; keep {names[1]}")
    return {name if key == first else key: value for key, value in tree.items()}
