"""What a refusal of the launcher says works does work when it is followed: every piece of advice is taken from its message."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.sites.site import load_site
from tests.unit.launch.encoding import Encoding
from tests.unit.launch.test_job_requests import ERRORS, plan
from tests.unit.launch.test_sites import BASE
from tests.unit.launch.test_sites import ERRORS as WRONG_SITES

NAMES = {"exclude": "exclude", "module": "modules"}
NOT_A_VALUE = {
    "a replica of many nodes": "more GPUs than the QoS gives, which the next message says",
    "an unknown QoS": "lists the names that there are",
    "GPUs over every QoS": "no number of nodes keeps the layout",
    "a run folder on each node's own disk": "names file systems",
}
"""Advice that is no value to set."""


def advised(message: str) -> tuple[dict[str, object], list[str]]:
    """The options and the overrides that a message says work."""
    last = message.rpartition("; ")[2]
    options: dict[str, object] = {}
    for name, value in re.findall(r"--([a-z-]+) (\S+?)(?=,? |$)", last):
        key = NAMES.get(name, name.replace("-", "_"))
        kind = {
            "nodes": int,
            "gpus_per_node": int,
            "spare_nodes": int,
            "stop_margin_s": int,
            "hours": float,
            "slice_hours": float,
        }.get(key, str)
        options[key] = (value,) if key in ("exclude", "modules") else kind(value)
    overrides = re.findall(r"\b((?:run_dir|train|parallel|data|model|optim|checkpoint)(?:\.\w+)*=\S+?)(?=,? |$)", last)
    if not options and not overrides:
        key = re.match(r"(run_dir|[a-z]+\.[a-z_]+) \(", message)
        value = re.match(r"(?:the next one is )?(\S+)", last)
        overrides = [f"{key[1]}={value[1]}"] if key and value else []
    return options, overrides


@pytest.mark.parametrize("name", [name for name in ERRORS if name not in NOT_A_VALUE])
def test_advice_about_a_job_works_when_it_is_followed(name: str) -> None:
    config, asked, _ = ERRORS[name]
    with pytest.raises(ValueError) as refused:
        plan(*config, **asked)
    options, overrides = advised(str(refused.value))
    assert options or overrides, f"a value that works must be said: {refused.value}"
    either = " or " in str(refused.value).rpartition("; ")[2] and bool(options) and bool(overrides)
    plan(*config, *([] if either else overrides), **{**asked, **options})
    if either:
        plan(*config, *overrides, **asked)


@pytest.mark.parametrize("name", NOT_A_VALUE)
def test_what_is_no_value_is_still_advice(name: str) -> None:
    config, asked, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        plan(*config, **asked)


def with_value(tree: Any, key: str, value: Any) -> Any:
    """The tree with another value at a key such as ``qos[0].name``."""
    *path, last = [int(part) if part.isdigit() else part for part in re.findall(r"\w+", key)]
    place = tree
    for part in path:
        place = place[part]
    place[last] = value
    return tree


@pytest.mark.parametrize("name", WRONG_SITES)
def test_advice_about_a_site_works_when_it_is_followed(name: str, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    text = BASE + WRONG_SITES[name][0] + "\n"
    site.write_text(text)
    with pytest.raises(ValueError) as refused:
        load_site(str(site))
    said = str(refused.value)
    if meant := re.search(r": (\S+) is not a key; did you mean (\S+)\?", said):
        site.write_text(
            text.replace(meant[1].rpartition(".")[2], meant[2].rpartition(".")[2]).replace(
                "value: b", "value: b, reason: why"
            )
        )
        load_site(str(site))
        return
    works = re.search(
        r"; (?:write it in quotes(?:: \w+)?: |a name that .* lists|an environment variable is written )?(.*?)(?: works.*)?$",
        said,
    )
    key = re.search(r"site.yaml: (?:(\w+) of file system \w+|([\w.\[\]]+))", said) or re.match(r"()([\w.]+):", said)
    assert works and key, f"a value that works must be said: {said}"
    named = f"file_systems[0].{key[1]}" if key[1] else key[2]
    value = yaml.safe_load(works[1]) if works[1] else "other"
    site.write_text(yaml.safe_dump(with_value(yaml.safe_load(text), named, value)))
    load_site(str(site))


WRONG_ENCODINGS = {
    "no parts": {"parts": 0},
    "parts without end": {"parts": 10**12},
    "no workers": {"workers": 0},
    "no tasks at once": {"at_once": 0},
    "too many workers": {"workers": 1000},
    "a negative seed": {"shuffle_seed": -1},
    "a seed beyond 64 bits": {"shuffle_seed": 10**20},
    "tasks at once without sense": {"at_once": 10**12},
    "retries without sense": {"retries": 10**12},
    "negative retries": {"retries": -1},
    "no time": {"hours": 0.0},
    "more than ten years": {"hours": 1e9},
    "an output without a name": {"output": "out/"},
    "an output with a backslash": {"output": "a\\b"},
    "two words for a QoS": {"qos": "a b"},
    "a module of two words": {"modules": ("a b",)},
    "a word that is no option": {"passed_on": ("skip",)},
    "an option that there is not": {"passed_on": ("--no-such-option",)},
}


@pytest.mark.parametrize("name", WRONG_ENCODINGS)
def test_advice_about_an_encoding_works_when_it_is_followed(name: str, encoding: Encoding) -> None:
    wrong = WRONG_ENCODINGS[name]
    with pytest.raises(ValueError) as refused:
        encoding.render(**wrong)
    last = str(refused.value).rpartition("; ")[2]
    if "-- --" in last:
        right: dict[str, Any] = {"passed_on": tuple(re.search(r"-- (--\S+ \S+) works", last)[1].split())}  # type: ignore[index]
    elif options := advised(str(refused.value))[0]:
        right = {
            key: int(value) if key in ("parts", "workers", "at_once", "retries", "shuffle_seed") else value
            for key, value in options.items()
        }  # type: ignore[call-overload]
    else:
        right = {next(iter(wrong)): last.split()[0]}
    encoding.render(**{**wrong, **right})


def test_an_input_that_is_not_there_is_not_given_another_name_that_is_not_there(encoding: Encoding) -> None:
    (encoding.folder / "texts").mkdir()
    (encoding.folder / "texts" / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(
        ValueError, match=r"--input \(texts/b.jsonl\) does not exist; did you mean \S+/texts/a.jsonl\?"
    ) as refused:
        encoding.render(inputs=("texts/b.jsonl",))
    encoding.render(inputs=(re.findall(r"did you mean (\S+)\?", str(refused.value))[0],))
    with pytest.raises(
        ValueError, match=rf"--input \(none/b.jsonl\) does not exist: {encoding.folder} is there, has no none,"
    ):
        encoding.render(inputs=("none/b.jsonl",))


def test_an_output_that_is_there_is_given_a_name_that_is_free(encoding: Encoding) -> None:
    encoding.prefix.parent.mkdir()
    for name in ("code.json", "code-2.json", "code-3.bin"):
        (encoding.prefix.parent / name).touch()
    with pytest.raises(ValueError, match=rf"--output {encoding.prefix}-4 works") as refused:
        encoding.render()
    encoding.render(output=re.findall(r"--output (\S+) works", str(refused.value))[0])
