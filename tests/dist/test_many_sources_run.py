"""A run of more sources than omegaconf reads values: trained, resumed, opened for an export, and its records kept short."""

import dataclasses
import json
from pathlib import Path

import pytest

from pretrain.config.load import load_run, to_yaml
from pretrain.config.schema import SourceConfig
from pretrain.convert.exporting import model_card
from pretrain.convert.ours.source import open_source
from pretrain.data.labels import OTHER
from tests.dist.harness import run_and_trace
from tests.unit.data.shards import many_shards

COUNT, IN_VALIDATION, NAMES = 1200, 40, 10


@pytest.fixture(scope="module")
def config(small_run: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,200 training sources, written out as a checkpoint has them: 10,800 YAML values."""
    folder = tmp_path_factory.mktemp("thousand")
    prefixes = many_shards(data_folder / "shards" / "train-code", folder, COUNT + IN_VALIDATION)
    run = load_run(
        small_run,
        [f"run_dir={folder}/run", f"log.max_domains={NAMES}", "train.train_steps=2", "train.validation_samples=1"],
    )
    train = [SourceConfig(prefix=str(prefix), weight=1.0 + number) for number, prefix in enumerate(prefixes[:COUNT])]
    validation = [SourceConfig(prefix=str(prefix)) for prefix in prefixes[COUNT:]]
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, train=train, validation=validation))
    (folder / "run.yaml").write_text(to_yaml(run))
    return folder / "run.yaml"


def test_a_run_of_1200_sources_trains_resumes_and_opens_for_an_export(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(config)
    first = run_and_trace(run)
    assert first.exit_code == 0, first.failure
    longer = load_run(config, ["train.train_steps=3"])
    resumed = run_and_trace(longer, fresh=False)
    assert resumed.exit_code == 0 and "resumed after step 2" in resumed.output, resumed.failure

    records = [json.loads(line) for line in (Path(run.run_dir) / "metrics.jsonl").read_text().splitlines()]
    losses = [record["validation_loss"] for record in records if record["kind"] == "validation"]
    assert losses and all(len(names) == NAMES and OTHER in names for names in losses)
    assert all(len(record["loss_by_domain"]) <= NAMES for record in records if record["kind"] == "step")
    assert (
        first.output.count("losses are recorded by at most log.max_domains (10) domains: 1,200 of training as 10") == 1
    )

    source = open_source(longer.run_dir)
    assert source.run is not None and len(source.run.data.train) == COUNT
    assert source.sources is not None and {part.label for part in source.sources.validation} == losses[-1].keys()
    monkeypatch.setattr(model_card, "MOST_ROWS", 5)
    rows = [line for line in model_card._data(source).splitlines() if line.startswith("| ")]
    read = sum(part.cursor > 0 for part in source.position.sources) if source.position is not None else 0
    assert read > 6 and len(rows) == 2 + 5 + 1
    assert rows[-1].startswith(f"| {read - 5} more sources | various |")
