"""Drafts that hubs ask for: their figures against the ledger and the files, and names that would break a format."""

import copy
import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urljoin

import pyarrow.parquet
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fanal.errors import DamageError
from fanal.shown import on_one_line
from pretrain.__main__ import cli
from pretrain.drafts import citation, croissant, data_statement
from pretrain.drafts import croissant as croissant_module
from pretrain.drafts.draft import TO_BE_STATED
from pretrain.drafts.facts import Facts, facts_of
from tests.unit.drafts.followed_paths import assert_paths
from tests.unit.drafts.hub_runs import BATCH, SEQ_LENGTH, STEPS, logged_run
from tests.unit.ledger.made_shards import make_shard

RENDERED = {"data statement": data_statement.render, "croissant": croissant.render, "citation": citation.render}


@pytest.fixture(scope="module")
def folder(small_run: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hubs")
    logged_run(small_run, data_folder, folder)
    return folder


@pytest.fixture(scope="module")
def facts(folder: Path) -> Facts:
    return facts_of(folder / "run")


def assert_describes_its_files(described: dict[str, Any], folder: Path) -> None:
    """Sizes and hashes are those of the bytes, and each record set has the columns of its file that hold something."""
    places = {file["@id"]: folder / unquote_to_bytes(file["contentUrl"]).decode() for file in described["distribution"]}
    for file in described["distribution"]:
        content = places[file["@id"]].read_bytes()
        assert file["contentSize"] == f"{len(content)} B"
        assert file["sha256"] == hashlib.sha256(content).hexdigest(), file["name"]
    for record_set in described["recordSet"]:
        (path,) = {places[field["source"]["fileObject"]["@id"]] for field in record_set["field"]}
        rows = pyarrow.parquet.read_table(path)
        held = [name for name in rows.column_names if rows[name].null_count < len(rows)]
        assert [field["source"]["extract"]["column"] for field in record_set["field"]] == held


def test_a_croissant_file_has_the_hash_the_size_and_the_columns_of_each_file(folder: Path, facts: Facts) -> None:
    described = json.loads(croissant.render(facts))
    names = [file["name"] for file in described["distribution"]]
    ends = ("bin", "idx", "json", "documents.parquet")
    assert sorted(names) == sorted(
        f"{name}.{end}" for name in ("web", "books", "code", "poems") for end in ends if end != "documents.parquet" or name in ("web", "poems")
    )  # fmt: skip
    assert_describes_its_files(described, folder)
    assert described["license"][-1] == TO_BE_STATED and "cc-by-4.0" in described["license"]
    assert set(described["inLanguage"]) == {"fr", "en", "de", "mul"}


@pytest.mark.parametrize("end", ["bin", "idx", "json", "documents.parquet"])
def test_a_file_that_changed_since_is_not_the_described_one(
    folder: Path, facts: Facts, end: str, tmp_path: Path
) -> None:
    """The planted fault: one bit of one file."""
    described = croissant.croissant(facts)
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    content = bytearray((copied / f"web.{end}").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / f"web.{end}").write_bytes(content)
    with pytest.raises(AssertionError):
        assert_describes_its_files(described, copied)


def test_a_large_file_of_tokens_is_hashed_if_every_byte_may_be_read(
    folder: Path, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = croissant_module.read_manifest
    monkeypatch.setattr(
        croissant_module, "read_manifest",
        lambda *given, **how: dataclasses.replace(read(*given, **how), bin_block_sha256=("0" * 64, "1" * 64)),
    )  # fmt: skip
    blank = [file for file in croissant.croissant(facts)["distribution"] if file["sha256"] == TO_BE_STATED]
    assert [file["name"] for file in blank] == [f"{name}.bin" for name in ("web", "books", "code", "poems")]
    assert_describes_its_files(croissant.croissant(dataclasses.replace(facts, deep=True)), folder)


def test_a_shard_that_was_altered_is_not_described(
    folder: Path, small_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    logged_run(small_run, data_folder, tmp_path)
    found = facts_of(tmp_path / "run")
    content = bytearray((tmp_path / "web.bin").read_bytes())
    content[100] ^= 1
    (tmp_path / "web.bin").write_bytes(content)
    words = ["draft", str(tmp_path / "run"), "--to", str(tmp_path / "drafts")]
    done = CliRunner().invoke(cli, [*words, "--deep"])
    assert done.exit_code == 76 and "web.bin" in done.output and not (tmp_path / "drafts").exists()
    assert CliRunner().invoke(cli, words).exit_code == 0, "without --deep no token is read"
    path = tmp_path / "web.json"
    path.write_text(path.read_text().replace('"odc-by"', '"cc0-1.0"'))
    with pytest.raises(DamageError, match=r"web\.json has content with sha256"):
        croissant.render(found)


@pytest.mark.parametrize("name", RENDERED)
def test_each_figure_names_a_place_of_the_ledger_that_is_there(facts: Facts, name: str) -> None:
    text = RENDERED[name](facts)
    paths = set(re.findall(r"(?:ledger|certificate) [a-z_]+[a-z_0-9.\[\]]*", text)) - {
        "ledger of",
        "ledger that",
        "ledger has",
    }
    assert len(paths) > 5
    for path in {path.rstrip(".") for path in paths} - {"ledger name", "ledger data"}:
        facts.follow(path)
    assert str(Path(facts.ledger["run_dir"]).parent) not in text, "a path of this machine is nobody else's business"
    assert TO_BE_STATED in text


def test_a_data_statement_has_the_elements_of_the_schema_and_the_figures_of_the_ledger(facts: Facts) -> None:
    document = data_statement.document_of(facts)
    assert [section.title.split(" ", 1)[0] for section in document.sections] == [str(number) for number in range(1, 18)]
    for entry in document.entries():
        for path in entry.where:
            facts.follow(path)
    values = {entry.name: entry.value for entry in document.entries() if entry.value is not None}
    assert f"training read {STEPS * BATCH * SEQ_LENGTH:,} tokens" in values["Summary"]
    for row in facts.at("ledger data.in_all.by_licence"):
        named = row["name"] or "not stated"
        assert re.search(rf"\| {re.escape(named)} \| {row['documents']:,} \| {row['tokens']:,} \|", values["Licences"])
    unknown = sum(row["tokens"] for row in facts.at("ledger data.in_all.by_host") if row["name"] is None)
    assert values["Text whose host is not stated"].startswith(f"{unknown:,} of {STEPS * BATCH * SEQ_LENGTH:,} tokens")
    people = [section for section in document.sections if section.title.endswith("demographic")]
    assert len(people) == 2 and all(
        entry.value is None and entry.blank for section in people for entry in section.entries
    )


def test_every_kind_of_run_has_its_drafts(
    bare_facts: Facts, chain_facts: Facts, import_facts: Facts, alone_facts: Facts
) -> None:
    """Shards without labels or columns, a chain of runs, one that continues an import, the last run alone."""
    for each in (bare_facts, chain_facts, import_facts, alone_facts):
        document = data_statement.document_of(each)
        assert assert_paths(document, dict(each.ledger)) >= 4
        before = [entry for entry in document.entries() if entry.name == "What came before"]
        assert len(before) == (each.ledger["came_from"] is not None)
        described = json.loads(croissant.render(each))
        assert len({file["@id"] for file in described["distribution"]}) == len(described["distribution"]) >= 3
        content = yaml.safe_load(citation.render(each))
        assert content["version"] == f"step {each.at(f'{each.last_run}.trained_to')}"
        assert len([found for found in content["references"] if found["type"] == "data"]) == len(
            each.at("ledger data.sources")
        )


def test_removals_and_checks_are_told(facts: Facts) -> None:
    ledger = copy.deepcopy(dict(facts.ledger))
    ledger["data"]["sources"][0] |= {
        "exclusions": [{"num_documents": 3, "num_tokens": 1234, "reason": "asked | by *whom*"}],
        "overlap": [{"by": "tokens", "ngram": 13, "overlapping_documents": 7}],
    }
    ledger["came_from"] = {"step": 5}
    found = Facts(ledger=ledger)
    text = data_statement.render(found)
    assert "| web | 3 | 1,234 | `asked \\| by *whom*` |" in text and "| web | 13 tokens | 7 |" in text
    assert "began with weights of another one" in text
    (line, blank) = croissant.croissant(found)["rai:dataPreprocessingProtocol"]
    assert line.startswith("web: 3 documents of 1,234 tokens were removed: asked | by *whom*") and blank == TO_BE_STATED


def test_a_citation_names_model_ledger_trainer_and_sources(facts: Facts) -> None:
    text = citation.render(facts)
    content = yaml.safe_load(text)
    assert content["cff-version"] == "1.2.0" and content["title"] == "run" and content["version"] == f"step {STEPS}"
    assert content["authors"] == [{"name": TO_BE_STATED}]
    assert content["identifiers"][0]["value"] == facts.at("ledger ledger_sha256")
    trainer, *sources = content["references"]
    assert (trainer["title"], trainer["version"]) == ("Fanal", "0")
    assert [source["title"] for source in sources] == ["web", "books", "code", "poems"]
    assert [source["identifiers"][0]["value"] for source in sources] == facts.follow("ledger data.sources[].identity")
    assert all(f"# {key}: {TO_BE_STATED}\n" in text for key in ("date-released", "doi", "license", "repository", "url"))
    certificate = {"checkpoint": {"manifest_sha256": "ab" * 32}}
    with_export = yaml.safe_load(citation.render(dataclasses.replace(facts, certificate=certificate)))
    assert with_export["identifiers"][1]["value"] == "ab" * 32


STRANGE = (
    '"', "'", "# a", ": b", "- c", "{x}", "[y]", "\\", "a\nb: c", "x\n---\ny", "\x85\u2028", "%41", "a b", "é", "😀", "&a *b", "null", "no",
    "1.0", "<script>alert(1)</script>", "![x](http://evil.example)", "a | b", "`", "{{x}}", "\u202e", "@id", "a#b?c", "..b", "\x1b[2J", "~",
)  # fmt: skip
NAMES = st.one_of(st.sampled_from(STRANGE), st.text(max_size=12))
SURROGATE = re.compile("[\ud800-\udfff]")
FILE_NAMES = NAMES.map(lambda text: text.replace("/", "_").replace("\0", "_")).filter(
    lambda text: text not in ("", ".", "..") and not SURROGATE.search(text) and len(text.encode()) < 60
)


@given(
    names=st.lists(FILE_NAMES, min_size=2, max_size=3, unique=True),
    label=NAMES, column=NAMES.filter(lambda text: text not in ("", "file", "position") and not SURROGATE.search(text)),
)  # fmt: skip
@settings(max_examples=25)
def test_no_name_breaks_a_file(
    facts: Facts, tmp_path_factory: pytest.TempPathFactory, names: list[str], label: str, column: str
) -> None:
    folder = tmp_path_factory.mktemp("named")
    ledger: dict[str, Any] = copy.deepcopy(dict(facts.ledger))
    ledger["data"]["sources"] = ledger["data"]["sources"][: len(names)]
    for source, name in zip(ledger["data"]["sources"], names, strict=True):
        (folder / name).mkdir()
        shard = make_shard(folder / name / name, [3, 4], columns={column: ["x", None]})
        source |= {"prefix": str(shard.prefix), "origin": label, "licence": label, "domain": label}
    for rows in ledger["data"]["in_all"].values():
        for row in rows:
            row["name"] = label
    ledger["run_dir"] = str(folder / names[0])
    found = Facts(ledger=ledger)

    described = json.loads(croissant.render(found))
    assert_describes_its_files(described, folder)
    ids = [file["@id"] for file in described["distribution"]] + [each["@id"] for each in described["recordSet"]]
    ids += [field["@id"] for each in described["recordSet"] for field in each["field"]]
    assert len(set(ids)) == len(ids)
    for file in described["distribution"]:
        assert urljoin("https://example.org/a/", file["contentUrl"]) == f"https://example.org/a/{file['contentUrl']}"
        assert re.fullmatch(r"[A-Za-z0-9_.~/%-]+", file["contentUrl"])

    content = yaml.safe_load(citation.render(found))
    assert set(content) == {
        "cff-version", "message", "type", "title", "authors", "version", "abstract", "identifiers", "references",
    }  # fmt: skip
    shown = [on_one_line(name) or "(empty)" for name in names]
    assert [source["title"] for source in content["references"][-len(names) :]] == shown

    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(data_statement.render(found))
    assert set(re.findall(r"<(\w+)", html)) <= {
        "h1", "h2", "h3", "p", "code", "table", "thead", "tbody", "tr", "th", "td", "strong", "em",
    }  # fmt: skip
    assert html.count("<h2>") == 17
