"""What differs between the configurations of two starts."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pretrain.config.config_changes import MOST_CHANGES, config_changes
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig, SourceConfig

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def run() -> RunConfig:
    return load_run(ROOT / "configs" / "tiny.yaml")


def test_the_same_configuration_has_no_changes(run: RunConfig) -> None:
    assert config_changes(asdict(run), run) == ()


def test_each_key_that_differs_is_named_with_both_values(run: RunConfig) -> None:
    other = replace(
        run,
        train=replace(run.train, global_batch_size=2 * run.train.global_batch_size, walltime_s=600, spikes=None),
        optim=replace(run.optim, lr=1e-5),
    )
    size, lr = run.train.global_batch_size, run.optim.lr
    changes = config_changes(asdict(run), other)
    assert {f"train.global_batch_size: {size} -> {2 * size}", "train.walltime_s: null -> 600"} < set(changes)
    assert f"optim.lr: {lr} -> 1.0e-05" in changes and any(
        change.startswith("train.spikes: {") and change.endswith("} -> null") for change in changes
    )
    assert len(changes) == 4


def test_sources_are_compared_one_by_one_and_new_ones_are_written_out(run: RunConfig) -> None:
    first = replace(run.data.train[0], weight=9.0)
    added = SourceConfig(prefix="shards/new", weight=2.0)
    other = replace(run, data=replace(run.data, train=[first, *run.data.train[1:], added]))
    weight, count = run.data.train[0].weight, len(run.data.train)
    first_change, second = config_changes(asdict(run), other)
    assert first_change == f"data.train[0].weight: {weight} -> 9.0"
    assert second.startswith(f"data.train[{count}]: (none) -> {{prefix: shards/new, weight: 2.0")
    assert config_changes(asdict(other), run)[1].startswith(f"data.train[{count}]: {{prefix: shards/new")


def test_younger_keys_had_their_defaults_and_renamed_ones_their_old_names(run: RunConfig) -> None:
    old = asdict(run)
    del old["objective"], old["parallel"]["context_parallel_size"]
    old["data"]["held_out"] = old["data"].pop("validation")
    assert config_changes(old, run) == ()
    other = replace(run, parallel=replace(run.parallel, context_parallel_size=2))
    assert config_changes(old, other) == ("parallel.context_parallel_size: 1 -> 2",)


def test_a_key_of_a_newer_version_is_named(run: RunConfig) -> None:
    newer = asdict(run)
    newer["train"]["sleep_s"] = 5
    assert config_changes(newer, run) == ("train.sleep_s: 5 -> (none)",)


def test_thousands_of_changes_are_counted(run: RunConfig) -> None:
    many = [SourceConfig(prefix=f"shards/{number}", weight=1.0) for number in range(MOST_CHANGES + 10)]
    other = replace(run, data=replace(run.data, train=many))
    changes = config_changes(asdict(run), other)
    assert len(changes) == MOST_CHANGES + 1 and changes[-1].startswith("and ") and changes[-1].endswith(" more")
