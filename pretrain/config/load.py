"""Read a run: defaults <- YAML <- ``key=value`` overrides, then check it whole."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fanal.errors import UserError, error_type, user_path
from fanal.interpolations import may_be_read, refuse_any_interpolation, refuse_other_interpolations
from fanal.run_folder import was_written_resolved
from fanal.run_progress import NEW_RUN, Standing, standing, standing_in
from fanal.shown import shown
from pretrain.config.long_lists import missing_in, texts_in, with_lists, without_lists
from pretrain.config.misfits import refuse_misfits, yaml_kind_of
from pretrain.config.read_yaml import parse_yaml
from pretrain.config.renamed import refuse_both_names, with_current_names
from pretrain.config.rules import check, check_rate_left
from pretrain.config.scale import parse_scale, scaled
from pretrain.config.schema import RunConfig
from pretrain.config.write_yaml import to_yaml_text

T = TypeVar("T")

LARGEST_FILE = 1 << 24
"""Bytes of a file that may be a config: 50,000 sources with long paths. A longer one is a shard or a log given by mistake."""
MOST_GROWTH = 1_000_000
"""How many times as long as its parts interpolations may make a text."""
LONGEST_REASON = 400
MOST_NAMED = 20
"""Keys that one message names."""
WORDS = {"NoneType": "null", "DictConfig": "mapping", "ListConfig": "list"}
"""YAML's words for omegaconf's."""
UNREADABLE = (
    yaml.YAMLError,
    OmegaConfBaseException,
    OSError,
    UnicodeDecodeError,
    OverflowError,
    RecursionError,
    IndexError,
)
"""What the libraries raise of a text that is no YAML for them: an IndexError of a key such as [."""
ENDLESS_NUMBER = re.compile("(?<![0-9_])[0-9_]{4301}")
"""More digits than Python reads: the libraries let its ValueError through."""


def load_run(path: str | Path, overrides: Sequence[str] = (), scale: str | None = None) -> RunConfig:
    """The run a YAML file and overrides describe.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` in order; values are YAML (``null``, ``[1, 2]``, ``3e-4``). ``@FILE`` lays a file's keys over.
        scale: the part of the file's run that the run is a small twin of, such as 1/64; overrides change the twin.
    Raises: UserError naming the file or key, the value, the rule and what works.
    """
    file = Path(path)
    with user_path(file):
        is_file = file.is_file()
    if not is_file:
        nearby = sorted(str(other) for other in Path("configs").rglob("*.yaml"))
        works = f"these are here: {_some(nearby)}" if nearby else "there is no YAML file in configs/ of this folder"
        raise UserError(
            f"config {path} must be a YAML file, and it {'is not a file' if file.exists() else 'does not exist'}; {works}"
        )
    layers = [read_mapping(file, RunConfig, what="config", example="run_dir: runs/mine")]
    if was_written_resolved(file):
        refuse_any_interpolation(layers[0], where=str(file))
    refuse_both_names(overrides)
    if scale is not None:
        layers = [_twin(layers, parse_scale(scale), where=str(path))]
    layers.extend(_override(override) for override in overrides)
    run = typed(layers, RunConfig, where=str(path))
    check(run, _standing(file, run))
    return run


def _twin(layers: list[dict[str, Any]], scale: Fraction, *, where: str) -> dict[str, Any]:
    """Return the tree of the small twin of the run that these layers describe, which must be one that can run."""
    run = typed(layers, RunConfig, where=where)
    check(run)
    return asdict(scaled(run, scale))


def load_run_to_train(path: str | Path, overrides: Sequence[str] = (), scale: str | None = None) -> RunConfig:
    """The run a YAML file and overrides describe, which is to train from where its run folder stands.

    Raises: UserError as ``load_run``, or if the steps that are left would train nothing.
    """
    run = load_run(path, overrides, scale)
    since = standing(Path(run.run_dir))
    check(run, since)  # a checkpoint's own config may be trained on in another folder
    check_rate_left(run.optim, run.train, since)
    return run


def _standing(file: Path, run: RunConfig) -> Standing:
    """Return the point from which a run goes on: of the checkpoint whose config the file is, else of its run folder."""
    if run.optim.lr_decay_samples is not None and run.optim.lr_wsd_decay_samples is None:
        return NEW_RUN  # nothing depends on it
    return standing_in(file.parent) or standing(Path(run.run_dir))


def read_mapping(file: Path, cls: type, *, what: str, example: str) -> dict[str, Any]:
    """Read a YAML file, every key of which the dataclass ``cls`` must know.

    Args: what, the word for such a file in messages.
    Raises: UserError if it is not readable, not a mapping such as ``example``, or has a key that ``cls`` does not know.
    """
    try:
        size = file.stat().st_size
        text = file.read_text(encoding="utf-8") if size <= LARGEST_FILE else ""
        _refuse_endless_numbers(text, f"{what} {file}")
        tree: Any = parse_yaml(text, name=str(file.absolute()))
    except UNREADABLE as error:
        raise error_type(error)(f"{what} {file} is not readable YAML: {_reason(error)}") from None
    if size > LARGEST_FILE:
        raise UserError(
            f"{what} {file} ({size:,} bytes) must be YAML of at most {LARGEST_FILE:,} bytes, such as '{example}'"
        )
    if not isinstance(tree, dict):
        raise UserError(f"{what} {file} must be a mapping such as '{example}'; it is {yaml_kind_of(tree)}")
    if cls is RunConfig:
        tree = with_current_names(tree, where=str(file))
    refuse_misfits(tree, cls, where=str(file))
    return tree


def typed(layers: list[dict[str, Any]], cls: type[T], *, where: str, variable: str = "${{oc.env:{}}}") -> T:
    """The dataclass that defaults and layers describe, later ones over earlier ones; every field checked against its type.

    Args: variable, how an environment variable is written in these layers.
    Raises: UserError naming the key and its value, or the keys that have no default and no value.
    """
    for layer in layers:
        refuse_other_interpolations(layer, where=where)
    rest, lists = without_lists(layers, cls)

    def made() -> T:
        merged = OmegaConf.merge(OmegaConf.structured(cls), *rest)
        _refuse_growth(merged)  # before anything is resolved
        missing = sorted([*OmegaConf.missing_keys(merged), *missing_in(lists, cls)])
        if missing:
            raise UserError(f"{where} must choose {_some(missing)}; these have no default")
        found: Any = OmegaConf.to_object(merged)
        return with_lists(found, lists, merged, partial(_converted, variable=variable))

    # the layers of a run are files and overrides, so that a key alone says where it stands
    return _converted(None, made, variable=variable, where=where, file="" if cls is RunConfig else f"{where}: ")


def _converted(key: str | None, make: Callable[[], T], *, variable: str, where: str = "", file: str = "") -> T:
    """What a function returns; where omegaconf refuses a value, the error names its key, behind ``file``, or where it stands."""
    try:
        return make()
    except UserError:
        raise
    except (OmegaConfBaseException, ValueError, OverflowError, RecursionError) as error:
        full_key = getattr(error, "full_key", None)
        place = key or (f"{file}{full_key}" if full_key else where)
        first_line = _reason(error, lines=1)
        raise UserError(f"{place}: {first_line}{_hint(first_line, variable)}") from None


def _some(keys: Sequence[str]) -> str:
    """Keys in a message, as many as people read."""
    left = len(keys) - MOST_NAMED
    return ", ".join(keys) if left <= 0 else f"{', '.join(keys[:MOST_NAMED])} and {left:,} more"


def to_yaml(run: RunConfig) -> str:
    """The resolved tree, readable again by ``load_run``."""
    return to_yaml_text(run)


def _override(text: str) -> dict[str, Any]:
    if text.startswith("@"):
        return _overlay(text)
    key, equals, value = text.partition("=")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"override {shown(text, 200)} must be UTF-8; a name of letters, digits and _.- works") from None
    if not equals or not key:
        raise UserError(f"override {shown(text, 200)} must be key=value, such as train.train_steps=100")
    if value.strip() == "???":  # omegaconf's word for what is not chosen, which it would pass over
        raise UserError(f"override {shown(text, 200)} must give a value; leave it out to keep the file's")
    _refuse_endless_numbers(text, f"override {shown(text, 200)}")
    try:
        tree = _tree_of(key, value, text)
    except UNREADABLE as error:
        raise UserError(
            f"override {shown(text, 200)} is not readable: {_reason(error)}; write key=value with a YAML value"
        ) from None
    tree = with_current_names(tree, where="override")
    refuse_misfits(tree, RunConfig, where="override")
    return tree


def _overlay(text: str) -> dict[str, Any]:
    """Read the keys of the file that ``@FILE`` names."""
    file = Path(text[1:])
    with user_path(file):
        is_file = file.is_file()
    if not is_file:
        raise UserError(
            f"override {shown(text, 200)} must be @ and a YAML file with keys of a config, and {shown(text[1:], 200)} is not a "
            "file; key=value works, such as train.train_steps=100"
        )
    tree = read_mapping(file, RunConfig, what="overlay", example="train: {micro_batch_size: 2}")
    if was_written_resolved(file):
        refuse_any_interpolation(tree, where=str(file))
    return tree


def _tree_of(key: str, value: str, text: str) -> Any:
    """The tree of an override. A list or a mapping may be as long as in a file, longer than omegaconf reads."""
    if value.lstrip()[:1] not in ("[", "{"):
        return OmegaConf.to_container(OmegaConf.from_dotlist([text]))
    held = parse_yaml(value, name="<unicode string>")
    return _with_leaf(OmegaConf.to_container(OmegaConf.from_dotlist([f"{key}=0"])), held)


def _with_leaf(tree: Any, leaf: Any) -> Any:
    return {key: _with_leaf(inner, leaf) for key, inner in tree.items()} if isinstance(tree, dict) else leaf


def _refuse_endless_numbers(text: str, where: str) -> None:
    if ENDLESS_NUMBER.search(text):
        raise UserError(f"{where} must hold numbers of at most 4,300 digits; no key takes one of more than 19")


def _reason(error: BaseException, *, lines: int | None = None) -> str:
    """What a library says of a text, on one line and no longer than people read."""
    if isinstance(error, RecursionError):
        return "it holds lists or mappings inside one another too deeply"
    said = " ".join(" ".join(str(error).splitlines()[:lines]).split())
    for word, ours in WORDS.items():
        said = said.replace(word, ours)
    return said if len(said) <= LONGEST_REASON else said[: LONGEST_REASON - 3] + "..."


def _hint(message: str, variable: str) -> str:
    if "could not be converted to Integer" in message:
        is_number = re.search(r"Value '[-+0-9.]", message)
        return (
            "; write integers with all their digits, such as 1_000_000_000" if is_number else "; an integer is wanted"
        )
    if "Invalid value 'fp16', expected one of ['bf16'" in message:
        return "; fp16 needs loss scaling, which is not implemented: fp32 works on a GPU without bf16, such as a V100"
    unknown = re.search(r"Interpolation key '(\w+)' not found", message)
    if unknown and (may_be_read(unknown[1]) or "oc.env" not in variable):
        return f"; an environment variable is written {variable.format(unknown[1])}"
    return ""


def _refuse_growth(merged: Any) -> None:
    """Refuse interpolations of one another that could double a text again and again: omegaconf would follow all of them.

    A text with n of them is at most n times as long as the longest that it names. The environment's are left out.
    """
    times = 1
    for text in texts_in(OmegaConf.to_container(merged)):
        times *= max(1, len(re.findall(r"\$\{(?!oc\.env:)", text)))
        if times > MOST_GROWTH:
            raise UserError(
                f"interpolations must not name one another so often that texts grow without end, and {shown(text, 100)} is one "
                "too many; the text written out works"
            )
