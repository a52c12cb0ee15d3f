"""The drafts that the law asks for: every path that one names leads to its figure in the ledger, and what it lacks is marked."""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pretrain.__main__ import cli
from pretrain.config.load import load_run
from pretrain.drafts import annex_xi, cost_figures, data_figures, eu_public_summary, model_documentation
from pretrain.drafts.draft import TO_BE_STATED, Document, Entry, markdown
from pretrain.drafts.eu_public_summary_domains import render as render_domains
from pretrain.drafts.facts import Facts, facts_of
from pretrain.drafts.figures import in_range, scientific
from pretrain.drafts.model_figures import LARGEST_MODEL, MODEL_SIZES
from pretrain.model.families.sizes import num_parameters
from pretrain.model.flops import flops_per_token
from tests.unit.drafts.drafted_runs import HOSTS, LOST, STEPS
from tests.unit.drafts.followed_paths import assert_paths

DOCUMENTS: dict[str, Callable[[Facts], Document]] = {
    "eu": eu_public_summary.document_of,
    "form": model_documentation.document_of,
    "annex": annex_xi.document_of,
}
RUNS = ("bare", "chain", "import", "no step", "chain, the last run alone")


def options_of(run: str) -> list[str]:
    return {"chain": ["--co2-g-per-kwh", "50"], "chain, the last run alone": ["--no-chain"]}.get(run, [])


def printed_ledger(folder: Path, options: list[str]) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["ledger", str(folder), "--json", *options])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


@pytest.fixture(scope="module")
def told(
    drafted: dict[str, Path], bare_facts: Facts, chain_facts: Facts, import_facts: Facts, alone_facts: Facts
) -> dict[str, tuple[Facts, dict[str, Any]]]:
    """Facts, and the ledger that the command prints, of each run."""
    no_step = facts_of(drafted["no step"])
    facts = dict(zip(RUNS, (bare_facts, chain_facts, import_facts, no_step, alone_facts), strict=True))
    return {run: (facts[run], printed_ledger(drafted[run.split(",")[0]], options_of(run))) for run in RUNS}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_leads_to_a_value_in_the_printed_ledger(
    told: dict[str, tuple[Facts, dict[str, Any]]], run: str, name: str
) -> None:
    facts, printed = told[run]
    assert facts.ledger["ledger_sha256"] == printed["ledger_sha256"]
    document = DOCUMENTS[name](facts)
    compared = assert_paths(document, printed)
    assert compared >= 10 or name == "eu"  # nearly all of whose figures are tables and ranges
    text = markdown(document)
    assert printed["ledger_sha256"] in text
    for entry in document.entries():
        assert (entry.value or "") in text and entry.name in text
        assert all(f"`{path}`" in text for path in entry.where)
    assert text.count(f"**[{TO_BE_STATED}]**") == sum(bool(entry.blank) for entry in document.entries())


def test_a_path_that_leads_nowhere_to_nothing_or_to_another_value_is_found(
    told: dict[str, tuple[Facts, dict[str, Any]]],
) -> None:
    facts, printed = told["bare"]
    document = annex_xi.document_of(facts)
    for fault in ("ledger data.token", "ledger energy.kwh", "ledger runs[1].trained_to", "ledger data.tokens"):
        wrong = Entry(name="x", value="1", where=(fault,))
        section = dataclasses.replace(document.sections[0], entries=(wrong,))
        with pytest.raises((AssertionError, KeyError, IndexError)):
            assert_paths(dataclasses.replace(document, sections=(section,)), printed)
    altered = json.loads(json.dumps(printed))
    altered["runs"][0]["model"]["parameters"] += 1
    with pytest.raises(AssertionError, match="parameters"):
        assert_paths(document, altered)


def test_an_entry_is_a_value_with_its_source_or_a_blank_that_says_what_is_asked() -> None:
    for wrong in ({"value": "1"}, {"where": ("ledger data.tokens",)}, {}):
        with pytest.raises(ValueError, match="says"):
            Entry(name="x", **wrong)  # type: ignore[arg-type]


