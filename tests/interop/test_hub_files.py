"""Drafts for the hubs, read by the libraries that the hubs read them with: mlcroissant and cffconvert."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from pretrain.drafts import citation, croissant
from pretrain.drafts.draft import TO_BE_STATED
from pretrain.drafts.facts import Facts, facts_of
from tests.interop.programs import OTHERS, ROOT, Program, offline, reason_to_skip
from tests.runs.labelled_sources import put_columns
from tests.unit.drafts.hub_runs import STEPS, logged_run

CROISSANT = Program("mlcroissant", ("mlcroissant", "pyarrow"), OTHERS, frozenset())
CITATION = Program("cffconvert", ("cffconvert",), OTHERS, frozenset())
RECOMMENDED = ("datePublished", "version")
"""Properties without which mlcroissant warns, and whose form allows no blank."""


@pytest.fixture(scope="module")
def folder(small_run: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, shards whose columns have nothing in places and a name that an URL has to spell out, and the drafts beside them."""
    folder = tmp_path_factory.mktemp("hub files")
    logged_run(small_run, data_folder, folder)
    put_columns(folder / "code", {"a b/c: é": ['"', "x", None], "date": ["2024-01-01"]})
    (folder / "croissant.json").write_text(croissant.render(facts(folder)), encoding="utf-8")
    (folder / "CITATION.cff").write_text(citation.render(facts(folder)), encoding="utf-8")
    return folder


def facts(folder: Path) -> Facts:
    return facts_of(folder / "run")


def read_by(program: Program, file: Path) -> subprocess.CompletedProcess[str]:
    """Have a program read a file; skip the test if it is not there."""
    if (reason := reason_to_skip(program)) is not None:
        if os.environ.get("FANAL_REQUIRE_INTEROP"):
            pytest.fail(reason)
        pytest.skip(reason)
    return subprocess.run(
        [program.python, "-W", "ignore", "-m", "tests.interop.hub_readers", program.name, file],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=offline(),
    )  # fmt: skip


def test_mlcroissant_reads_every_record_of_every_document(folder: Path) -> None:
    done = read_by(CROISSANT, folder / "croissant.json")
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["name"] == "run: training data" and said["errors"] == []
    assert len(said["warnings"]) == len(RECOMMENDED)
    assert all(any(f"schema.org/{name}" in line for line in said["warnings"]) for name in RECOMMENDED)
    ours = json.loads((folder / "croissant.json").read_text())
    assert said["files"] == {
        file["@id"]: [file["name"], file["contentSize"], file["sha256"]] for file in ours["distribution"]
    }
    assert {name.partition("#")[0] for name in said["records"]} == {"web", "code", "poems"}
    for record_set in ours["recordSet"]:
        name = record_set["@id"].partition("#")[0]
        rows = pyarrow.parquet.read_table(folder / f"{name}.documents.parquet").to_pylist()
        columns = {field["@id"]: field["source"]["extract"]["column"] for field in record_set["field"]}
        found = [{columns[field]: value for field, value in row.items()} for row in said["records"][record_set["@id"]]]
        assert found == rows and len(rows) > 20


def broken(content: dict[str, Any], how: str) -> dict[str, Any]:
    if how == "no hash":
        del content["distribution"][0]["sha256"]
    elif how == "no place":
        del content["distribution"][0]["contentUrl"]
    elif how == "no such file":
        content["recordSet"][0]["field"][0]["source"]["fileObject"]["@id"] = "nothing"
    else:
        del content["recordSet"][0]["field"][0]["dataType"]
    return content


@pytest.mark.parametrize("how", ["no hash", "no place", "no such file", "no type"])
def test_mlcroissant_would_refuse_a_wrong_file(folder: Path, how: str, tmp_path: Path) -> None:
    """The planted faults."""
    content = broken(json.loads((folder / "croissant.json").read_text()), how)
    (tmp_path / "croissant.json").write_text(json.dumps(content))
    done = read_by(CROISSANT, tmp_path / "croissant.json")
    assert done.returncode != 0 and "ValidationError" in done.stderr, done.stdout[:500] + done.stderr[-500:]


def test_cffconvert_finds_the_citation_valid_and_makes_a_reference_of_it(folder: Path) -> None:
    done = read_by(CITATION, folder / "CITATION.cff")
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["version"] == "1.2.0" and "title = {run}" in said["bibtex"] and TO_BE_STATED in said["bibtex"]


@pytest.mark.parametrize(
    ("line", "instead"), [("authors:\n  - name", "people:\n  - name"), (f'version: "step {STEPS}"', "version: []")]
)
def test_cffconvert_would_refuse_a_wrong_one(folder: Path, line: str, instead: str, tmp_path: Path) -> None:
    """The planted faults."""
    text = (folder / "CITATION.cff").read_text()
    assert line in text
    (tmp_path / "CITATION.cff").write_text(text.replace(line, instead, 1))
    assert read_by(CITATION, tmp_path / "CITATION.cff").returncode != 0
