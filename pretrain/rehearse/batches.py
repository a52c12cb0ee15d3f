"""Micro batches of zeros, made by the trainer's own code from host memory, without shards."""

from collections.abc import Iterator

import numpy as np
import torch

from pretrain.config.schema import ObjectiveConfig, RunConfig
from pretrain.data.batch import MicroBatch, _per_position, boundaries, micro_batch
from pretrain.data.documents import Boundaries
from pretrain.data.reader import reads_data
from pretrain.parallel.world import World

DOCUMENT_TOKENS = 512
"""Length of a document where data.document_mask keeps them apart: the real ones are in shards, which a rehearsal does not read."""
NO_ID = -1


def micro_batches(run: RunConfig, world: World, count: int) -> Iterator[MicroBatch | Boundaries | None]:
    """Yield what ``train_micro_batches`` would: None or boundaries on a stage that reads no tokens."""
    rows, seq_length = run.train.micro_batch_size, run.data.seq_length
    counts_all = run.objective == ObjectiveConfig() and run.data.packing == "concatenate"
    counted = None if counts_all else np.ones((rows, seq_length), dtype=bool)
    starts = [np.arange(DOCUMENT_TOKENS, seq_length, DOCUMENT_TOKENS)] * rows if run.data.document_mask else None
    for _ in range(count):
        if not reads_data(world):
            yield boundaries(starts, seq_length, world.device)
            continue
        yield micro_batch(
            torch.zeros(rows, seq_length + 1, dtype=torch.uint16),
            world.device,
            seq_length=seq_length,
            pad_id=NO_ID,
            has_padding=False,
            domain_ids=np.zeros(rows, np.int64),
            counted=counted,
            document_starts=starts,
        )


def forget_positions() -> None:
    """Forget what all micro batches share, which an earlier rehearsal of this process made for its own."""
    _per_position.cache_clear()
