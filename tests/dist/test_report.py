"""The report of a real run that was killed and went on in another layout with another batch: its figures are the run's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fanal.run_folder import SPIKES_FILE
from fanal.run_progress import metrics
from pretrain.data.forensics import SamplePlace, sample_places
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.ledger.ledger import ledger_of
from pretrain.log.start_file import read_starts
from pretrain.report.quantities import figure, loss, percent
from pretrain.report.report import Wanted, write_report
from tests.dist.harness import make_run, run_and_trace
from tests.runs.cases import PP2
from tests.unit.report.read_pages import Page

CHANGES = (
    "checkpoint.interval=3",
    "train.spikes={z_score: 0.001, window_steps: 2, min_steps: 2}",
    "train.train_steps=14",
)
STEP_7 = 6
"""Place of step 7, the first one that was trained again, among the steps that count."""


@pytest.fixture(scope="module")
def ran(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed in step 9, with a checkpoint of step 6."""
    folder = tmp_path_factory.mktemp("report") / "run"
    assert run_and_trace(make_run(small_run, folder, *CHANGES), "killed_at_step_9").exit_code != 0
    again = run_and_trace(make_run(small_run, folder, *PP2, *CHANGES, "train.global_batch_size=16"), fresh=False)
    assert again.exit_code == 0, again.failure
    return folder


@pytest.fixture(scope="module")
def page(ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    to = tmp_path_factory.mktemp("page") / "report.html"
    write_report(Wanted(run_dir=ran, to=to))
    return Page(to.read_text(encoding="utf-8"))


def steps_that_count(folder: Path) -> list[dict[str, Any]]:
    """By the rule that a user would apply: of a step that is there twice, the last one."""
    return list({record["step"]: record for record in metrics(folder) if record["kind"] == "step"}.values())


def assert_losses(page: Page, steps: list[dict[str, Any]]) -> None:
    curves = page.curves("Training loss on tokens")
    for domain in ("code", "prose"):
        drawn = curves[domain]
        expected = [
            (record["consumed_tokens"], record["loss_by_domain"][domain])
            for record in steps
            if domain in record["loss_by_domain"]
        ]
        assert len(drawn.points) == len(expected)
        for (x, y), (tokens, value) in zip(drawn.points, expected, strict=True):
            assert abs(x - tokens) <= drawn.x_error and abs(y - value) <= drawn.y_error
    assert [row["loss"] for row in page.table("Training loss on tokens")] == [loss(record["loss"]) for record in steps]


def test_losses_are_those_of_the_steps_that_count(ran: Path, page: Page) -> None:
    steps = steps_that_count(ran)
    assert [record["step"] for record in steps] == list(range(1, 15))
    assert_losses(page, steps)
    assert page.facts()["training loss"] == loss(steps[-1]["loss"])


def test_losses_of_lost_steps_would_be_found(ran: Path, page: Page) -> None:
    steps = steps_that_count(ran)
    lost = next(record for record in metrics(ran) if record["kind"] == "step" and record["step"] == 7)
    assert lost["consumed_tokens"] != steps[STEP_7]["consumed_tokens"]
    steps[STEP_7] = lost
    with pytest.raises(AssertionError):
        assert_losses(page, steps)


def test_every_section_is_there_and_nothing_is_untold(page: Page) -> None:
    assert page.titles() == [
        "Loss", "Throughput", "Gradients and learning rate", "Mixture", "Starts, jobs and nodes", "Checkpoints",
        "Goodput and energy", "Configuration",
    ]  # fmt: skip


def test_the_mixture_is_what_a_walk_over_all_samples_finds(ran: Path, page: Page, small_run: Path) -> None:
    run = make_run(small_run, ran, *CHANGES)
    data = TrainData(open_sources(run), run.data)
    samples = steps_that_count(ran)[-1]["consumed_samples"]
    sources, _ = data.places(np.arange(samples))
    expected = {
        str(source.shard.prefix): int((sources == number).sum()) * run.data.seq_length
        for number, source in enumerate(data.sources.train)
    }
    rows = page.table("Mixture: tokens by source")
    assert {row["source"]: int(row["tokens"].replace(",", "")) for row in rows} == expected
    read = page.table("Read by source")
    assert {row["source"]: int(row["tokens"].replace(",", "")) for row in read} == expected


def test_starts_goodput_and_changes_are_those_of_start_files_and_ledger(ran: Path, page: Page) -> None:
    rows = page.table("Starts")
    files = read_starts(ran)
    assert [(row["start"], row["user"], row["nodes"], row["ranks"]) for row in rows] == [
        (str(file.number), file.user, ", ".join(file.hosts), str(file.num_ranks)) for file in files
    ]
    assert [(row["after step"], row["last step"], row["lost steps"]) for row in rows] == [
        ("0", "8", "2"),
        ("6", "14", "0"),
    ]
    hours = ledger_of(ran).hours
    cost = {row["hours of ranks"]: row["h"] for row in page.table("Goodput and energy")}
    assert cost["training that counts"] == figure(hours.useful) and cost["training that was lost"] == figure(hours.lost)
    assert cost["goodput (useful of all)"] == percent(hours.goodput) == page.facts()["goodput"]
    assert all(change in page.words() for change in files[1].changes) and files[1].changes


def test_a_spike_opens_to_the_documents_of_its_samples(ran: Path, page: Page, small_run: Path) -> None:
    run = make_run(small_run, ran, *CHANGES)
    data = TrainData(open_sources(run), run.data)
    listed = [json.loads(line) for line in (ran / SPIKES_FILE).read_text().splitlines()]
    last = listed[-1]
    title = next(
        "".join(next(iter(found)).itertext())
        for found in page.root.iter("details")
        if "".join(next(iter(found)).itertext()).startswith(f"Step {last['step']}:")
    )
    rows = page.table(title)
    places = sample_places(data, first_sample=last["first_sample"], num_samples=last["num_samples"])
    assert [row["sample"] for row in rows] == [f"{place.sample:,}" for place in places]
    for row, place in zip(rows, places, strict=True):
        assert isinstance(place, SamplePlace)
        assert f'"start_token": {place.start_token}' in row["where it lies"]
        assert f"document {place.first_document:,}," in row["documents"]
    shown = page.facts()["steps that went wrong"]
    assert int(shown) == len({spike["step"]: spike for spike in listed if spike["start"] == 2 or spike["step"] <= 6})
