"""What a message says works does work when it is followed: taken from the message, for every key and every rule."""

import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_origin

import pytest

from pretrain.config.load import load_run
from tests.fuzz.config_cases import HINTS, KEYS
from tests.unit.config.test_rules import CASES, CONFIG

SECTIONS = [key for key in KEYS if any(is_dataclass(hint) for hint in HINTS[key])]
LISTS = [key for key in KEYS if any(get_origin(hint) is list for hint in HINTS[key])]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


def refusal(config: Path, overrides: list[str]) -> str | None:
    try:
        load_run(config, overrides)
    except ValueError as error:
        return str(error)
    return None


def advice(message: str, key: str) -> list[str]:
    """The overrides that a message recommends."""
    said = message.rpartition("; ")[2]
    if named := re.findall(r"\b([a-z_.]+)=([^\s,]+)", said):
        section = key.rpartition(".")[0]
        return [f"{name if '.' in name or not section else f'{section}.{name}'}={value}" for name, value in named]
    works = re.search(r"(?:^| )((?:[\[{].*[\]}])|\S+) works", said)
    assert works, f"a value that works must be said: {message}"
    return [f"{key}={works[1]}"]


@pytest.mark.parametrize("key", SECTIONS)
@pytest.mark.parametrize("wrong", ["5", "[1]", "abc", "null"])
def test_what_is_no_section_is_told_one_that_works(key: str, wrong: str, config: Path) -> None:
    said = refusal(config, [f"{key}={wrong}"])
    if wrong == "null" and said is None:
        return  # it may be null
    assert said is not None and f"{key} ({wrong}) must be a mapping" in said
    assert refusal(config, advice(said, key)) is None, said


@pytest.mark.parametrize("key", LISTS)
@pytest.mark.parametrize("wrong", ["5", "{a: 1}", "abc", "null", "{prefix: a}", "{prefix: a, weight: 2}"])
def test_what_is_no_list_is_told_one_that_works(key: str, wrong: str, config: Path) -> None:
    if "weight" in wrong and key == "data.validation":
        return  # a rule of its own
    said = refusal(config, [f"{key}={wrong}"])
    if wrong == "null" and key == "parallel.pipeline_layers":
        assert said is None  # it may be null
        return
    assert said is not None and f"{key} (" in said and "must be a list" in said
    assert refusal(config, advice(said, key)) is None, said


@pytest.mark.parametrize(
    ("override", "works"),
    [
        ("data.train[0].weight=2", "[{prefix: shards/train, weight: 2}]"),
        ("data.train[0].prefix=b", "[{prefix: b}]"),
        ("data.train[0]=b", "[{prefix: shards/train}]"),
        ("data.phases[0].start_sample=5", "[{start_sample: 5, train: [{prefix: shards/train}]}]"),
    ],
)
def test_an_item_of_a_list_is_told_a_list_of_whole_items(override: str, works: str, config: Path) -> None:
    said = refusal(config, [override])
    assert said is not None and f"; {works} works" in said
    assert refusal(config, advice(said, override.partition("[")[0])) is None


@pytest.mark.parametrize("key", [key for key in KEYS if key not in SECTIONS + LISTS])
def test_a_list_or_a_mapping_for_a_single_value_is_called_so(key: str, config: Path) -> None:
    for wrong, kind in (("[1]", "a list"), ("{a: 1}", "a mapping")):
        said = refusal(config, [f"{key}={wrong}"])
        assert said is not None and f"{key} ({wrong}) must be " in said and f", and it is {kind}" in said
        assert not re.search("None|Type|Config|dict|Any", said), said


@pytest.mark.parametrize("name", CASES)
def test_the_advice_of_a_rule_works_as_it_is_written(name: str, config: Path) -> None:
    """As the tests of the rules, but from the message alone. Where it says two keys, both are followed."""
    broken, _, works = CASES[name]
    said = refusal(config, broken)
    assert said is not None
    for override in works:
        value = override.partition("=")[2]
        if not value.startswith("["):
            assert re.search(rf"(?<![\w.]){re.escape(value)}(?![\w])", said) or "set both to true" in said, said
    assert refusal(config, [*broken, *works]) is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.validation=[{prefix: a}]", "data.held_out=[]"], "data.held_out is the earlier name of data.validation, and both are given; keep data.validation"),
        (["train.eval_interval=5", "train.validation_interval=6"], "train.eval_interval is the earlier name of train.validation_interval"),
        (["data.held_out[0].prefix=a", "data.validation=[]"], "data.held_out is the earlier name of data.validation"),
    ],
)  # fmt: skip
def test_a_key_given_under_both_of_its_names_is_refused(overrides: list[str], message: str, config: Path) -> None:
    assert message in (refusal(config, overrides) or "")
    assert (
        refusal(config, [override for override in overrides if "held_out" not in override and "eval_" not in override])
        is None
    )


def test_a_value_that_is_left_open_is_refused_where_it_is_given(config: Path) -> None:
    assert (
        refusal(config, ["run_dir=???"]) == "override 'run_dir=???' must give a value; leave it out to keep the file's"
    )


def test_a_word_for_a_number_is_not_told_to_write_its_digits(config: Path) -> None:
    assert (refusal(config, ["train.train_steps=many"]) or "").endswith("; an integer is wanted")


@pytest.mark.parametrize("levels", [5, 40])
def test_interpolations_that_double_a_text_end_at_once(levels: int, config: Path) -> None:
    sources = [{"prefix": f"${{data.train[{level}].prefix}}" * 2} for level in range(1, levels)]
    config.write_text(CONFIG.replace("train: [{prefix: a}]", f"train: {[*sources, {'prefix': 'a'}]}"))
    said = refusal(config, [])
    if levels == 5:
        assert said is None
        assert load_run(config).data.train[0].prefix == "a" * 16
    else:
        assert (
            said is not None and "interpolations must not name one another so often that texts grow without end" in said
        )
