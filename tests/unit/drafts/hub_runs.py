"""A run of four labelled sources as far as its folder says: a start and a log of twenty steps, without a training."""

from pathlib import Path

from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from tests.runs.labelled_sources import write_labelled_sources
from tests.unit.history.starts import begin
from tests.unit.report.made_runs import end, stamped, start, step, write_run

STEPS, BATCH, SEQ_LENGTH = 20, 8, 64


def logged_run(small_run: Path, data_folder: Path, folder: Path, *overrides: str) -> RunConfig:
    """Write shards and run into a folder. The run has read every shard, the tiny one several times."""
    *prefixes, validation = write_labelled_sources(data_folder, folder)
    run = load_run(
        small_run,
        [
            f"run_dir={folder / 'run'}", f"train.train_steps={STEPS}", f"train.global_batch_size={BATCH}",
            f"data.seq_length={SEQ_LENGTH}", "data.train=[" + ", ".join(f"{{prefix: {prefix}}}" for prefix in prefixes) + "]",
            f"data.validation=[{{prefix: {validation}}}]", *overrides,
        ],
    )  # fmt: skip
    begin(run, num_ranks=2)
    lines = [start(0), *(step(at) for at in range(1, STEPS + 1)), end(STEPS)]
    write_run(folder / "run", stamped(lines, 1))
    return run
