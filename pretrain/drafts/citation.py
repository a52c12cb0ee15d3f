"""A CITATION.cff of a model: how to cite it, for the hubs and libraries that read such a file.

Source: Citation File Format 1.2.0 (https://citation-file-format.github.io). It has no type for a model, and
``software`` is its default.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from fanal.shown import on_one_line
from pretrain.drafts.draft import TO_BE_STATED
from pretrain.drafts.facts import Facts

STATED_BY_THE_PROVIDER = ("date-released", "doi", "license", "repository", "url")
"""Keys whose form allows no blank: each is a comment."""
TRAINER = "Fanal"
TRAINER_AUTHORS = "The Fanal authors"


def render(facts: Facts) -> str:
    """Return the file's text. Each value is a line of its own, with a comment on where it comes from."""
    return "\n".join(_lines(facts)) + "\n"


def _lines(facts: Facts) -> Iterator[str]:
    yield "# Draft, filled from the ledger of a training run, and from nothing else."
    yield f'# What reads "{TO_BE_STATED}" the run does not know; the lines of comments at the end are asked for, too.'
    yield "cff-version: 1.2.0"
    yield f"message: {_scalar('If you use this model, please cite it as this file says.')}"
    yield "type: software"
    yield f"title: {_scalar(facts.run_name)}  # ledger run_dir, its last part"
    yield "authors:"
    yield f"  - name: {_scalar(TO_BE_STATED)}"
    last = len(facts.ledger["runs"]) - 1
    step = facts.at(f"ledger runs[{last}].trained_to")
    yield f"version: {_scalar(f'step {step}')}  # ledger runs[{last}].trained_to"
    tokens = facts.at("ledger data.tokens")
    yield f"abstract: {_scalar(f'A base language model, pretrained on {tokens:,} tokens.')}  # ledger data.tokens"
    yield "identifiers:"
    yield from _identifier(facts.at("ledger ledger_sha256"), "SHA-256 of the ledger of the run", "ledger ledger_sha256")
    if facts.certificate is not None:
        yield from _identifier(
            facts.at("certificate checkpoint.manifest_sha256"),
            "SHA-256 of the manifest of the checkpoint",
            "certificate checkpoint.manifest_sha256",
        )
    yield "references:"
    yield from _trainers(facts)
    yield from _sources(facts)
    yield from (f"# {key}: {TO_BE_STATED}" for key in STATED_BY_THE_PROVIDER)


def _identifier(value: str, what: str, where: str) -> Iterator[str]:
    yield "  - type: other"
    yield f"    value: {_scalar(value)}  # {where}"
    yield f"    description: {_scalar(what)}"


def _trainers(facts: Facts) -> Iterator[str]:
    """Each version of the trainer that the runs' starts name; without starts none is known."""
    seen: set[tuple[str, str | None]] = set()
    for number, run in enumerate(facts.ledger["runs"]):
        for at, start in enumerate(run["starts"]):
            code = start["code"]
            if code is None or (key := (code["version"], code["commit"])) in seen:
                continue
            seen.add(key)
            where = f"ledger runs[{number}].starts[{at}].code"
            yield "  - type: software"
            yield f"    title: {_scalar(TRAINER)}"
            yield "    authors:"
            yield f"      - name: {_scalar(TRAINER_AUTHORS)}"
            yield f"    version: {_scalar(code['version'])}  # {where}.version"
            if code["commit"]:
                yield f"    commit: {_scalar(code['commit'])}  # {where}.commit"


def _sources(facts: Facts) -> Iterator[str]:
    """The shards that were trained on; each needs the authors of its texts."""
    for number, source in enumerate(facts.ledger["data"]["sources"]):
        where = f"ledger data.sources[{number}]"
        name = Path(source["prefix"]).name
        yield "  - type: data"
        yield f"    title: {_scalar(name)}  # {where}.prefix, its last part"
        yield "    authors:"
        yield f"      - name: {_scalar(TO_BE_STATED)}"
        if source["origin"]:
            yield f"    notes: {_scalar(source['origin'])}  # {where}.origin"
        yield "    identifiers:"
        yield "      - type: other"
        yield f"        value: {_scalar(source['identity'])}  # {where}.identity"


def _scalar(text: str) -> str:
    """A text as YAML has it in double quotes, on one line: JSON's escapes are YAML's, what YAML forbids is written out before."""
    return json.dumps(on_one_line(text) or "(empty)", ensure_ascii=False)
