"""The paths that a draft names, followed into the ledger that the command prints, by another reader than the drafts' own."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.drafts.draft import Document, Entry
from pretrain.drafts.figures import scientific

NULL_SAYS_SOMETHING = {"ledger runs[].started_from"}
"""Null there is the figure: training began from initial weights."""


def looked_up(printed: dict[str, Any], path: str) -> Iterator[Any]:
    """The values of a path, word by word."""
    found: list[Any] = [printed]
    for word in re.sub(r"\[(\d*)\]", r".#\1", path).split("."):
        if word == "#":
            found = [element for content in found for element in content]
        else:
            found = [content[int(word[1:]) if word.startswith("#") else word] for content in found]
    yield from found


def assert_paths(document: Document, printed: dict[str, Any]) -> int:
    """Follow every path of a draft: something is there, and where a value is printed as it is, it is what the draft shows.

    Returns: the number of values that were compared.
    """
    count = 0
    for entry in document.entries():
        for path in entry.where:
            source, inside = path.split(" ", 1)
            assert source == "ledger", path
            values = [value for value in looked_up(printed, inside) if value is not None]
            assert values or path in NULL_SAYS_SOMETHING, path
            count += sum(_compare(entry, path, value) for value in values)
    return count


def _compare(entry: Entry, path: str, value: Any) -> bool:
    if entry.how or isinstance(value, dict | list):
        return False
    shown = {str(value)}
    if isinstance(value, int | float):
        shown.add(f"{value:,}" if isinstance(value, int) else scientific(value))
    if path.endswith("prefix"):
        shown.add(Path(str(value)).name)
    assert any(text in (entry.value or "") for text in shown), f"{path}: {value!r} is not in {entry.value!r}"
    return True
