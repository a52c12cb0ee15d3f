"""Samples -> the micro batches of one rank, on its device.

Shapes: s sequence, b micro batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from pretrain.config.derive import num_microbatches
from pretrain.config.schema import DataConfig, TrainConfig
from pretrain.data.documents import (
    Boundaries,
    packed_starts,
    positions_in_documents,
    predictable,
)
from pretrain.data.reader import TrainReader, reads_data
from pretrain.data.validation import ValidationSamples
from pretrain.parallel.sequence_chunks import part_of
from pretrain.parallel.world import World


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """One forward pass of one rank."""

    tokens: torch.Tensor
    """int64 [b, s]; of ranks that share a sequence each has its part of s here and below, two chunks (sequence_chunks.py)."""
    labels: torch.Tensor
    """int64 [b, s]: the tokens one position on."""
    loss_mask: torch.Tensor
    """float32 [b, s]: 1 where the prediction counts. A label that is padding never does, nor, with data.document_mask, one
    that begins the next document, nor what an objective leaves out."""
    position_ids: torch.Tensor
    """int64 [b, s], from 0 in each row; with data.document_mask from 0 in each document. The rotary embedding counts from
    the row's start either way: only differences of positions reach attention, and they are the same inside a document."""
    domain_ids: torch.Tensor
    """int64 [b]: number of the domain each row is from, in ``domains`` of TrainData or ValidationSamples."""
    document_starts: torch.Tensor | None = None
    """First token of every document where data.document_mask is on, the rows lying one after the other, and last b * s:
    int32 [documents + 1]; each row begins one. None leaves a row whole."""


def train_micro_batches(
    reader: TrainReader,
    train: TrainConfig,
    world: World,
    *,
    consumed_samples: int,
    global_batch_size: int,
    steps_left: int = 1,
) -> Iterator[MicroBatch | Boundaries | None]:
    """This rank's micro batches of the step that starts at ``consumed_samples``.

    ``steps_left``, this step included, is how far reading ahead may go. Batches count as consumed when they are taken.
    Which samples they hold: see ``TrainReader``. A stage in the middle of the pipeline reads no token: it gets None, or with
    data.document_mask the boundaries of the documents.
    """
    count = num_microbatches(
        global_batch_size=global_batch_size,
        micro_batch_size=train.micro_batch_size,
        data_parallel_size=world.data_parallel_size,
    )
    reader.begin_step(consumed_samples=consumed_samples, global_batch_size=global_batch_size, steps_left=steps_left)
    for index in range(count):
        if not (reads_data(world) or reader.data.config.document_mask):
            yield None
            continue
        batch = reader.batch(index)
        if not reads_data(world):
            yield boundaries(batch.document_starts, reader.data.config.seq_length, world.device)
            continue
        whole = micro_batch(
            batch.contents,
            world.device,
            seq_length=reader.data.config.seq_length,
            pad_id=reader.data.sources.pad_id,
            has_padding=batch.has_padding,
            domain_ids=reader.data.domain_ids(batch.sources),
            counted=batch.counted,
            document_starts=batch.document_starts,
        )
        yield part_of_rank(whole, world)


def validation_micro_batches(
    samples: ValidationSamples, data: DataConfig, train: TrainConfig, world: World, *, count: int
) -> Iterator[MicroBatch | Boundaries | None]:
    """``count`` micro batches of the validation samples for this rank; rows past the last sample are masked out.

    Raises: DamagedTokenError for an id that no token has.
    """
    per_pass = train.micro_batch_size
    for index in range(count):
        wanted = (index * world.data_parallel_size + world.dp_rank) * per_pass + np.arange(per_pass)
        sources, starts = samples.places(np.minimum(wanted, samples.num_samples - 1))
        documents = samples.document_starts(sources, starts) if samples.reads_index else None
        apart = documents if data.document_mask else None
        if not reads_data(world):
            yield boundaries(apart, data.seq_length, world.device)
            continue
        rows = torch.empty((per_pass, data.seq_length + 1), dtype=torch.int64, pin_memory=world.device.type == "cuda")
        samples.read_places(sources, starts, rows.numpy())
        whole = micro_batch(
            rows,
            world.device,
            seq_length=data.seq_length,
            pad_id=samples.pad_id,
            has_padding=bool((rows.numpy() == samples.pad_id).any()),
            domain_ids=samples.domain_ids(sources),
            row_weights=(wanted < samples.num_samples).astype(np.float32).tolist(),
            counted=samples.counted(sources, starts, rows.numpy(), documents),
            document_starts=apart,
        )
        yield part_of_rank(whole, world)


