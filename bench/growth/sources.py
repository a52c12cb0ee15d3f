"""What grows with the sources of a run: on every rank at each start, and on rank 0 at each record and checkpoint."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.growth.case import Act, Growth
from fanal.run_progress import NEW_RUN
from pretrain.config.load import load_run, to_yaml
from pretrain.config.schema import PhaseConfig, RunConfig, SourceConfig
from pretrain.data.labels import labelled
from pretrain.data.passes import passes_warning
from pretrain.data.position import StepPosition, position_of, position_text, read_position
from pretrain.data.read import TrainData
from pretrain.data.same_data import check_same_data
from pretrain.data.sample_hash import NEW_RUN as NEW_HASH
from pretrain.data.sample_hash import to_text
from pretrain.data.sources import Sources, open_sources
from pretrain.data.validation import ValidationSamples
from tests.runs.small import make_small_data, write_small_run
from tests.unit.data.shards import many_shards

SIZES = (10, 100, 1_000, 20_000)
OPENED_SIZES = (10, 100, 1_000, 10_000)
"""Of what opens shards: each is an open file, and some systems allow 20,000."""
PHASES = 20
"""Mixtures of a config that names each of its sources again and again."""
TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"


def config_of(size: int, folder: Path) -> Path:
    """A config that names that many sources, a variable in each path."""
    before, after = TINY.read_text().split("    - {prefix: demo/shards/train-code, weight: 0.5}\n")
    lines = (f"    - {{prefix: '${{oc.env:HOME}}/shards/source-{n}', weight: {0.5 + n}}}\n" for n in range(size))
    config = folder / "run.yaml"
    config.write_text(before + "".join(lines) + after)
    return config


def load_config(size: int, folder: Path) -> Act:
    config = config_of(size, folder)
    return lambda: load_run(config)


def write_config(size: int, folder: Path) -> Act:
    run = load_run(config_of(size, folder))
    return lambda: to_yaml(run)


def compare_config(size: int, folder: Path) -> Act:
    """With that of a checkpoint, which is read."""
    from pretrain.checkpoint.loading.load import check_same_run  # imports torch, for which no other case here waits

    run = load_run(config_of(size, folder))
    (folder / "config.yaml").write_text(to_yaml(run))
    return lambda: check_same_run(run, folder)


def run_of(size: int, folder: Path) -> RunConfig:
    """A run of that many tiny shards, each in a domain of its own."""
    make_small_data(folder)
    (folder / "many").mkdir()
    prefixes = many_shards(folder / "shards" / "train-code", folder / "many", size)
    train = [SourceConfig(prefix=str(prefix), weight=0.5 + number % 7) for number, prefix in enumerate(prefixes)]
    run = load_run(write_small_run(folder))
    return dataclasses.replace(run, data=dataclasses.replace(run.data, train=train))


def open_shards(size: int, folder: Path) -> Act:
    run = run_of(size, folder)
    return lambda: open_sources(run)


def open_mentions(size: int, folder: Path) -> Act:
    """PHASES mixtures of the same sources."""
    run = run_of(max(1, size // PHASES), folder)
    phases = [PhaseConfig(start_sample=number, train=run.data.train) for number in range(1, PHASES)]
    repeated = dataclasses.replace(run, data=dataclasses.replace(run.data, phases=phases))
    return lambda: open_sources(repeated)


def on_sources(act_of: Callable[[RunConfig, Sources, Path], Act]) -> Callable[[int, Path], Act]:
    """The preparation of an act that finds the sources open."""

    def prepare(size: int, folder: Path) -> Act:
        run = run_of(size, folder)
        return act_of(run, open_sources(run), folder)

    return prepare


def blend(run: RunConfig, sources: Sources, folder: Path) -> Act:
    """The places of a batch of 2,048 samples in the middle of a run, without what an earlier batch has worked out."""
    numbers = np.arange(2048) + 10**9
    return lambda: TrainData(sources, run.data).places(numbers)


def passes(run: RunConfig, sources: Sources, folder: Path) -> Act:
    long = dataclasses.replace(run, train=dataclasses.replace(run.train, train_steps=10**6))
    return lambda: passes_warning(long, sources, NEW_RUN)


def labels(run: RunConfig, sources: Sources, folder: Path) -> Act:
    """The names of a record."""

    def act() -> dict[str, int]:
        return {"losses in a record": len(TrainData(labelled(sources, run.log), run.data).domains)}

    return act


def validation(run: RunConfig, sources: Sources, folder: Path) -> Act:
    """The places of all samples of a validation, one of each source."""

    def act() -> dict[str, int]:
        samples = ValidationSamples(sources.train, run.data, samples_per_source=1)
        samples.places(np.arange(samples.num_samples))
        return {"micro batches": -(-samples.num_samples // run.train.micro_batch_size)}

    return act


def position(run: RunConfig, sources: Sources, folder: Path) -> Act:
    """``data.json`` of a checkpoint: made, written, read and compared."""
    data, path = TrainData(sources, run.data), folder / "data.json"
    nothing = to_text((0, 0), NEW_HASH)
    step = StepPosition(first_sample=0, num_samples=0, hash=nothing)

    def act() -> None:
        made = position_of(data, consumed_samples=10**9, consumed_hash=nothing, last_step=step)
        path.write_text(position_text(made))
        check_same_data(read_position(path), made, where="a checkpoint")

    return act


CASES = (
    Growth(name="load a config", grows_with="sources", sizes=SIZES, prepare=load_config),
    Growth(name="write a config", grows_with="sources", sizes=SIZES, prepare=write_config),
    Growth(name="compare a checkpoint's config", grows_with="sources", sizes=SIZES, prepare=compare_config),
    Growth(name="open shards", grows_with="sources", sizes=OPENED_SIZES, prepare=open_shards),
    Growth(name="open shards of 20 phases", grows_with="mentions", sizes=SIZES, prepare=open_mentions),
    Growth(name="place a batch in the mixture", grows_with="sources", sizes=OPENED_SIZES, prepare=on_sources(blend)),
    Growth(name="passes over the sources", grows_with="sources", sizes=OPENED_SIZES, prepare=on_sources(passes)),
    Growth(name="names of losses", grows_with="sources", sizes=OPENED_SIZES, prepare=on_sources(labels)),
    Growth(name="plan a validation", grows_with="sources", sizes=OPENED_SIZES, prepare=on_sources(validation)),
    Growth(name="position in the data", grows_with="sources", sizes=OPENED_SIZES, prepare=on_sources(position)),
)
