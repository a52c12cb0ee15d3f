"""The figures of the ledger in a model card: of just the steps of the checkpoint, only what is known, and no label that is markup."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fanal.errors import UserError
from fanal.shown import on_one_line
from pretrain.config.schema import RunConfig
from pretrain.convert.exporting import account as account_module
from pretrain.convert.exporting.account import Account, account_for
from pretrain.convert.exporting.card_account import (
    TO_BE_STATED,
    costs_section,
    documents_section,
    emissions,
    languages_read,
    warnings,
)
from pretrain.convert.exporting.export import ExportOptions
from pretrain.convert.exporting.markdown import front_matter
from pretrain.convert.exporting.model_card import _front_matter, hub_code
from pretrain.ledger.data_read import DataRead, PartRead
from pretrain.ledger.ledger import ledger_of
from pretrain.ledger.tally import Amount
from pretrain.log.energy_file import EnergyFile, write_energy_file
from tests.unit.drafts.hub_runs import BATCH, SEQ_LENGTH, STEPS, logged_run
from tests.unit.history.starts import begin
from tests.unit.report.made_runs import end, stamped, start, step, write_run

JOULES, G_PER_KWH = 7.2e6, 50.0
TAGS = {"h2", "p", "code", "table", "thead", "tbody", "tr", "th", "td"}


def checkpoint_of(run: RunConfig, at: int, *, samples: int | None = None) -> Any:
    """As much of an export's source as an account looks at."""
    return SimpleNamespace(
        run=run, average=None, sources=object(), folder=Path(run.run_dir) / "checkpoints" / f"step-{at:08d}",
        state=SimpleNamespace(step=at, consumed_samples=at * BATCH if samples is None else samples),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(small_run: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    run = logged_run(small_run, data_folder, tmp_path_factory.mktemp("carded"))
    found = EnergyFile(start=1, rank=0, host="node", measured_s=10.0, joules={"package-0": JOULES})
    write_energy_file(run.run_dir, found)
    return run


def header_of(account: Account) -> dict[str, Any]:
    without_shards: Any = SimpleNamespace(sources=None)
    return ModelCard(f"{_front_matter(without_shards, account, 'apache-2.0')}# x\n").data.to_dict()


def rows_of(section: str, title: str = "") -> dict[str, list[str]]:
    """The rows of the table with this first heading."""
    for block in section.split("\n\n"):
        cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines() if line[:1] == "|"]
        if cells and cells[0][0] == title:
            return {first: rest for first, *rest in cells[2:]}
    raise AssertionError(f"no table of {title!r} in\n{section}")


def test_the_card_has_what_the_ledger_says(run: RunConfig) -> None:
    account = account_for(checkpoint_of(run, STEPS), co2_g_per_kwh=G_PER_KWH)
    ledger = ledger_of(run.run_dir, co2_g_per_kwh=G_PER_KWH).as_json()
    for dimension in ("language", "licence"):
        rows = rows_of(documents_section(account), dimension)
        found = ledger["data"]["in_all"][f"by_{dimension}"]
        assert {name: row[:2] for name, row in rows.items()} == {
            row["name"] or "not stated": [f"{row['documents']:,}", f"{row['tokens']:,}"]
            for row in found
            if row["tokens"]
        }
    assert f"up to this checkpoint: {STEPS * BATCH * SEQ_LENGTH:,} tokens" in documents_section(account)
    costs = rows_of(costs_section(account))
    assert costs["hours of ranks"][0].startswith(f"{ledger['rank_hours']['total']:.4g}: useful ")
    assert costs["devices"] == ["2 x cpu"] and costs["energy"][0].startswith("2 kWh by `RAPL counters")
    assert costs["CO2"] == ["0.1 kg at 50 g/kWh, as stated at the export"]
    assert "counted to" not in costs and account.problems == ()


def test_the_header_is_what_the_hub_reads(run: RunConfig) -> None:
    header = header_of(account_for(checkpoint_of(run, STEPS), co2_g_per_kwh=G_PER_KWH))
    assert header["language"] == ["de", "en", "fr"] and header["license"] == "apache-2.0"
    stated = header["co2_eq_emissions"]
    assert stated["emissions"] == JOULES / 3.6e6 * G_PER_KWH and isinstance(stated["emissions"], float)
    assert stated["training_type"] == "pre-training" and stated["hardware_used"] == "2 x cpu"
    assert stated["geographical_location"] == TO_BE_STATED and stated["source"].startswith("2 kWh by RAPL counters")
    without = account_for(checkpoint_of(run, STEPS))
    assert "co2_eq_emissions" not in header_of(without) and rows_of(costs_section(without))["CO2"] == ["not known"]
    assert [hub_code(label) for label in ("fr-CA", "zh-Hant", "FRA", "code")] == ["fr", "zh", "fra", "code"]


def amounts_at_12(small_run: Path, data_folder: Path, folder: Path) -> Any:
    """What a run read that ended with step 12."""
    run = logged_run(small_run, data_folder, folder)
    write_run(Path(run.run_dir), stamped([start(0), *(step(at) for at in range(1, 13)), end(12)], 1))
    in_all = ledger_of(run.run_dir).data.in_all
    return {name: in_all[name] for name in ("language", "licence")}


def of_labels(account: Account) -> Any:
    assert account.data is not None
    return {name: account.data.in_all[name] for name in ("language", "licence")}


def test_a_checkpoint_in_the_middle_has_the_data_of_its_own_steps(
    run: RunConfig, small_run: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = amounts_at_12(small_run, data_folder, tmp_path)
    account = account_for(checkpoint_of(run, 12), co2_g_per_kwh=G_PER_KWH)
    assert of_labels(account) == expected
    assert "co2_eq_emissions" not in header_of(account), "that of the run is not that of the checkpoint"
    costs = rows_of(costs_section(account))
    assert costs["counted to"] == [f"step {STEPS} of the run; this checkpoint is of step 12"]
    whole = account_for(checkpoint_of(run, STEPS)).costs
    assert account.costs is not None and whole is not None
    assert account.costs.flops == pytest.approx(whole.flops * 12 / STEPS)
    # The planted fault: all steps of the run are counted.
    monkeypatch.setattr(account_module, "trained_samples", lambda history: 12 * BATCH)
    monkeypatch.setattr(account_module, "until", lambda history, step: history)
    assert of_labels(account_for(checkpoint_of(run, 12))) != expected


def test_without_shards_the_card_says_so_and_has_the_costs(small_run: Path, data_folder: Path, tmp_path: Path) -> None:
    run = logged_run(small_run, data_folder, tmp_path)
    (tmp_path / "books.bin").unlink()
    account = account_for(checkpoint_of(run, STEPS))
    assert account.data is None and languages_read(account) is None
    assert "Not counted by language and licence" in documents_section(account)
    assert "| starts | 1; 0 steps were trained and lost |" in costs_section(account)
    (line,) = warnings(account)
    assert "books.bin" in line and str(tmp_path) not in documents_section(account) + costs_section(account)
    unasked = checkpoint_of(run, STEPS)
    unasked.sources = None
    assert account_for(unasked).problems == () and "Not counted" in documents_section(account_for(unasked))


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"samples": 3}, "it is no point of the run"), ({"at": 40}, "it is no point of the run"), ({}, "is not in the folder of its run")],
)  # fmt: skip
def test_a_checkpoint_that_its_run_does_not_lead_to_has_no_account(run: RunConfig, changed: Any, message: str) -> None:
    source = checkpoint_of(run, changed.get("at", STEPS), samples=changed.get("samples"))
    if not changed:
        source.folder = source.folder.parents[2] / "elsewhere" / source.folder.name
    account = account_for(source)
    assert account.data is None and account.costs is None and message in warnings(account)[0]
    assert "Not counted" in documents_section(account) and costs_section(account) == ""


