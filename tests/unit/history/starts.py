"""Runs that have begun as far as their folder says: files of starts, without a step trained."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pretrain.config.schema import RunConfig
from pretrain.config.steps import consumed_samples_at
from pretrain.data.sources import open_sources
from pretrain.log.start_file import Code, StartFile, write_start_file
from pretrain.train.begin_start import training_sources


def begin(
    run: RunConfig,
    *,
    number: int = 1,
    step: int = 0,
    consumed_samples: int | None = None,
    num_ranks: int = 1,
    origin: dict[str, Any] | None = None,
) -> StartFile:
    """Write the file of a start of this run; samples, if not given, as its own batches lead to."""
    sources = open_sources(run)
    start = StartFile(
        number=number,
        time_unix_s=1.5e9,
        startup_s=1.0,
        step=step,
        consumed_samples=consumed_samples_at(run.train, step) if consumed_samples is None else consumed_samples,
        decay_start_sample=None,
        config=asdict(run),
        code=Code(version="0", commit=None, modified=None),
        versions={},
        hosts=("node",),
        num_ranks=num_ranks,
        devices={"cpu": num_ranks},
        device_type="cpu",
        user="ada",
        job=None,
        sources=training_sources(sources),
        validation_sources=(),
        origin=origin,
        changes=(),
    )
    Path(run.run_dir).mkdir(parents=True, exist_ok=True)
    write_start_file(run.run_dir, start)
    return start
