"""The names that losses are recorded by: all domains of a small run, and no more than a record should have of a large one."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pretrain.config.load import load_run
from pretrain.config.schema import LogConfig
from pretrain.data.labels import OTHER, labelled, labels_line
from pretrain.data.read import TrainData
from pretrain.data.sources import Sources, open_sources
from pretrain.data.validation import ValidationSamples
from tests.unit.data.shards import many_shards

COUNT = 30


@pytest.fixture(scope="module")
def sources(small_run: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Thirty training sources, the last ones with the largest shares; all of them have a validation part, in their domain."""
    folder = tmp_path_factory.mktemp("many")
    prefixes = many_shards(data_folder / "shards" / "train-code", folder, 2 * COUNT)
    train = ", ".join(f"{{prefix: {prefix}, weight: {1 + n}}}" for n, prefix in enumerate(prefixes[:COUNT]))
    validation = ", ".join(f"{{prefix: {prefix}, domain: domain-{n}}}" for n, prefix in enumerate(prefixes[COUNT:]))
    return open_sources(load_run(small_run, [f"data.train=[{train}]", f"data.validation=[{validation}]"]))


def test_as_many_domains_as_are_allowed_keep_their_names_and_nothing_is_said(sources: Sources) -> None:
    log = LogConfig(max_domains=COUNT)
    found = labelled(sources, log)
    assert [source.label for source in found.train] == [f"domain-{n}" for n in range(COUNT)]
    assert found == sources
    assert labels_line(found, log) is None


def test_the_smallest_shares_are_recorded_together_and_said_once(sources: Sources) -> None:
    log = LogConfig(max_domains=10)
    found = labelled(sources, log)
    kept = [f"domain-{n}" for n in range(COUNT - 9, COUNT)]
    for part in (found.train, found.validation):
        assert [source.label for source in part] == [OTHER] * (COUNT - 9) + kept
        assert [source.domain for source in part] == [f"domain-{n}" for n in range(COUNT)], "as the data say"
    line = labels_line(found, log)
    assert line is not None and "30 of training as 10 and 30 of validation as 10" in line and "'other'" in line


def test_a_domain_that_is_large_in_one_phase_only_keeps_its_name(sources: Sources) -> None:
    late = dataclasses.replace(sources.phases[0], start_sample=8, members=(0,), weights=(1.0,))
    found = labelled(dataclasses.replace(sources, phases=[*sources.phases, late]), LogConfig(max_domains=3))
    assert {source.label for source in found.train} == {"domain-0", "domain-29", OTHER}


def test_losses_can_be_recorded_by_language(sources: Sources) -> None:
    french = [
        dataclasses.replace(
            source,
            shard=dataclasses.replace(
                source.shard, manifest=dataclasses.replace(source.shard.manifest, language="fr" if number % 2 else None)
            ),
        )
        for number, source in enumerate(sources.train)
    ]
    found = labelled(dataclasses.replace(sources, train=french), LogConfig(losses_by="language"))
    assert [source.label for source in found.train[:3]] == ["unstated", "fr", "unstated"]


def test_every_row_counts_for_the_name_of_its_source(sources: Sources, small_run: Path) -> None:
    run = load_run(small_run)
    found = labelled(sources, LogConfig(max_domains=10))
    data = TrainData(found, run.data)
    assert set(data.domains) == {source.label for source in found.train} and len(data.domains) == 10
    places, _ = data.places(np.arange(500))
    names = [data.domains[number] for number in data.domain_ids(places)]
    assert names == [found.train[source].label for source in places]


def test_the_passes_of_a_validation_follow_its_samples_and_not_its_sources(sources: Sources, small_run: Path) -> None:
    run = load_run(small_run)
    samples = ValidationSamples(labelled(sources, LogConfig()).validation, run.data, samples_per_source=1)
    assert samples.num_samples == COUNT, "fifteen micro batches of two, and not thirty half empty ones"
    places, starts = samples.places(np.arange(COUNT))
    assert places.tolist() == list(range(COUNT))
    assert starts.tolist() == [source.start_token(0) for source in sources.validation]