def test_an_average_and_an_import_have_no_account(run: RunConfig) -> None:
    for name in ("average", "run"):
        source = checkpoint_of(run, STEPS)
        setattr(source, name, object() if name == "average" else None)
        account = account_for(source)
        assert account == Account(step=STEPS) and documents_section(account) + costs_section(account) == ""
        assert emissions(account) is None and warnings(account) == []


def test_a_run_that_began_with_others_weights_says_what_is_not_counted(
    small_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    run = logged_run(small_run, data_folder, tmp_path)
    origin = {
        "init_from": "gone", "init_optimizer": "fresh", "checkpoint": str(tmp_path / "gone"), "manifest_sha256": "0" * 64, "step": 3,
        "consumed_samples": 24, "consumed_tokens": 1536, "data": None, "origin": None, "average": None,
    }  # fmt: skip
    begin(run, num_ranks=2, origin=origin)
    account = account_for(checkpoint_of(run, STEPS), co2_g_per_kwh=G_PER_KWH)
    assert "began with was trained on is not counted" in documents_section(account).replace(
        "were trained on", "was trained on"
    )
    assert "What came before the first run" in costs_section(account) and emissions(account) is None


@pytest.mark.parametrize("factor", [-1.0, float("inf"), float("nan")])
def test_a_factor_that_is_none_is_refused_with_one_that_works(factor: float) -> None:
    with pytest.raises(
        UserError, match=r"--co2-g-per-kwh \(.*\) must be a finite number from 0; --co2-g-per-kwh 50 works"
    ):
        ExportOptions(date="2026-01-01", co2_g_per_kwh=factor)
    ExportOptions(date="2026-01-01", co2_g_per_kwh=50)


def made(labels: list[str]) -> Account:
    amount = Amount(tokens=10, distinct_tokens=10, documents=1, available_tokens=20, available_documents=2)
    in_all: Any = {name: dict.fromkeys(labels, amount) for name in ("source", "language", "licence")}
    parts = [
        PartRead(
            run_dir=name, mixture="data.train", first_sample=0, end_sample=1, first_step=1, last_step=1, tokens=10, padding_tokens=0,
            amounts=in_all,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    return Account(step=1, data=DataRead(parts=tuple(parts), in_all=in_all, sources=(), held_out=()))


@given(labels=st.lists(st.text(max_size=15), min_size=1, max_size=60, unique=True))
@settings(max_examples=30)
def test_no_label_is_markup_or_a_key(labels: list[str]) -> None:
    account = dataclasses.replace(made(labels))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(documents_section(account))
    assert set(re.findall(r"<(\w+)", html)) <= TAGS, html
    rows = re.findall(r"<tr>\n(.*?)</tr>", html, re.DOTALL)
    assert {row.count("<td>") + row.count("<th>") for row in rows} == {5}
    assert len(rows) == 3 * (1 + min(len(labels), 50) + (len(labels) > 50))
    header = front_matter({"co2_eq_emissions": {"emissions": 1.5, "hardware_used": labels[0]}, "language": labels})
    content = yaml.safe_load(header.split("\n---\n")[0].removeprefix("---\n"))
    assert content == {
        "co2_eq_emissions": {"emissions": 1.5, "hardware_used": on_one_line(labels[0])}, "language": [*map(on_one_line, labels)],
    }  # fmt: skip
