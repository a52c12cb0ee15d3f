"""A configuration as YAML text, byte for byte as omegaconf writes it, in a fiftieth of its time."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import yaml
from yaml.representer import SafeRepresenter
from yaml.resolver import Resolver

DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
PLAIN, QUOTED = (True, False), (False, True)
MOST_KNOWN = 1_000
"""Single values that are kept; more of them would cost the garbage collector what they save."""
WORDS = frozenset(
    cased
    for word in ("y", "yes", "n", "no", "true", "false", "on", "off")
    for cased in (word, word.capitalize(), word.upper())
)
"""YAML 1.1's truth values. A text that is one of them, or a number, is quoted, so that it is read back as a text."""


def to_yaml_text(tree: Any) -> str:
    """A dataclass as YAML, its fields in their order: mappings, lists, texts, numbers, true, false and null."""
    text: Any = yaml.emit(_events(tree), Dumper=DUMPER, allow_unicode=True)
    return text


def _events(tree: Any) -> Iterator[Any]:
    yield yaml.StreamStartEvent()
    yield yaml.DocumentStartEvent(explicit=False)
    yield from _Writer().node(tree)
    yield yaml.DocumentEndEvent(explicit=False)
    yield yaml.StreamEndEvent()


class _Writer:
    """The events of a tree. The first single values are kept, since keys and null come with every source."""

    def __init__(self) -> None:
        self._known: dict[tuple[type, str], Any] = {}
        self._resolver = Resolver()

    def node(self, tree: Any) -> Iterator[Any]:
        """Yield the events of a value."""
        if is_dataclass(tree) or isinstance(tree, dict):
            pairs = (
                tree.items()
                if isinstance(tree, dict)
                else [(one.name, getattr(tree, one.name)) for one in fields(tree)]
            )
            yield yaml.MappingStartEvent(None, None, True, flow_style=not pairs)
            for key, value in pairs:
                yield self._scalar(key)
                yield from self.node(value)
            yield yaml.MappingEndEvent()
        elif isinstance(tree, list | tuple):
            yield yaml.SequenceStartEvent(None, None, True, flow_style=not tree)
            for value in tree:
                yield from self.node(value)
            yield yaml.SequenceEndEvent()
        else:
            yield self._scalar(tree)

    def _scalar(self, value: Any) -> Any:
        key = type(value), value if isinstance(value, str) else repr(value)  # 0.0 equals -0.0
        event = self._known.get(key)
        if event is None:
            event = self._new_scalar(value)
            if len(self._known) < MOST_KNOWN:
                self._known[key] = event
        return event

    def _new_scalar(self, value: Any) -> Any:
        if not isinstance(value, str):
            text = SafeRepresenter().represent_data(value).value
            return yaml.ScalarEvent(None, None, PLAIN, text)
        with_quotes = value in WORDS or _is_number(value)
        reads_as_text = self._resolver.resolve(yaml.ScalarNode, value, PLAIN) == "tag:yaml.org,2002:str"
        return yaml.ScalarEvent(None, None, (reads_as_text, True), value, style="'" if with_quotes else None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
