"""Spies on what each rank trains on, with a fault planted in what it reads or not. Called in every rank before the run starts."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch


def every_rank_writes_what_it_trains_on() -> None:
    """Not a fault: the rows of each step's micro batches, as the model gets them, by the step and the rank's place."""
    from pretrain.data.batch import MicroBatch
    from pretrain.train import loop

    train_step = loop.train_step

    def spied(model: Any, optimizer: Any, micro_batches: Any, run: Any, world: Any, **kwargs: Any) -> Any:
        batches = list(micro_batches)
        held = [
            torch.cat((batch.tokens, batch.labels[:, -1:]), dim=1).tolist() if isinstance(batch, MicroBatch) else None
            for batch in batches
        ]
        line = {
            "step": kwargs["state"].step + 1,
            "replica": world.dp_rank,
            "replicas": world.data_parallel_size,
            "held": held,
        }
        with (Path(run.run_dir) / f"read-{world.rank}.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        return train_step(model, optimizer, iter(batches), run, world, **kwargs)

    loop.train_step = spied


def every_rank_writes_and_dies_at_step_14() -> None:
    """Behind a checkpoint, so that the steps in between are lost."""
    from pretrain.train import loop

    every_rank_writes_what_it_trains_on()
    train_step = loop.train_step

    def killed(*args: Any, **kwargs: Any) -> Any:
        if kwargs["state"].step + 1 == 14:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(*args, **kwargs)

    loop.train_step = killed


def every_rank_writes_and_one_replica_reads_a_token_late() -> None:
    """The last replica's rows begin one token behind where the order of data puts them, in training alone."""
    from pretrain.data.reader import TrainReader
    from pretrain.data.rows import RowReader

    every_rank_writes_what_it_trains_on()
    if int(os.environ["RANK"]) != int(os.environ["WORLD_SIZE"]) - 1:
        return
    read, begin_step = RowReader.read, TrainReader.begin_step

    def late(self: RowReader, sources: np.ndarray, start_tokens: np.ndarray, out: np.ndarray) -> np.ndarray:
        return read(self, sources, start_tokens + 1, out)

    def begun(self: TrainReader, **kwargs: Any) -> None:
        RowReader.read = late  # type: ignore[method-assign]
        begin_step(self, **kwargs)

    TrainReader.begin_step = begun  # type: ignore[method-assign]