def test_what_a_run_does_not_know_is_blank(bare_facts: Facts) -> None:
    blanks = {entry.name for entry in eu_public_summary.document_of(bare_facts).entries() if entry.value is None}
    assert {
        "Provider",
        "Latest date of data acquisition",
        "Most relevant domain names",
        "Linguistic characteristics",
    } <= blanks
    form = {entry.name: entry for entry in model_documentation.document_of(bare_facts).entries()}
    assert form["Amount of energy used for training"].value is None
    assert form["CO2 (the form does not ask for it)"].value is None
    assert form["Model authenticity"].value is None and form["Licence"].value is None


def test_costs_are_those_that_are_worked_out_by_hand(chain_facts: Facts) -> None:
    form = {entry.name: entry.value or "" for entry in model_documentation.document_of(chain_facts).entries()}
    # Two hours on the clock, and one rank in the first, two in the second.
    assert form["Training time: wall clock"] == "Less than 1 month: 0.0833 wall-clock days"
    assert "| cpu | 0.125 |" in form["Training time: hardware-days"]
    assert form["Training period"] == "2017-07-14 to 2017-07-14"
    assert form["Amount of energy used for training"].startswith("2.00 × 10^-3 MWh, measured; 1 start(s) were not")
    assert form["CO2 (the form does not ask for it)"].startswith("1.00 × 10^-4 t CO2 at 50 g")
    entry = {entry.name: entry for entry in model_documentation.document_of(chain_facts).entries()}
    assert "the 1 start(s) that were not measured" in entry["Amount of energy used for training"].blank


def test_operations_are_those_of_the_steps_that_count_and_lost_ones_are_apart(
    chain_facts: Facts, small_run: Path
) -> None:
    model = load_run(small_run).model
    a_step = 8 * 64 * flops_per_token(model, 64, causal=False)
    assert chain_facts.at("ledger flops.full") == pytest.approx(a_step * (2 * STEPS - LOST))
    assert chain_facts.at("ledger flops.lost_full") == pytest.approx(a_step * LOST)
    causal = flops_per_token(model, 64, causal=True) / flops_per_token(model, 64, causal=False)
    assert chain_facts.at("ledger flops.causal") == pytest.approx(a_step * (2 * STEPS - LOST) * causal)
    assert chain_facts.at("ledger runs[1].model.parameters") == num_parameters(model)
    text = cost_figures.operations(chain_facts).text
    assert text.startswith(f"{scientific(a_step * 18)} floating") and f"took {scientific(a_step * 2)} more" in text


def test_the_top_of_the_domain_names_is_by_size_and_all_of_it_is_in_the_file(chain_facts: Facts) -> None:
    by_host = {amount["name"]: amount["distinct_tokens"] for amount in chain_facts.at("ledger data.in_all.by_host")}
    known = sorted((-size, name) for name, size in by_host.items() if name is not None and size)
    assert {name for _, name in known} == set(HOSTS)
    lines = list(csv.DictReader(io.StringIO(render_domains(chain_facts))))
    assert [(line["domain_name"], -int(line["different_tokens"])) for line in lines] == [
        (name, size) for size, name in known[:3]  # 10 % of 25, rounded up
    ]  # fmt: skip
    assert [line["of_small_companies_too"] for line in lines] == ["yes", "yes", "no"]  # 5 % of 25, rounded up
    figure = data_figures.domain_names(chain_facts, listed_in="x.csv")
    assert figure is not None and "25 domain names" in figure.text and "are 3, all of them in `x.csv`" in figure.text
    assert data_figures.num_top_of_small_companies(1_000_000) == 1_000


