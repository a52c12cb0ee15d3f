"""Passes over the sources of a run, and the warning of too many."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fanal.run_progress import NEW_RUN, Standing
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data.passes import HARMLESS_PASSES, most_read, passes_text, passes_warning, source_passes
from pretrain.data.sources import open_sources


def passes(run: RunConfig, since: Standing = NEW_RUN) -> list[float]:
    return [source.passes for source in source_passes(run, open_sources(run), since)]


def chunks(run: RunConfig) -> list[int]:
    return [source.order.chunks_per_epoch for source in open_sources(run).train]


def with_steps(run: RunConfig, steps: int) -> RunConfig:
    return replace(run, train=replace(run.train, train_steps=steps))


def test_passes_are_the_samples_of_a_source_over_its_chunks(small_run: Path) -> None:
    run = load_run(small_run, ["train.train_steps=3000"])  # 24,000 samples, two of three from the first source
    first, second = chunks(run)
    assert passes(run) == pytest.approx([16_000 / first, 8_000 / second], abs=9 / min(first, second))


def test_passes_count_the_samples_so_far_and_those_of_the_steps_left(small_run: Path) -> None:
    run = load_run(small_run, ["train.train_steps=3000", "train.global_batch_size=4"])
    same = load_run(small_run, ["train.train_steps=2750"])
    assert passes(run, Standing(2500, 20_000)) == passes(same), "2,500 * 8 + 500 * 4 = 2,750 * 8"


def test_passes_go_on_through_the_phases(small_run: Path, data_folder: Path) -> None:
    prose = data_folder / "shards" / "train-prose"
    run = load_run(
        small_run, ["train.train_steps=3000", f"data.phases=[{{start_sample: 12000, train: [{{prefix: {prose}}}]}}]"]
    )
    first, second = chunks(run)
    assert passes(run) == pytest.approx([8_000 / first, 16_000 / second], abs=9 / min(first, second))


def test_too_many_passes_are_said_with_the_steps_that_read_no_source_too_often(small_run: Path) -> None:
    run = load_run(small_run, ["train.train_steps=1000000000"])
    line = passes_warning(run, open_sources(run), NEW_RUN)
    assert line is not None and "\n" not in line and re.search(r"train-code \d,\d{3},\d{3} times", line)
    works = int(re.search(r"train.train_steps=(\d+) reads none more often", line)[1])  # type: ignore[index]
    assert max(passes(with_steps(run, works))) <= HARMLESS_PASSES < max(passes(with_steps(run, works + 1)))
    assert passes_warning(with_steps(run, works), open_sources(run), NEW_RUN) is None


def test_a_run_that_has_read_too_often_already_is_not_told_to_take_fewer_steps(small_run: Path) -> None:
    run = load_run(small_run, ["train.train_steps=4000"])
    line = passes_warning(run, open_sources(run), Standing(3000, 24_000))
    assert line is not None and "train.train_steps" not in line and "more text" in line


@pytest.mark.parametrize(
    ("passes", "text"), [(0.03571, "0.0357"), (3.999, "4"), (17.26, "17.3"), (912_345.6, "912,346")]
)
def test_passes_have_the_digits_that_tell_something(passes: float, text: str) -> None:
    assert passes_text(passes) == text


def test_of_many_sources_those_that_are_read_most_are_listed(small_run: Path) -> None:
    run = load_run(small_run)
    found = source_passes(run, open_sources(run), NEW_RUN)
    assert most_read(found, 2) == found, "all of them, in their order"
    assert most_read(found[::-1], 1) == [max(found, key=lambda source: source.passes)]
