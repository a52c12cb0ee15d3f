"""Text from elsewhere in a Markdown file: it is shown, whatever it holds, and is never markup, a link or a line of the header."""

import re
from collections.abc import Mapping, Sequence

import yaml

from fanal.shown import on_one_line

PLAIN = re.compile(r"[^\W_]+(?:_[^\W_]+|[ .,+/-]+[^\W_]+)*")
"""Words with marks between them that mean nothing in Markdown. Lines, links and emphasis begin with others."""
LINK = re.compile(r"www\.|://|mailto:|xmpp:", re.IGNORECASE)
"""What GitHub's Markdown takes for the address of a link without any brackets."""


def as_text(value: object) -> str:
    """A text as it is where that is safe, else as a span of code, in which nothing is markup. It is on one line."""
    text = on_one_line(str(value))
    if PLAIN.fullmatch(text) and not LINK.search(text):
        return text
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    room = " " if longest or not text.strip() else ""
    return f"{fence}{room}{text}{room}{fence}" if text else "(empty)"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def front_matter(content: Mapping[str, str | Sequence[str] | Mapping[str, str | float]]) -> str:
    """Return the header of a card, which the hub reads as YAML. Each value is one line: programs look for the header's end by
    its dashes."""
    lines = {key: _on_lines(value) for key, value in content.items()}
    return f"---\n{yaml.safe_dump(lines, sort_keys=False, allow_unicode=True, width=10_000)}---\n"


def _on_lines(value: str | float | Sequence[str] | Mapping[str, str | float]) -> object:
    if isinstance(value, str):
        return on_one_line(value)
    if isinstance(value, Mapping):
        return {key: _on_lines(each) for key, each in value.items()}
    return value if isinstance(value, int | float) else [*map(on_one_line, value)]
