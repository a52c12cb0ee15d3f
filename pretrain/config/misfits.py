"""Values of a config that do not fit their key: each error has the whole key, what is wanted, and a value that works.

omegaconf refuses most of it too, in the words of Python and without the path.
"""

import difflib
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from omegaconf import MISSING

from fanal.errors import UserError
from fanal.shown import kind_of, shown
from pretrain.config.number_rules import digits
from pretrain.config.schema import RunConfig

LARGEST_FLOAT_BITS = 1000
"""Bits of an integer that float() may fail for."""
LONGEST_VALUE = 200
"""Characters of a value in a message."""
WANTED = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
EXAMPLES = {
    "prefix": "shards/train", "tokenizer": "my/tokenizer", "start_sample": 1000, "train": [{"prefix": "shards/train"}],
    "num_layers": 4, "lr": 3e-4, "train_steps": 1000, "global_batch_size": 8, "start": 8, "increment": 8, "samples": 1000,
    "value": "mine", "source": "measured", "reason": "why it is set", "start_token": "<|user|>", "end_token": "<|end|>",
}  # fmt: skip
"""Values of keys that have no default."""


def refuse_misfits(value: Any, hint: Any, where: str, name: str = "", default: Any = None) -> None:
    """Refuse unknown keys, and a list, a mapping, a single value or null in each other's place, at any depth.

    Args: where: the file, or ``override``; default: the field's own.
    Raises: UserError.
    """
    optional, hint = isinstance(hint, UnionType), _without_none(hint)
    if isinstance(value, str) and ("${" in value or value == MISSING):
        return  # known when it is resolved; or not chosen
    if value is None:
        if not optional and name:
            raise UserError(f"{where}: {name} (null) must be {_wanted(hint, default)}")
    elif get_origin(hint) is list:
        _refuse_in_list(value, get_args(hint)[0], where, name, default, optional=optional)
    elif get_origin(hint) is dict or is_dataclass(hint):
        _refuse_in_mapping(value, hint, where, name, optional=optional)
    elif isinstance(value, list | dict):
        raise UserError(f"{where}: {name} ({flow(value)}) must be {_wanted(hint)}, and it is {yaml_kind_of(value)}")
    elif hint is float and isinstance(value, int) and value.bit_length() > LARGEST_FLOAT_BITS:
        works = default if isinstance(default, float) else "null" if optional else 1e-3
        raise UserError(f"{where}: {name} ({digits(value)}) must be a finite number; {works} works")


def _refuse_in_list(value: Any, item: Any, where: str, name: str, default: Any, *, optional: bool) -> None:
    if isinstance(value, list):
        for index, one in enumerate(value):
            refuse_misfits(one, item, where, f"{name}[{index}]")
        return
    found: list[Any] = [value]
    if isinstance(value, dict):
        by_number = all(str(key).isdigit() for key in value)  # an override of one item, such as data.train[0].prefix=a
        found = list(value.values()) if by_number else [value] if is_dataclass(item) else list(value)
    works = "null" if optional else _list_that_works(found, item, default)
    raise UserError(f"{where}: {name} ({flow(value)}) must be a list, with all of its items; {works} works")


def _list_that_works(found: list[Any], item: Any, default: Any = None) -> str:
    """The values given as a list of whole items: what a source needs and was not given has an example's value. Of words, which a
    rule of their own judges, the default."""
    if get_origin(item) is Literal:
        return flow([word for word in found if word in get_args(item)] or [get_args(item)[0]])
    if not is_dataclass(item):
        return flow(default or found)
    known = {field.name for field in fields(item)}
    needed = {
        field.name: _example_of(field) for field in fields(item) if field.default == MISSING or field.name in EXAMPLES
    }
    whole = [
        needed | {key: kept for key, kept in one.items() if key in known} if isinstance(one, dict) else needed
        for one in found
    ]
    return flow(whole) if len(flow(whole, limit=None)) <= LONGEST_VALUE else flow([needed])


