"""``fanal draft``: the files that it writes, what it refuses, and names from elsewhere that no document takes for markup."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from markdown_it import MarkdownIt

from pretrain.__main__ import cli
from pretrain.drafts.eu_public_summary_domains import render as render_domains
from pretrain.drafts.facts import Facts
from pretrain.drafts.registry import DRAFTS
from pretrain.ledger.ledger import ledger_of, ledger_text
from tests.golden.formats.kept import LLAMA

HOSTILE = "a|b`c`\n\n# Free\n<script>alert(1)</script> [x](javascript:alert(1)) ![y](http://evil.example/x.png) \x1b[2J"
NAMES = {draft.file_name for draft in DRAFTS}


def draft(*words: object) -> Result:
    return CliRunner().invoke(cli, ["draft", *map(str, words)])


def test_all_drafts_are_written_and_nothing_beside_them(drafted: dict[str, Path], tmp_path: Path) -> None:
    done = draft(drafted["chain"], "--to", tmp_path / "deep" / "drafts")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "deep" / "drafts").iterdir()} == NAMES
    assert done.output.split() == [str(tmp_path / "deep" / "drafts" / draft.file_name) for draft in DRAFTS]
    assert len({draft.name for draft in DRAFTS}) == len(NAMES) == len(DRAFTS)


def test_a_file_that_is_there_is_refused_before_anything_is_written(drafted: dict[str, Path], tmp_path: Path) -> None:
    filled = tmp_path / "annex-xi.md"
    filled.write_text("filled in")
    refused = draft(drafted["bare"], "--to", tmp_path)
    assert refused.exit_code == 2 and "must not hold annex-xi.md yet" in refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["annex-xi.md"] and filled.read_text() == "filled in"
    assert draft(drafted["bare"], "--to", f"{tmp_path}-2").exit_code == 0  # the two ways that the message names
    assert draft(drafted["bare"], "--to", tmp_path, "--overwrite").exit_code == 0
    assert filled.read_text().startswith("# Technical documentation")


def test_what_is_no_folder_and_a_folder_in_the_place_of_a_file_are_refused_before_anything_is_written(
    drafted: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    refused = draft(drafted["bare"], "--to", tmp_path / "file")
    assert refused.exit_code == 2 and "must be a folder, or not be there yet" in refused.output
    (tmp_path / "drafts" / "CITATION.cff").mkdir(parents=True)
    refused = draft(drafted["bare"], "--to", tmp_path / "drafts", "--overwrite")
    assert refused.exit_code == 2 and "must not hold a folder of the name CITATION.cff" in refused.output
    assert [path.name for path in (tmp_path / "drafts").iterdir()] == ["CITATION.cff"]


def test_shards_that_were_moved_are_found_by_the_advice_of_the_error(tmp_path: Path, drafted: dict[str, Path]) -> None:
    prefix = Path(json.loads(ledger_text(ledger_of(drafted["bare"])))["data"]["sources"][0]["prefix"])
    shutil.move(prefix.parent, tmp_path / "new")
    try:
        refused = draft(drafted["bare"], "--to", tmp_path / "drafts")
        advised = re.findall(r"--moved \S+", refused.output)[0].replace("=NEW", f"={tmp_path / 'new'}").split()
        assert refused.exit_code == 2 and not (tmp_path / "drafts").exists()
        assert draft(drafted["bare"], "--to", tmp_path / "drafts", *advised).exit_code == 0
    finally:
        shutil.move(tmp_path / "new", prefix.parent)


def test_a_link_in_the_place_of_a_file_is_not_followed(drafted: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "annex-xi.md").symlink_to(tmp_path / "mine")
    assert draft(drafted["bare"], "--to", tmp_path, "--only", "annex-xi").exit_code == 2
    assert draft(drafted["bare"], "--to", tmp_path, "--only", "annex-xi", "--overwrite").exit_code == 0
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "annex-xi.md").is_symlink()


def test_only_some_drafts_are_written(drafted: dict[str, Path], tmp_path: Path) -> None:
    assert (
        draft(drafted["bare"], "--to", tmp_path, "--only", "annex-xi", "--only", "model-documentation").exit_code == 0
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annex-xi.md", "model-documentation.md"]
    refused = draft(drafted["bare"], "--to", tmp_path / "x", "--only", "annex-xii")
    assert refused.exit_code == 2 and "must be one of eu-public-summary," in refused.output
    (advice,) = re.findall(r"--only (\S+) works", refused.output)
    assert draft(drafted["bare"], "--to", tmp_path / "x", "--only", advice).exit_code == 0


def test_bad_input_is_refused_in_one_line_and_leaves_nothing(drafted: dict[str, Path], tmp_path: Path) -> None:
    refused = draft(drafted["bare"], "--to", tmp_path / "x", "--co2-g-per-kwh", "nan")
    assert refused.exit_code == 2 and "--co2-g-per-kwh 50 works" in refused.output
    refused = draft(tmp_path, "--to", tmp_path / "x")
    assert refused.exit_code == 2 and "must be the folder of a run" in refused.output
    (tmp_path / "file").write_text("")
    refused = draft(drafted["bare"], "--to", tmp_path / "file" / "x")
    assert refused.exit_code == 2 and len(refused.output.splitlines()) == 1, refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an earlier version, with its export."""
    return Path(shutil.copytree(LLAMA.folder, tmp_path_factory.mktemp("kept") / "llama"))


