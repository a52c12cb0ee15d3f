"""The line that comes when a source was read as often as still teaches much, against a count of every sample."""

from pathlib import Path

import numpy as np
import pytest

from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data.mixture import Mixture
from pretrain.data.pass_watch import FIRST, LATE, PassWatch
from pretrain.data.sources import Sources, open_sources

BATCH = 8


@pytest.fixture(scope="module")
def run(small_run: Path) -> RunConfig:
    return load_run(small_run, ["train.train_steps=1000000"])


@pytest.fixture(scope="module")
def sources(run: RunConfig) -> Sources:
    return open_sources(run)


def told(run: RunConfig, sources: Sources, steps: int, *, since: int = 0) -> dict[int, str]:
    watch = PassWatch(run, sources, since * BATCH)
    lines = {step: watch.line(step=step, consumed_samples=step * BATCH) for step in range(since + 1, steps + 1)}
    return {step: line for step, line in lines.items() if line is not None}


def crossings(run: RunConfig, sources: Sources, steps: int) -> dict[tuple[str, int], int]:
    """The first step after which a source has given more than so many passes, by (prefix, passes): sample by sample."""
    mixture = Mixture(sources.phases, num_sources=len(sources.train), seed=run.data.seed)
    of_sample, _ = mixture.locate(np.arange(steps * BATCH))
    found = {}
    for number, source in enumerate(sources.train):
        places = np.flatnonzero(of_sample == number)
        for passes in (FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST):
            if passes * source.order.chunks_per_epoch < len(places):
                found[str(source.shard.prefix), passes] = (
                    int(places[passes * source.order.chunks_per_epoch]) // BATCH + 1
                )
    return found


def test_each_source_is_named_when_its_number_of_passes_is_full_and_each_time_it_has_doubled(
    run: RunConfig, sources: Sources
) -> None:
    expected, lines = crossings(run, sources, 12_000), told(run, sources, 12_000)
    assert len(expected) >= 4 and sum(line.count(" times") for line in lines.values()) == len(expected)
    for (prefix, passes), step in expected.items():
        at = [when for when, line in lines.items() if f"{prefix} {passes} times" in line]
        assert len(at) == 1 and step <= at[0] <= step + step / LATE + 1, (prefix, passes, step, at)
        assert f"warning: by step {at[0]} the run has read " in lines[at[0]] and "\n" not in lines[at[0]]


def test_a_resume_says_nothing_again(run: RunConfig, sources: Sources) -> None:
    lines = told(run, sources, 12_000)
    first = min(lines)
    again = told(run, sources, 12_000, since=first)
    assert first not in again and [line.split(", and reads")[0].split("read ")[1] for line in again.values()] == [
        line.split(", and reads")[0].split("read ")[1] for step, line in lines.items() if step > first
    ]


def test_a_run_of_few_passes_has_no_line_and_looks_once_a_while(
    run: RunConfig, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, drawn = [], Mixture.drawn
    monkeypatch.setattr(Mixture, "drawn", lambda mixture, sample: looked.append(sample) or drawn(mixture, sample))
    few = min(crossings(run, sources, 12_000).values()) - 1
    assert told(run, sources, few) == {}
    assert len(looked) < few / 5