def test_sources_without_hosts_and_what_was_not_counted_are_named(
    chain_facts: Facts, import_facts: Facts, alone_facts: Facts
) -> None:
    (entry,) = [
        e for e in eu_public_summary.document_of(chain_facts).entries() if e.name == "Most relevant domain names"
    ]
    assert entry.blank.endswith("if they were crawled: books, code")
    assert data_figures.uncounted(chain_facts) == ""
    for facts in (import_facts, alone_facts):
        assert "is not counted here" in data_figures.uncounted(facts)
        for document in (document_of(facts) for document_of in DOCUMENTS.values()):
            assert "not counted" in markdown(document) and "started from" in markdown(document)
    assert "training began from initial weights" in markdown(annex_xi.document_of(chain_facts))


def test_dates_and_languages_are_those_of_the_documents(chain_facts: Facts) -> None:
    text = markdown(eu_public_summary.document_of(chain_facts))
    assert re.search(r"2024 is the latest date that a document states, 2019-05-01 the earliest; [\d,]+ documents", text)
    dates = chain_facts.at("ledger data.dates")
    assert dates["documents"] + dates["other_documents"] == sum(
        chain_facts.follow("ledger data.in_all.by_source[].documents")
    )
    assert re.search(r"\| fr \| [\d,]+ \| [\d.]+ % \|", text)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (1, "Less than 1 billion tokens"), (10**9 - 1, "Less than 1 billion tokens"), (10**9, "1 billion to 10 trillion tokens"),
        (10**13, "1 billion to 10 trillion tokens"), (10**13 + 1, "More than 10 trillion tokens"),
    ],
)  # fmt: skip
def test_a_size_is_one_of_three_ranges(tokens: int, words: str) -> None:
    facts = Facts(ledger={"data": {"in_all": {"by_source": [{"distinct_tokens": tokens}]}}})
    found = data_figures.size_range(facts)
    assert found is not None and found.text == words


def test_what_has_not_begun_has_no_size(told: dict[str, tuple[Facts, dict[str, Any]]]) -> None:
    assert data_figures.size_range(told["no step"][0]) is None and data_figures.size(told["no step"][0]) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.0123, "0.0123"), (7.25, "7.25"), (9_999, "9,999"), (21_520, "2.15 × 10^4"), (2.4312e21, "2.43 × 10^21"),
        (9.999e24, "1.00 × 10^25"), (1.2e-3, "1.20 × 10^-3"), (67_000_000_000, "6.70 × 10^10"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert scientific(value) == text


def test_a_model_is_in_one_range_of_the_form() -> None:
    found = [in_range(count, MODEL_SIZES, LARGEST_MODEL) for count in (10**8, 7 * 10**9, 10**12, 2 * 10**12)]
    assert found == [
        "Up to 500 million parameters", "5 to 15 billion parameters", "500 billion to 1 trillion parameters", LARGEST_MODEL,
    ]  # fmt: skip


def test_the_annex_says_whom_it_binds(chain_facts: Facts) -> None:
    assert "are not above it" in annex_xi.document_of(chain_facts).notes[0]
    large = json.loads(json.dumps(chain_facts.ledger))
    large["flops"]["full"] = 2e25
    assert "2.00 × 10^25, are above it" in annex_xi.document_of(Facts(ledger=large)).notes[0]


def test_a_hash_of_another_step_than_the_figures_is_said(chain_facts: Facts) -> None:
    def of_step(step: int) -> Entry:
        run = {"name": f"step-{step:08d}", "step": step, "manifest_sha256": "b" * 64}
        ledger = json.loads(json.dumps(chain_facts.ledger))
        ledger["runs"][1]["checkpoint"] = run
        (entry,) = [
            entry
            for entry in model_documentation.document_of(Facts(ledger=ledger)).entries()
            if entry.name == "Model authenticity"
        ]
        return entry

    assert "b" * 64 in (of_step(8).value or "")
    assert "whether the model of step 8 is the one" in of_step(8).blank and "count to step 10" in of_step(8).blank
    assert "whether the model" not in of_step(10).blank
