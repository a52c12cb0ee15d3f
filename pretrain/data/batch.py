"""Samples -> the micro batches of one rank, on its device.

Shapes: s sequence, b micro batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pretrain.config.derive import num_microbatches
from pretrain.config.schema import RunConfig
from pretrain.data.blend import Blend
from pretrain.data.sources import Source
from pretrain.parallel.world import World


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """One forward pass of one rank."""

    tokens: torch.Tensor
    """int64 [b, s]."""
    labels: torch.Tensor
    """int64 [b, s]: the tokens one position on."""
    loss_mask: torch.Tensor
    """float32 [b, s]: 1 where the prediction counts."""
    position_ids: torch.Tensor
    """int64 [b, s]."""


class TrainData:
    """The training samples of a run, by number. Holds no position: the same for every rank, layout and restart."""

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        self.sources = list(sources)
        self.blend = Blend(weights=tuple(source.weight for source in sources), seed=seed)

    def sample(self, number: int) -> np.ndarray:
        """Tokens of sample ``number``, [s + 1]."""
        source, rank = self.blend.locate(number)
        return self.sources[source].chunk(rank)


def reads_data(world: World) -> bool:
    """The first pipeline stage needs tokens, the last one labels; the others read nothing."""
    return world.is_pipeline_first or world.is_pipeline_last


def train_micro_batches(
    data: TrainData, run: RunConfig, world: World, *, consumed_samples: int, global_batch_size: int
) -> Iterator[MicroBatch | None]:
    """This rank's micro batches of the step that starts at ``consumed_samples``; None on stages that read nothing.

    Micro batch m of replica r holds the b samples from consumed + (m * replicas + r) * b on, so the batch as a set does
    not depend on the layout.
    """
    per_pass = run.train.micro_batch_size
    count = num_microbatches(
        global_batch_size=global_batch_size, micro_batch_size=per_pass, data_parallel_size=world.data_parallel_size
    )
    for index in range(count):
        if not reads_data(world):
            yield None
            continue
        first = consumed_samples + (index * world.data_parallel_size + world.dp_rank) * per_pass
        yield micro_batch([data.sample(first + row) for row in range(per_pass)], world.device)


def held_out_micro_batches(
    source: Source, run: RunConfig, world: World, *, num_samples: int, count: int
) -> Iterator[MicroBatch | None]:
    """``count`` micro batches of a held-out source for this rank; rows past ``num_samples`` are masked out."""
    per_pass = run.train.micro_batch_size
    for index in range(count):
        if not reads_data(world):
            yield None
            continue
        first = (index * world.data_parallel_size + world.dp_rank) * per_pass
        rows = [source.chunk(min(first + row, num_samples - 1)) for row in range(per_pass)]
        counted = [float(first + row < num_samples) for row in range(per_pass)]
        yield micro_batch(rows, world.device, row_weights=counted)


def micro_batch(
    rows: Sequence[np.ndarray], device: torch.device, *, row_weights: Sequence[float] | None = None
) -> MicroBatch:
    """Rows of [s + 1] tokens -> one micro batch on the device; the copy to a GPU does not wait."""
    host = torch.from_numpy(np.stack(rows).astype(np.int64))  # [b, s + 1]
    if device.type == "cuda":
        host = host.pin_memory()
    tokens_and_next = host.to(device, non_blocking=True)
    tokens = tokens_and_next[:, :-1].contiguous()
    loss_mask = torch.ones(tokens.shape, dtype=torch.float32, device=device)
    if row_weights is not None:
        loss_mask *= torch.tensor(row_weights, dtype=torch.float32, device=device)[:, None]
    return MicroBatch(
        tokens=tokens,
        labels=tokens_and_next[:, 1:].contiguous(),
        loss_mask=loss_mask,
        position_ids=torch.arange(tokens.shape[1], device=device).expand_as(tokens),
    )
