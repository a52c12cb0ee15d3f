"""Our reader and writer of YAML against omegaconf's: the same trees, the same errors, the same bytes."""

import dataclasses
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.config.load import load_run
from pretrain.config.read_yaml import MOST_VALUES, parse_yaml
from pretrain.config.schema import SourceConfig
from pretrain.config.write_yaml import to_yaml_text
from tests.fuzz.config_cases import VALUES

TEXTS = (
    "a: &x {b: 1}\nc: *x\n", "a: &x {b: 1, d: 2}\nc: {<<: *x, d: 3}\n", "y: &y {b: 5}\nx: &x {b: 1}\nc: {<<: [*x, *y], e: 3}\n",
    "a: {b: 1, b: 2}\n", "a: *x\n", "a: &x 1\nb: &x 2\n", "a: {<<: 3}", "a: {<<: [3]}", "{1: 2, 1: 3}", "{null: 1}", "{[a]: 1}",
    "a: 1\n---\nb: 2\n", "abc", "5", "", "# c\n", "- a\n- b\n", "a: {<<: {b: 1}, <<: {c: 2}}", "a: 1\n...\n", "%YAML 1.1\n---\na: 1\n",
    "a: !!str 5", "a: '5'\nb: \"6\"\nc: |\n  x\n", "? a\n: b\n", "? {a: 1}\n: b\n", "{true: 1, yes: 2}", "{a, b}", "=: 1", "a: =",
    "{&k a: 1, b: *k}", "a: - b", "a:\n\t b: 1", "\x00", "a: \x07", "a: <<",
)  # fmt: skip
PLACES = ("a: {}", "a: [{}]", "{{a: {{b: {}}}}}", "{}: 1", "{}", "- {}\n- 2")
OTHERS_WORDS = ("YAML recursive aliases", "exceeded maximum nesting depth")
"""Errors of ours that name the alias in place of what it names, or come at a smaller depth."""


def by_omegaconf(text: str) -> Any:
    stream = io.StringIO(text)
    stream.name = "run.yaml"  # type: ignore[attr-defined]
    return OmegaConf.to_container(OmegaConf.load(stream))


def outcome(read: Callable[[str], Any], text: str) -> str:
    try:
        return repr(read(text))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, OSError, RecursionError, IndexError) as error:
        return f"{type(error).__name__}: {error}"


def test_every_strange_text_is_read_as_omegaconf_reads_it() -> None:
    texts = [*TEXTS, *(place.format(value) for value in VALUES for place in PLACES)]
    for text in texts:
        if "${" in text or "9" * 4301 in text:
            continue  # omegaconf looks at interpolations as it reads; numbers without end are refused before
        found = outcome(lambda text: parse_yaml(text, name="run.yaml"), text)
        if found[0] in "'\"" or "it is a single value" in found:
            continue  # of which omegaconf makes a key, or fails an assertion of its own
        expected = outcome(by_omegaconf, text)
        if not any(words in expected for words in OTHERS_WORDS):
            assert found == expected


@pytest.mark.parametrize("text", ["&a [*a]", "a: &x {b: [*x]}", "[" * 5000, "{a: " * 1500, "- " * 1500 + "a"])
def test_what_holds_itself_or_is_too_deep_is_refused(text: str) -> None:
    assert outcome(lambda text: parse_yaml(text, name="a"), text).startswith(
        ("ConstructorError", "RecursionError", "ScannerError")
    )


def test_a_bomb_of_aliases_ends_at_the_largest_number_of_values() -> None:
    lines = [
        f"x0: &x0 {list(range(10))}",
        *(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 12)),
    ]
    with pytest.raises(yaml.YAMLError, match=f"it holds more than {MOST_VALUES:,} values"):
        parse_yaml("\n".join(lines), name="run.yaml")


def test_a_mixture_named_by_aliases_may_be_as_long_as_one_written_out() -> None:
    sources = "\n".join(f"- {{prefix: a{number}}}" for number in range(3000))
    tree = parse_yaml(f"train: &all\n{sources}\nphases: [*all, *all]\n", name="run.yaml")
    assert [len(tree["train"]), *map(len, tree["phases"])] == [3000] * 3


def test_every_strange_value_is_written_as_omegaconf_writes_it() -> None:
    run = load_run(Path("configs/tiny.yaml"))
    texts = [
        *(value for value in VALUES if "\ud800" not in value), "y", "Yes", "nO", "1e3", "nan", "infinity", " a", "a ", "a b", "a #b",
        "a " * 100, "null", "Null", "~", "", "=", "<<", "0x1F", "2020-01-01", "\u0663", "\t", "a\nb", "\n", "\x85", "\u2028",
    ]  # fmt: skip
    shares = [1.0, 0.5, 1e-5, -0.0, 0.0, 1e22, 1 / 7, math.nan, math.inf, -math.inf, 1e16, None]
    written = [SourceConfig(prefix=text, domain=text) for text in texts if "${" not in text]
    written += [SourceConfig(prefix="a", weight=share) for share in shares]
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, train=written, validation=[]))
    assert to_yaml_text(run) == OmegaConf.to_yaml(OmegaConf.structured(run))
