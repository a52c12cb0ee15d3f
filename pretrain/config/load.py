"""Read a run: defaults <- YAML <- ``key=value`` overrides, then check it whole."""

import difflib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.config.rules import check
from pretrain.config.schema import RunConfig

T = TypeVar("T")


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run a YAML file and overrides describe.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` in order; values are YAML (``null``, ``[1, 2]``, ``3e-4``).
    Raises: ValueError naming the file or key, the value, the rule and what works.
    """
    file = Path(path)
    if not file.is_file():
        nearby = sorted(str(other) for other in Path("configs").rglob("*.yaml"))
        raise ValueError(f"config {path} is not a file; there is: {', '.join(nearby) or 'no configs/ folder here'}")
    layers = [read_mapping(file, RunConfig, example="run_dir: runs/mine")]
    layers.extend(_override(override) for override in overrides)
    run = typed(layers, RunConfig, where=str(path))
    check(run)
    return run


def read_mapping(file: Path, cls: type, *, example: str) -> dict[str, Any]:
    """What a YAML file says, every key of it known to the dataclass ``cls``.

    Raises: ValueError if it is not readable, not a mapping such as ``example``, or has a key that ``cls`` does not know.
    """
    try:
        from_file = OmegaConf.load(file)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config {file} is not readable YAML: {' '.join(str(error).split())}") from None
    if not OmegaConf.is_dict(from_file):
        raise ValueError(f"config {file} must be a mapping such as '{example}'; it is a {type(from_file).__name__}")
    tree = OmegaConf.to_container(from_file)
    _refuse_unknown(tree, cls, where=str(file))
    return tree  # type: ignore[return-value]


def typed(layers: list[dict[str, Any]], cls: type[T], *, where: str) -> T:
    """The dataclass that defaults and layers describe, later ones over earlier ones; every field checked against its type.

    Raises: ValueError naming the key and its value, or the keys that have no default and no value.
    """
    schema = OmegaConf.structured(cls)
    try:
        merged = OmegaConf.merge(schema, *layers)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise ValueError(f"{where} must choose {', '.join(missing)}; these have no default")
        made = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        first_line = str(error).splitlines()[0]
        raise ValueError(f"{key or where}: {first_line}{_hint(first_line)}") from None
    assert isinstance(made, cls), f"omegaconf gave a {type(made).__name__}"
    return made


def to_yaml(run: RunConfig) -> str:
    """The resolved tree, readable again by ``load_run``."""
    return OmegaConf.to_yaml(OmegaConf.structured(run))


def _override(text: str) -> dict[str, Any]:
    key, equals, _ = text.partition("=")
    if not equals or not key:
        raise ValueError(f"override {text!r} must be key=value, such as train.train_steps=100")
    try:
        tree = OmegaConf.to_container(OmegaConf.from_dotlist([text]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(
            f"override {text!r} is not readable: {' '.join(str(error).split())}; write key=value with a YAML value"
        ) from None
    _refuse_unknown(tree, RunConfig, where="override")
    return tree  # type: ignore[return-value]


def _hint(message: str) -> str:
    if "could not be converted to Integer" in message:
        return "; write whole numbers out, such as 1_000_000_000"
    return ""


def _refuse_unknown(tree: Any, cls: type, where: str, prefix: str = "") -> None:
    """omegaconf refuses unknown keys too; this names the full path and the nearest known key, at any depth."""
    if not isinstance(tree, dict):
        return
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    for key, value in tree.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            meant = _find_elsewhere(str(key)) or (f"{prefix}{near[0]}" if near else None)
            suggestion = f"did you mean {meant}?" if meant else f"known here: {', '.join(known)}"
            raise ValueError(f"{where}: {prefix}{key} is not a key; {suggestion}")
        inner = _dataclass_in(hints[key])
        if inner is not None and isinstance(value, list):
            for index, item in enumerate(value):
                _refuse_unknown(item, inner, where, f"{prefix}{key}[{index}].")
        elif inner is not None:
            _refuse_unknown(value, inner, where, f"{prefix}{key}.")


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass a field holds: itself, inside ``list[...]``, or beside ``None``."""
    if is_dataclass(hint) and isinstance(hint, type):
        return hint
    if get_origin(hint) is list or isinstance(hint, UnionType):
        return next((found for arg in get_args(hint) if (found := _dataclass_in(arg)) is not None), None)
    return None


def _find_elsewhere(key: str) -> str | None:
    for room in fields(RunConfig):
        cls = _dataclass_in(get_type_hints(RunConfig)[room.name])
        if cls is not None and key in {f.name for f in fields(cls)}:
            return f"{room.name}.{key}"
    return None
