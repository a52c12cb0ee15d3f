"""Read a run: defaults <- YAML <- ``key=value`` overrides, then check it whole."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fanal.errors import UserError, error_type, user_path
from fanal.run_progress import NEW_RUN, Standing, standing, standing_in
from fanal.shown import kind_of
from pretrain.config.renamed import with_current_names
from pretrain.config.rules import check, check_rate_left
from pretrain.config.schema import RunConfig

T = TypeVar("T")


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run a YAML file and overrides describe.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` in order; values are YAML (``null``, ``[1, 2]``, ``3e-4``).
    Raises: UserError naming the file or key, the value, the rule and what works.
    """
    file = Path(path)
    with user_path(file):
        is_file = file.is_file()
    if not is_file:
        nearby = sorted(str(other) for other in Path("configs").rglob("*.yaml"))
        works = f"these are here: {', '.join(nearby)}" if nearby else "there is no YAML file in configs/ of this folder"
        raise UserError(
            f"config {path} must be a YAML file, and it {'is not a file' if file.exists() else 'does not exist'}; {works}"
        )
    layers = [read_mapping(file, RunConfig, what="config", example="run_dir: runs/mine")]
    layers.extend(_override(override) for override in overrides)
    run = typed(layers, RunConfig, where=str(path))
    check(run, _standing(file, run))
    return run