def test_the_export_of_an_older_run_gives_the_hash_of_each_file(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(kept)
    done = draft("checkpoint", "--to", tmp_path, "--export", "export", "--only", "model-documentation")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "model-documentation.md").read_text()
    entries = json.loads((kept / "export" / "certificate.json").read_text())["files"]
    assert entries and all(f"| {entry['path']} | {entry['bytes']:,} | {entry['sha256']} |" in text for entry in entries)


def test_an_export_of_another_run_or_an_altered_one_is_refused(
    kept: Path, drafted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(kept)
    refused = draft(drafted["bare"], "--to", tmp_path / "x", "--export", "export")
    assert refused.exit_code == 2 and "must be an export of a checkpoint of" in refused.output
    refused = draft("checkpoint", "--to", tmp_path / "x", "--export", "shards")
    assert refused.exit_code == 2 and "has no certificate.json" in refused.output
    shutil.copytree("export", tmp_path / "export")
    weights = tmp_path / "export" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused = draft("checkpoint", "--to", tmp_path / "x", "--export", tmp_path / "export")
    assert refused.exit_code == 76 and not os.path.lexists(tmp_path / "x")


def test_a_checkpoint_and_an_export_are_no_place_for_drafts(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(kept, tmp_path / "kept"))
    checkpoint = next(Path("checkpoint/checkpoints").iterdir())
    for place in (checkpoint, checkpoint / "drafts", Path("export")):
        before = sorted(Path().rglob("*"))
        refused = draft("checkpoint", "--to", place, "--only", "annex-xi")
        assert refused.exit_code == 2 and sorted(Path().rglob("*")) == before, refused.output
        (advice,) = re.findall(r"(\S+) works", refused.output)
        assert draft("checkpoint", "--to", advice, "--only", "annex-xi", "--overwrite").exit_code == 0, advice


def with_names(facts: Facts, name: str) -> Facts:
    """The same facts, in which everything that has a name from elsewhere has this one."""
    ledger = json.loads(json.dumps(facts.ledger))
    for dimension in ("language", "licence", "host"):
        ledger["data"]["in_all"][f"by_{dimension}"][0]["name"] = name
    for source in ledger["data"]["sources"]:
        (amount,) = [a for a in ledger["data"]["in_all"]["by_source"] if a["name"] == source["prefix"]]
        source["prefix"] = amount["name"] = f"shards/{name.replace('/', '_')}-{source['identity'][:8]}"
        source |= {"domain": name, "origin": name, "licence": name, "language": name}
        source["exclusions"] = [{"num_documents": 1, "num_tokens": 7, "reason": name}]
    ledger["data"]["held_out"][0]["prefix"] = f"shards/{name.replace('/', '_')}"
    ledger["data"]["dates"] |= {"first": name, "last": name}
    ledger["runs"][0]["run_dir"] = f"runs/{name.replace('/', '_')}"
    ledger["not_known"] = [name]
    ledger["rank_hours_by_device"][0]["device"] = name
    ledger["energy"]["methods"] = [name]
    return Facts(ledger=ledger)


@pytest.mark.parametrize("chosen", [draft for draft in DRAFTS if draft.file_name.endswith(".md")], ids=lambda d: d.name)
def test_names_from_elsewhere_are_shown_and_are_no_markup(chain_facts: Facts, chosen: object) -> None:
    parsed = []
    for name in ("plain", HOSTILE):
        text = chosen.render(with_names(chain_facts, name))  # type: ignore[attr-defined]
        assert "\x1b" not in text
        tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
        kinds = [child.type for token in tokens for child in token.children or ()]
        assert not {"html_inline", "link_open", "image"} & set(kinds)
        parsed.append([token.type for token in tokens])
    assert parsed[0] == parsed[1]
    assert "alert(1)" in text


def test_a_name_that_is_no_host_is_no_formula_and_no_line_of_its_own(chain_facts: Facts) -> None:
    for name in ("=1+1", "@x", "-2", HOSTILE, 'a","b'):
        facts = with_names(chain_facts, name)
        amounts = facts.ledger["data"]["in_all"]["by_host"]
        amounts[0]["distinct_tokens"] = 10**9
        if amounts[0]["name"] is None:
            continue
        rows = list(csv.reader(io.StringIO(render_domains(facts))))
        assert len(rows) == 4 and rows[1][1].startswith("'") and all(len(row) == 5 for row in rows)