def micro_batch(
    rows: torch.Tensor,
    device: torch.device,
    *,
    seq_length: int,
    pad_id: int,
    has_padding: bool,
    domain_ids: np.ndarray | None = None,
    row_weights: Sequence[float] | None = None,
    counted: np.ndarray | None = None,
    document_starts: Sequence[np.ndarray] | None = None,
) -> MicroBatch:
    """Integers [b, s + 1] in host memory -> one micro batch on the device; copies from pinned memory do not wait.

    Args:
        rows: of a type that holds every id; what stands before the last s + 1 of a row is left out, on the device, since a copy
            of whole rows needs no wait.
        pad_id: labels with this id do not count.
        has_padding: whether a row holds it; most do not, and a mask of its own takes half of the time of a batch.
        domain_ids: number of each row's domain, int64 [b]; 0 if None.
        row_weights: what a prediction of each row counts, [b]; 1 if None.
        counted: which predictions the objectives count, bool [b, s]; all if None.
        document_starts: per row the positions 1 to s that begin a document; None keeps no documents apart.
    """
    num_rows = len(rows)
    tokens_and_next = rows.to(device, non_blocking=True)[:, -seq_length - 1 :].to(torch.int64)
    tokens, labels = tokens_and_next[:, :-1], tokens_and_next[:, 1:]
    if device.type != "cpu":  # kernels of a GPU want rows without a gap; on a CPU the views cost nothing
        tokens, labels = tokens.contiguous(), labels.contiguous()
    positions, ones = _per_position(num_rows, seq_length, device)
    loss_mask = (labels != pad_id).to(torch.float32) if has_padding else ones
    if row_weights is not None:
        loss_mask = loss_mask * torch.tensor(row_weights, dtype=torch.float32, device=device)[:, None]
    if counted is not None:
        loss_mask = loss_mask * _to_device(counted, device)
    packed = None
    if document_starts is not None:
        packed = packed_starts(document_starts, seq_length)
        loss_mask = loss_mask * _to_device(predictable(document_starts, seq_length), device)
        positions = _to_device(positions_in_documents(packed, seq_length), device)
    return MicroBatch(
        tokens=tokens,
        labels=labels,
        loss_mask=loss_mask,
        position_ids=positions,
        domain_ids=_to_device(np.zeros(num_rows, np.int64) if domain_ids is None else domain_ids, device),
        document_starts=None if packed is None else _to_device(packed, device),
    )


def part_of_rank(batch: MicroBatch, world: World) -> MicroBatch:
    """Return what one of the ranks that share its sequences has of a micro batch: two chunks of every [b, s], the boundaries of
    documents in whole rows."""
    if world.context_parallel_size == 1:
        return batch

    def part(whole: torch.Tensor) -> torch.Tensor:
        return part_of(whole, world.cp_rank, world.context_parallel_size, dim=1)

    return replace(
        batch,
        tokens=part(batch.tokens),
        labels=part(batch.labels),
        loss_mask=part(batch.loss_mask),
        position_ids=part(batch.position_ids),
    )


@lru_cache(maxsize=4)
def _per_position(num_rows: int, seq_length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions, int64 [b, s], and weights of 1, float32 [b, s], that every micro batch has.

    They are expanded views of one row. PyTorch refuses to write to those, so that no batch can change another.
    """
    shape = num_rows, seq_length
    return torch.arange(seq_length, device=device).expand(shape), torch.ones(seq_length, device=device).expand(shape)


def boundaries(
    document_starts: Sequence[np.ndarray] | None, seq_length: int, device: torch.device
) -> Boundaries | None:
    """Return what a stage in the middle of the pipeline needs of a micro batch; None where no documents are kept apart."""
    if document_starts is None:
        return None
    return Boundaries(document_starts=_to_device(packed_starts(document_starts, seq_length), device))


def _to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    host = torch.from_numpy(array)
    if device.type == "cpu":
        return host
    return host.pin_memory().to(device, non_blocking=True)