def load_run_to_train(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run a YAML file and overrides describe, which is to train from where its run folder stands.

    Raises: UserError as ``load_run``, or if the steps that are left would train nothing.
    """
    run = load_run(path, overrides)
    since = standing(Path(run.run_dir))
    check(run, since)  # a checkpoint's own config may be trained on in another folder
    check_rate_left(run.optim, run.train, since)
    return run


def _standing(file: Path, run: RunConfig) -> Standing:
    """Return the point from which a run goes on: of the checkpoint whose config the file is, else of its run folder."""
    if run.optim.lr_decay_samples is not None:
        return NEW_RUN  # nothing depends on it
    return standing_in(file.parent) or standing(Path(run.run_dir))


def read_mapping(file: Path, cls: type, *, what: str, example: str) -> dict[str, Any]:
    """Read a YAML file, every key of which the dataclass ``cls`` must know.

    Args: what, the word for such a file in messages.
    Raises: UserError if it is not readable, not a mapping such as ``example``, or has a key that ``cls`` does not know.
    """
    try:
        from_file = OmegaConf.load(file)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise error_type(error)(f"{what} {file} is not readable YAML: {' '.join(str(error).split())}") from None
    if not OmegaConf.is_dict(from_file):
        kind = "a list" if OmegaConf.is_list(from_file) else kind_of(OmegaConf.to_container(from_file))  # YAML's word
        raise UserError(f"{what} {file} must be a mapping such as '{example}'; it is {kind}")
    tree: Any = OmegaConf.to_container(from_file)
    if cls is RunConfig:
        tree = with_current_names(tree, where=str(file))
    _refuse_misfits(tree, cls, where=str(file))
    return tree


def typed(layers: list[dict[str, Any]], cls: type[T], *, where: str, variable: str = "${{oc.env:{}}}") -> T:
    """The dataclass that defaults and layers describe, later ones over earlier ones; every field checked against its type.

    Args: variable, how an environment variable is written in these layers.
    Raises: UserError naming the key and its value, or the keys that have no default and no value.
    """
    schema = OmegaConf.structured(cls)
    try:
        merged = OmegaConf.merge(schema, *layers)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise UserError(f"{where} must choose {', '.join(missing)}; these have no default")
        made = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        first_line = str(error).splitlines()[0]
        raise UserError(f"{key or where}: {first_line}{_hint(first_line, variable)}") from None
    assert isinstance(made, cls), f"omegaconf gave a {type(made).__name__}"
    return made


def to_yaml(run: RunConfig) -> str:
    """The resolved tree, readable again by ``load_run``."""
    return OmegaConf.to_yaml(OmegaConf.structured(run))


def _override(text: str) -> dict[str, Any]:
    key, equals, _ = text.partition("=")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"override {text!r} must be UTF-8; a name of letters, digits and _.- works") from None
    if not equals or not key:
        raise UserError(f"override {text!r} must be key=value, such as train.train_steps=100")
    try:
        tree: Any = OmegaConf.to_container(OmegaConf.from_dotlist([text]))
    except (yaml.YAMLError, OmegaConfBaseException, IndexError) as error:  # IndexError: of a key such as [
        raise UserError(
            f"override {text!r} is not readable: {' '.join(str(error).split())}; write key=value with a YAML value"
        ) from None
    tree = with_current_names(tree, where="override")
    _refuse_misfits(tree, RunConfig, where="override")
    return tree


def _hint(message: str, variable: str) -> str:
    if "could not be converted to Integer" in message:
        return "; write integers with all their digits, such as 1_000_000_000"
    if "Invalid value 'fp16', expected one of ['bf16'" in message:
        return "; fp16 needs loss scaling, which is not implemented: fp32 works on a GPU without bf16, such as a V100"
    if unknown := re.search(r"Interpolation key '(\w+)' not found", message):
        return f"; an environment variable is written {variable.format(unknown[1])}"
    return ""


def _refuse_misfits(value: Any, hint: Any, where: str, name: str = "") -> None:
    """Refuse unknown keys, and a list, a mapping or a single value in each other's place, at any depth.

    omegaconf refuses most of it too; this names the full path, what is wanted and the nearest known key.
    """
    hint = _without_none(hint)
    wants_list, wants_names = get_origin(hint) is list, get_origin(hint) is dict
    wants_keys = is_dataclass(hint)
    if wants_list and isinstance(value, dict):
        if all(str(key).isdigit() for key in value):  # an override of one item, such as data.train[0].prefix=a
            as_list = list(value.values())
        else:
            as_list = [value] if is_dataclass(get_args(hint)[0]) else list(value)
        raise UserError(
            f"{where}: {name} ({_flow(value)}) must be a list, with all of its items; {_flow(as_list)} works"
        )
    is_single = isinstance(value, int | float) or (isinstance(value, str) and "${" not in value)
    if (wants_names or wants_keys) and (isinstance(value, list) or is_single):
        raise UserError(f"{where}: {name} ({_flow(value)}) must be a mapping; {_example(hint)} works")
    if wants_list and isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_misfits(item, get_args(hint)[0], where, f"{name}[{index}]")
    elif wants_names and isinstance(value, dict):
        for key, item in value.items():
            _refuse_misfits(item, get_args(hint)[1], where, f"{name}.{key}")
    elif is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        _refuse_unknown(value, hint, where, f"{name}." if name else "")


def _refuse_unknown(tree: dict[Any, Any], cls: type, where: str, prefix: str) -> None:
    """The keys of one dataclass, and what they hold."""
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    for key, value in tree.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            meant = _find_elsewhere(str(key)) or (f"{prefix}{near[0]}" if near else None)
            suggestion = f"did you mean {meant}?" if meant else f"known here: {', '.join(known)}"
            raise UserError(f"{where}: {prefix}{key} is not a key; {suggestion}")
        _refuse_misfits(value, hints[key], where, f"{prefix}{key}")


def _without_none(hint: Any) -> Any:
    """The type of a field that may be null."""
    if isinstance(hint, UnionType):
        return next(arg for arg in get_args(hint) if arg is not type(None))
    return hint


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).split("\n")[0]


def _example(hint: Any) -> str:
    """A mapping of a dataclass, or of names to one, values left out."""
    if get_origin(hint) is dict:
        return f"{{NAME: {_example(get_args(hint)[1])}}}"
    return "{" + ", ".join(f"{f.name}: ..." for f in fields(hint)[:2]) + "}"


def _find_elsewhere(key: str) -> str | None:
    for room in fields(RunConfig):
        cls = get_type_hints(RunConfig)[room.name]
        if is_dataclass(cls) and key in {f.name for f in fields(cls)}:
            return f"{room.name}.{key}"
    return None
