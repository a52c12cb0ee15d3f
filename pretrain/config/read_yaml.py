"""YAML text -> plain mappings, lists and values: what omegaconf reads, in a tenth of its time and for as many sources as a run has.

libyaml's events become the tree directly. omegaconf builds three trees on the way and takes 10,000 values at most, 1,108 sources of
a resolved config. What is rare (a tag, a key that is no single value, several documents) is left to omegaconf, in its own words.
"""

import io
import re
from typing import Any

import yaml
from omegaconf import OmegaConf
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError, SafeConstructor

from fanal.shown import shown

MOST_VALUES = 500_000
"""Values, keys included, with those that aliases name counted each time: 50,000 sources written out, and the end of a bomb."""
DEEPEST = 200
"""Lists and mappings inside one another. No key lies deeper than five."""
MERGE = "tag:yaml.org,2002:merge"
TIMESTAMP = "tag:yaml.org,2002:timestamp"
FLOAT = re.compile(
    r"""^(?:
     [-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)
    |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
"""omegaconf's numbers: 3e-4 is one, which YAML 1.1 takes for a text. A test compares the two readers."""
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
CONSTRUCTOR = SafeConstructor()
KINDS: dict[str, list[tuple[str, re.Pattern[str]]]] = {
    first: [(tag, pattern) for tag, pattern in kinds if tag != TIMESTAMP]
    + [("tag:yaml.org,2002:float", FLOAT)] * (first in "-+0123456789." and first != "")
    for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
"""What a plain text may stand for, by its first letter; dates are texts here."""


class _RareError(Exception):
    """The text holds what is left to omegaconf."""


class _Merge:
    """The key <<."""


def parse_yaml(text: str, *, name: str) -> Any:
    """The tree of a YAML text. What an alias names is shared: nobody may change the tree.

    Args: name, of the file, for the places that errors name.
    Raises: yaml.YAMLError, or what omegaconf raises of a text that is no mapping or list (``load.UNREADABLE``).
    """
    try:
        return _Reader(text, name).tree()
    except _RareError:
        try:
            tree: Any = OmegaConf.to_container(OmegaConf.load(_stream(text, name)))
        except AssertionError:  # of a text such as !!str 5, which it takes for YAML once more
            raise ConstructorError(None, None, "it is a single value") from None
        return tree


def _stream(text: str, name: str) -> io.StringIO:
    stream = io.StringIO(text)
    stream.name = name  # type: ignore[attr-defined]  # which libyaml puts into its messages
    return stream


class _Open:
    """A list or a mapping whose end was not read yet: what it holds so far, keys and values in turn if it is a mapping."""

    __slots__ = ("anchor", "first_value", "held", "is_mapping", "mark", "marks")

    def __init__(self, event: Any, first_value: int) -> None:
        self.is_mapping = isinstance(event, yaml.MappingStartEvent)
        self.anchor, self.mark, self.first_value = event.anchor, event.start_mark, first_value
        self.held: list[Any] = []
        self.marks: list[Any] = []  # of each key


class _Reader:
    """One document."""

    def __init__(self, text: str, name: str) -> None:
        self._loader = LOADER(_stream(text, name))
        self._num_values = 0
        self._known: dict[str, Any] = {}  # plain texts and what they stand for
        self._anchors: dict[str, tuple[Any, int]] = {}  # with the number of values
        self._unfinished: set[str] = set()

    def tree(self) -> Any:
        """Return the document. Raises: yaml.YAMLError, RecursionError, _RareError."""
        try:
            return self._document()
        finally:
            self._loader.dispose()

    def _document(self) -> Any:
        next_event = self._loader.get_event
        next_event()  # the stream's start
        if not isinstance(next_event(), yaml.DocumentStartEvent):
            raise _RareError  # an empty file
        stack: list[_Open] = []
        root = _Open(yaml.SequenceStartEvent(None, None, True), 0)
        parent = root
        while True:
            event = next_event()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self._put(parent, self._scalar(event), event)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                stack.append(parent)
                parent = self._opened(event, depth=len(stack))
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                value, closed, parent = self._closed(parent), parent, stack.pop()
                self._put(parent, value, closed)
            elif kind is yaml.AliasEvent:
                self._put(parent, self._alias(event), event)
            else:
                break  # the document's end
        if not isinstance(next_event(), yaml.StreamEndEvent) or not isinstance(root.held[0], dict | list | str):
            raise _RareError
        return root.held[0]

    def _put(self, parent: _Open, value: Any, event: Any) -> None:
        self._num_values += 1
        if self._num_values > MOST_VALUES:
            raise ConstructorError(None, None, f"it holds more than {MOST_VALUES:,} values", parent.mark)
        if parent.is_mapping and len(parent.held) % 2 == 0:
            if value is None or isinstance(value, dict | list):  # no key here
                raise _RareError
            parent.marks.append(event.start_mark)
        elif value is _Merge:
            raise _RareError
        parent.held.append(value)

    def _opened(self, event: Any, *, depth: int) -> _Open:
        if event.tag is not None:
            raise _RareError
        if depth > DEEPEST:
            raise RecursionError
        if event.anchor is not None:
            self._unfinished.add(self._new_anchor(event))
        return _Open(event, self._num_values)

    def _closed(self, ended: _Open) -> Any:
        value = self._mapping(ended) if ended.is_mapping else ended.held
        if ended.anchor is not None:
            self._unfinished.discard(ended.anchor)
            self._anchors[ended.anchor] = value, self._num_values - ended.first_value
        return value

    def _mapping(self, ended: _Open) -> dict[Any, Any]:
        keys, values = ended.held[::2], ended.held[1::2]
        found = dict(zip(keys, values, strict=True))
        if len(found) < len(keys):
            self._refuse_twice(keys, ended)
        return found if _Merge not in found else _merged(keys, values)

    def _refuse_twice(self, keys: list[Any], ended: _Open) -> None:
        seen = set()
        for key, mark in zip(keys, ended.marks, strict=True):
            if isinstance(key, str) and key in seen:
                context = "while constructing a mapping"
                raise ConstructorError(context, ended.mark, f"found duplicate key {key}", mark)
            seen.add(key)

    def _new_anchor(self, event: Any) -> str:
        if event.anchor in self._anchors or event.anchor in self._unfinished:
            raise _RareError
        return event.anchor

    def _alias(self, event: Any) -> Any:
        if event.anchor in self._unfinished:
            raise ConstructorError(None, None, "YAML recursive aliases are not supported.", event.start_mark)
        if event.anchor not in self._anchors:
            raise ComposerError(None, None, "found undefined alias", event.start_mark)
        value, num_values = self._anchors[event.anchor]
        self._num_values += num_values
        return value

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if event.tag is not None:
            raise _RareError
        value = text
        if event.implicit[0]:  # no quotes
            value = self._known.get(text, self)
            if value is self:
                value = self._known[text] = _value_of(text, event)
        if event.anchor is not None:
            self._anchors[self._new_anchor(event)] = value, 0
        return value


def _value_of(text: str, event: Any) -> Any:
    """What a text without quotes stands for."""
    tag = next((tag for tag, pattern in KINDS.get(text[:1], ()) if pattern.match(text)), None)
    if tag is None:
        return text
    if tag == MERGE:
        return _Merge
    make = SafeConstructor.yaml_constructors.get(tag)
    if make is None:
        raise _RareError
    try:
        return make(CONSTRUCTOR, yaml.ScalarNode(tag, text))
    except ValueError:
        raise ConstructorError(None, None, f"{shown(text, 60)} is not a number", event.start_mark) from None


def _merged(keys: list[Any], values: list[Any]) -> dict[Any, Any]:
    """A mapping with <<: of what that names, then its own keys; of several mappings in a list, the first has its way."""
    taken: dict[Any, Any] = {}
    for key, value in zip(keys, values, strict=True):
        if key is _Merge:
            for one in reversed(value) if isinstance(value, list) else [value]:
                if not isinstance(one, dict):
                    raise _RareError
                taken |= one
    own = {key: value for key, value in zip(keys, values, strict=True) if key is not _Merge}
    return {key: value for key, value in taken.items() if key not in own} | own
