"""The lists of sections (sources, phases) of a configuration, built without omegaconf, which takes a millisecond for each source.

omegaconf merges and resolves what is left. A value that is no plain one of its field's type is still converted by omegaconf, and
so is each different interpolation, once. Where the rest of a config, or a source, may refer to the lists themselves, nothing is
taken out: omegaconf alone knows all forms of that.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from omegaconf import MISSING, OmegaConf

from fanal.errors import UserError
from pretrain.config.misfits import hints_of

Place = tuple[str, str]
"""A section and its list, such as data and train."""
Convert = Callable[[str, Callable[[], Any]], Any]
"""Give what a function returns; its errors as the UserError of the key."""

INTERPOLATION = re.compile(r"\$\{(?:oc\.env:\w+(?:,[\w./ -]*)?|([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*))\}")
"""An environment variable, or a key by its whole name (the group)."""
TEXTS = "texts of the lists"
"""The key under which interpolations of the lists are resolved; no field has such a name."""


def texts_in(tree: Any) -> Iterator[str]:
    """Every text among the values of a tree."""
    left = [tree]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            left += reversed(one.values())
        elif isinstance(one, list):
            left += reversed(one)


def without_lists(layers: Sequence[dict[str, Any]], cls: type) -> tuple[list[dict[str, Any]], dict[Place, list[Any]]]:
    """The layers without the lists of sections of the dataclass ``cls``, and the lists that count: the last layer's.

    The layers must have passed ``refuse_misfits``; nothing in them is changed. Where a list has to stay, all of them do.
    """
    places = _places(cls)
    rest, lists = [], {}
    for layer in layers:
        for section, name in places:
            held = layer.get(section, {})
            if isinstance(held, str):
                return list(layers), {}
            if name in held:
                if not _is_plain(held[name]):
                    return list(layers), {}
                lists[section, name] = held[name]
                layer = layer | {section: {key: value for key, value in layer[section].items() if key != name}}
        rest.append(layer)
    if any(_may_name(text, places) for part in (rest, list(lists.values())) for text in texts_in(part)):
        return list(layers), {}
    return rest, lists


def missing_in(lists: dict[Place, list[Any]], cls: type) -> list[str]:
    """Keys of the lists that have no value and no default."""
    return [
        key
        for (section, name), items in lists.items()
        for key in _missing(items, _item_of(hints_of(hints_of(cls)[section])[name]), f"{section}.{name}")
    ]


def with_lists(made: Any, lists: dict[Place, list[Any]], merged: Any, convert: Convert) -> Any:
    """The dataclass ``made``, with its lists.

    Args: merged, the rest as omegaconf's config, which interpolations refer to.
    Raises: UserError naming the key of the first value that does not fit.
    """
    builder = _Builder(lists, merged, convert)
    for (section, name), items in lists.items():
        hint = hints_of(type(getattr(made, section)))[name]
        built = builder.built(items, _item_of(hint), f"{section}.{name}")
        made = replace(made, **{section: replace(getattr(made, section), **{name: built})})
    return made


class _Builder:
    """Makes the items of lists."""

    def __init__(self, lists: dict[Place, list[Any]], merged: Any, convert: Convert) -> None:
        self._convert = convert
        found = {match[0]: None for text in texts_in(list(lists.values())) for match in INTERPOLATION.finditer(text)}
        self._number = {text: number for number, text in enumerate(found)}
        self._scope: Any = OmegaConf.create(
            {**OmegaConf.to_container(merged), TEXTS: list(found)} if found else {}  # type: ignore[dict-item]
        )
        self._resolved: dict[str, Any] = {}

    def built(self, items: list[Any], cls: Any, name: str) -> list[Any]:
        """The items of a list as dataclasses."""
        hints = hints_of(cls)
        return [
            cls(**{
                key: self._value(value, hints[key], cls, key, f"{name}[{number}].{key}") for key, value in item.items()
            })
            for number, item in enumerate(items)
        ]  # fmt: skip

    def _value(self, value: Any, hint: Any, cls: type, key: str, name: str) -> Any:
        if isinstance(value, str) and "${" in value:
            value = self._filled_in(value, name)
        if isinstance(value, list):
            return self.built(value, _item_of(hint), name)
        is_optional = isinstance(hint, UnionType)
        wanted = next(kind for kind in get_args(hint) if kind is not NoneType) if is_optional else hint
        if type(value) is wanted or (value is None and is_optional):
            return value
        if type(value) is int and wanted is float:
            return self._convert(name, lambda: float(value))
        if isinstance(value, str) and "${" in value:  # in the value of a variable, where it stands for itself
            raise UserError(f"{name}: Value '{value}' of type 'str' could not be converted to {wanted.__name__}")
        one: Any = {key: value}
        return self._convert(name, lambda: getattr(OmegaConf.merge(OmegaConf.structured(cls), one), key))

    def _filled_in(self, text: str, name: str) -> Any:
        whole = INTERPOLATION.fullmatch(text)
        if whole:
            return self._of(text, name)
        return INTERPOLATION.sub(lambda match: str(self._of(match[0], name)), text)

    def _of(self, interpolation: str, name: str) -> Any:
        if interpolation not in self._resolved:
            number = self._number[interpolation]
            self._resolved[interpolation] = self._convert(name, lambda: self._scope[TEXTS][number])
        return self._resolved[interpolation]


def _missing(items: list[Any], cls: type, name: str) -> Iterator[str]:
    for number, item in enumerate(items):
        for field in fields(cls):
            value = item.get(field.name, field.default)
            if value == MISSING:
                yield f"{name}[{number}].{field.name}"
            elif isinstance(value, list):
                yield from _missing(value, _item_of(hints_of(cls)[field.name]), f"{name}[{number}].{field.name}")


def _is_plain(value: Any) -> bool:
    """Whether it is a list of mappings, and so are the lists in these."""
    return isinstance(value, list) and all(
        isinstance(item, dict) and all(_is_plain(inner) for inner in item.values() if isinstance(inner, list | dict))
        for item in value
    )


def _may_name(text: str, places: Sequence[Place]) -> bool:
    """Whether a text has an interpolation of a form, or of a key, that could lead to one of the lists."""
    if "${" not in text:
        return False
    names = [match[1].split(".") for match in INTERPOLATION.finditer(text) if match[1]]
    leads_there = any(name[: len(place)] == list(place)[: len(name)] for name in names for place in places)
    return leads_there or "${" in INTERPOLATION.sub("", text) or "\\" in text


@cache
def _places(cls: Any) -> tuple[Place, ...]:
    """The lists of sections in the sections of a dataclass."""
    return tuple(
        (section, name)
        for section, hint in hints_of(cls).items()
        if is_dataclass(hint)
        for name, inner in hints_of(hint).items()
        if get_origin(inner) is list and is_dataclass(_item_of(inner))
    )


def _item_of(hint: Any) -> Any:
    return get_args(hint)[0]