def _refuse_in_mapping(value: Any, hint: Any, where: str, name: str, *, optional: bool) -> None:
    if not isinstance(value, dict):
        wanted = f"a mapping such as {_example(hint)}, or null; null works" if optional else _wanted(hint)
        raise UserError(f"{where}: {name} ({flow(value)}) must be {wanted}")
    if is_dataclass(hint):
        assert isinstance(hint, type), "a field's type is a class"
        _refuse_unknown(value, hint, where, f"{name}." if name else "")
        return
    for key, item in value.items():
        refuse_misfits(item, get_args(hint)[1], where, f"{name}.{_key(key)}")


def _refuse_unknown(tree: dict[Any, Any], cls: type, where: str, prefix: str) -> None:
    """The keys of one dataclass, and what they hold."""
    hints, known = hints_of(cls), _defaults_of(cls)
    for key, value in tree.items():
        if key not in known:
            near = difflib.get_close_matches(_key(key), known, n=1)
            meant = _find_elsewhere(_key(key)) or (f"{prefix}{near[0]}" if near else None)
            suggestion = f"did you mean {meant}?" if meant else f"known here: {', '.join(known)}"
            raise UserError(f"{where}: {prefix}{_key(key)} is not a key; {suggestion}")
        refuse_misfits(value, hints[key], where, f"{prefix}{key}", known[key])


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields. Kept: a config may have thousands of sources."""
    return get_type_hints(cls)


@cache
def _defaults_of(cls: type) -> dict[str, Any]:
    return {
        field.name: field.default if field.default_factory is NO_DEFAULT else field.default_factory()
        for field in fields(cls)
    }


def _key(key: Any) -> str:
    """A key as a message shows it; one that YAML made a long number of, too."""
    if isinstance(key, int) and key.bit_length() > 200:
        return f"(an integer of {key.bit_length():,} bits)"
    text = str(key)
    return text if len(text) <= 80 else shown(text, 80)


def _without_none(hint: Any) -> Any:
    """The type of a field that may be null."""
    if isinstance(hint, UnionType):
        return next(arg for arg in get_args(hint) if arg is not type(None))
    return hint


def _wanted(hint: Any, default: Any = None) -> str:
    if get_origin(hint) is list:
        item = get_args(hint)[0]
        return f"a list; {_list_that_works([{}] if is_dataclass(item) else [], item, default)} works"
    if get_origin(hint) is dict or is_dataclass(hint):
        return f"a mapping; {_example(hint)} works"
    choices = get_args(hint)
    return f"one of {', '.join(choices)}" if choices else WANTED.get(hint, "a single value")


def yaml_kind_of(value: Any) -> str:
    """Return the kind of a value with its article, in YAML's words."""
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else kind_of(value)


def flow(value: Any, *, limit: int | None = LONGEST_VALUE) -> str:
    """A value as YAML on one line."""
    try:
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000_000)
    except (yaml.YAMLError, ValueError, RecursionError):  # an integer of too many digits; nested too deeply
        return yaml_kind_of(value)
    line = " ".join(text.removesuffix("...\n").split())
    return line if limit is None or len(line) <= limit else line[: limit - 3] + "..."


def _example(hint: Any) -> str:
    """A mapping of a dataclass, or of names to one: what has no default, or else its first key."""
    if get_origin(hint) is dict:
        inner = get_args(hint)[1]
        return f"{{NAME: {_example(inner) if is_dataclass(inner) else 'value'}}}"
    assert is_dataclass(hint), "a mapping is of names or of keys"
    needed = [field for field in fields(hint) if field.default == MISSING or field.name in EXAMPLES]
    is_section = any(field.type is hint for field in fields(RunConfig))  # whose other keys stand in the file
    chosen = needed[:1] if needed and is_section else needed or list(fields(hint))[:1]
    return flow({field.name: _example_of(field) for field in chosen})


def _example_of(field: Field[Any]) -> Any:
    if field.type is float and isinstance(EXAMPLES.get(field.name), str):
        return 1.0  # another class has a text of that name
    if field.name in EXAMPLES:
        return EXAMPLES[field.name]
    return field.default if field.default not in (MISSING, NO_DEFAULT) else 1


def _find_elsewhere(key: str) -> str | None:
    for room in fields(RunConfig):
        cls = hints_of(RunConfig)[room.name]
        if is_dataclass(cls) and key in {f.name for f in fields(cls)}:
            return f"{room.name}.{key}"
    return None
