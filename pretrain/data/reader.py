"""The dataloader of one rank: its training samples, read ahead, with the hash of those that were consumed.

Letters: b micro batch, s sequence.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from pretrain.config.derive import global_batch_size_at, num_microbatches
from pretrain.config.schema import RunConfig
from pretrain.data.position import (
    DataPosition,
    Lanes,
    StepPosition,
    VerifiedSource,
    add,
    from_hex,
    position_of,
    samples_hash,
    to_hex,
)
from pretrain.data.prefetch import Prefetcher
from pretrain.data.read import TrainData
from pretrain.data.same_data import check_same_data
from pretrain.data.shard_verifier import Compared, ShardVerifier
from pretrain.data.sources import Source, Sources
from pretrain.parallel.environment import rank_and_size
from pretrain.parallel.reduce import smallest_each, wrapping_sum
from pretrain.parallel.world import World
from tokenizer.shards.manifest import DamagedShardError, shard_paths

PLACED_SAMPLES = 2048
"""Samples whose places are computed at once: numpy's cost per call is shared among them."""


@dataclass(frozen=True, kw_only=True)
class HostBatch:
    """One micro batch in host memory, owned by its holder."""

    numbers: range
    """Its samples."""
    sources: np.ndarray
    """int64 [b]: of each row, its source's number in the run."""
    start_tokens: np.ndarray
    """int64 [b]: of each row, its first token in the shard."""
    rows: torch.Tensor
    """int64 [b, s + 1]; pinned where the device is a GPU, in a block that the allocator gives out again only when the copies
    from it have ended. No row on stages that read no token."""
    document_starts: list[np.ndarray] | None
    """Positions 1 to s where a document starts, per row, if data.document_mask is on."""
    hash: Lanes
    """Hash of the samples (``samples_hash``); zeros on ranks that do not hash."""


def reads_data(world: World) -> bool:
    """The first pipeline stage needs tokens, the last one labels; the others read nothing."""
    return world.is_pipeline_first or world.is_pipeline_last


def hashes_data(world: World) -> bool:
    """Return whether this rank hashes the tokens of its replica: one of the ranks that read them does."""
    return world.is_pipeline_first and world.tp_rank == 0


class TrainReader:
    """A rank's place in the training samples. Close it, or use ``open_reader``."""

    def __init__(self, data: TrainData, run: RunConfig, world: World) -> None:
        self.data = data
        self._run = run
        self._world = world
        self._steps_left = 1
        self._ahead: Prefetcher[HostBatch] | None = None
        self._earlier_hash: Lanes = (0, 0)  # of the whole run, up to where this process took over
        self._hash: Lanes = (0, 0)  # of what this rank has read since
        self._last_step = StepPosition(first_sample=0, num_samples=0, hash=to_hex((0, 0)))
        self._last_step_hash: Lanes = (0, 0)  # of what this rank has read of it
        self.verifier = ShardVerifier(
            data.sources, data.mixture, run.data.verify, is_first_of_node=rank_and_size()[2] == 0
        )
        self._mtimes_ns = [_mtime_ns(source) for source in data.sources.train]

    def begin_step(self, *, consumed_samples: int, global_batch_size: int, steps_left: int) -> None:
        """The batches that follow belong to the step of these samples; it and those behind it are ``steps_left``.

        Raises: DamagedShardError if a shard was found altered meanwhile; PassingError, UserError if one can no longer be read.
        """
        self.verifier.check(consumed_samples=consumed_samples)
        self._steps_left = steps_left
        self._last_step = StepPosition(
            first_sample=consumed_samples, num_samples=global_batch_size, hash=to_hex((0, 0))
        )
        self._last_step_hash = (0, 0)

    def batch(self, index: int) -> HostBatch:
        """This replica's micro batch ``index`` of the step; it counts as consumed. Steps and batches in order are cheapest.

        Raises: DamagedTokenError, and whatever reading the shards raises.
        """
        consumed = self._last_step.first_sample
        first = consumed + (index * self._world.data_parallel_size + self._world.dp_rank) * self._per_pass
        batch = next(self._ahead, None) if self._ahead is not None else None
        if batch is None or batch.numbers.start != first:
            self.close()
            self._ahead = Prefetcher(
                self._batches(consumed, index),
                item_bytes=self._batch_bytes(),
                budget_bytes=self._run.data.prefetch_bytes,
                prepare_thread=self._prepare_thread,
            )
            batch = next(self._ahead)
        assert batch.numbers.start == first, f"batch of sample {batch.numbers.start} in place of {first}"
        self._hash = add(self._hash, batch.hash)
        self._last_step_hash = add(self._last_step_hash, batch.hash)
        return batch

    def position(self, consumed_samples: int) -> DataPosition:
        """The record of a checkpoint taken now. Collective over all ranks; two device syncs. Raises: as ``begin_step``."""
        self.verifier.check()
        compared = self.verifier.compared(smallest_each(self.verifier.num_parts(), self._world))
        low, high, step_low, step_high = wrapping_sum([*self._hash, *self._last_step_hash], self._world)
        return position_of(
            self.data,
            consumed_samples=consumed_samples,
            consumed_hash=add(self._earlier_hash, (low, high)),
            last_step=StepPosition(
                first_sample=self._last_step.first_sample,
                num_samples=self._last_step.num_samples,
                hash=to_hex(add(from_hex(self._last_step.hash), (step_low, step_high))),
            ),
            verified=tuple(
                VerifiedSource(
                    identity=source.identity,
                    num_tokens=found.num_tokens,
                    has_index=found.has_index,
                    bin_mtime_ns=mtime_ns,
                )
                for source, found, mtime_ns in zip(self.data.sources.train, compared, self._mtimes_ns, strict=True)
            ),
        )

    def resume(self, saved: DataPosition, *, where: str) -> None:
        """Go on from a checkpoint's position, after reading the samples of its last step once more.

        Collective over all ranks; one device sync. Raises: UserError naming each difference, the same on every rank.
        """
        now = position_of(
            self.data, consumed_samples=saved.consumed_samples, consumed_hash=(0, 0), last_step=saved.last_step
        )
        check_same_data(saved, now, where=where)
        found: Lanes = (0, 0)
        if hashes_data(self._world):
            first, end = saved.last_step.first_sample, saved.last_step.first_sample + saved.last_step.num_samples
            mine = np.arange(first + self._world.dp_rank, end, self._world.data_parallel_size, dtype=np.int64)
            for part in (mine[at : at + 64] for at in range(0, len(mine), 64)):
                found = add(found, samples_hash(part.tolist(), self.data.read(part)))
        low, high = wrapping_sum(found, self._world)
        if to_hex((low, high)) != saved.last_step.hash:
            raise DamagedShardError(
                f"the samples of the last step before checkpoint {where} ({saved.last_step.first_sample} to "
                f"{saved.last_step.first_sample + saved.last_step.num_samples - 1}) are no longer the tokens that were trained on "
                f"(hash {to_hex((low, high))}, checkpoint {saved.last_step.hash}): a .bin changed after its manifest was written. "
                "Find it with `fanal tokenizer verify PREFIX --deep` and copy the shard again"
            )
        self._earlier_hash, self._hash = from_hex(saved.consumed_hash), (0, 0)
        self._last_step, self._last_step_hash = saved.last_step, (0, 0)
        verified = {source.identity: source for source in saved.verified}
        carried = [
            _carried(verified.get(source.identity), mtime_ns)
            for source, mtime_ns in zip(self.data.sources.train, self._mtimes_ns, strict=True)
        ]
        self.verifier.resume(carried, consumed_samples=saved.consumed_samples)

    def close(self) -> None:
        """Stop reading ahead."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    @property
    def _per_pass(self) -> int:
        return self._run.train.micro_batch_size

    def _batch_bytes(self) -> int:
        """Memory of a HostBatch: its rows, and a source and a start for each."""
        rows = self._per_pass * (self._run.data.seq_length + 1) * 8
        if self._world.device.type == "cuda":
            rows = 1 << (rows - 1).bit_length()  # pinned blocks come in powers of two
        return rows + self._per_pass * 16

    def _prepare_thread(self) -> None:
        if self._world.device.type == "cuda":
            torch.cuda.set_device(self._world.device)  # else pinning makes a context on the first GPU

    def _batches(self, consumed_samples: int, index: int) -> Iterator[HostBatch]:
        """This replica's micro batches from ``index`` of a step on, to the end of the run."""
        firsts = self._first_samples(consumed_samples, index, self._steps_left)
        while part := list(islice(firsts, max(1, PLACED_SAMPLES // self._per_pass))):
            numbers = np.array(part, np.int64)[:, None] + np.arange(self._per_pass)  # [batches, b]
            sources, starts = (found.reshape(numbers.shape) for found in self.data.places(numbers.ravel()))
            for row, first in enumerate(part):
                yield self._read(range(first, first + self._per_pass), sources[row], starts[row])

    def _first_samples(self, consumed_samples: int, index: int, num_steps: int) -> Iterator[int]:
        """First sample of each of these micro batches, in so many steps.

        Micro batch m of replica r holds the b samples from consumed + (m * replicas + r) * b on, so the batch as a set does
        not depend on the layout.
        """
        replicas = self._world.data_parallel_size
        for _ in range(num_steps):
            size = global_batch_size_at(self._run.train, consumed_samples)
            count = num_microbatches(
                global_batch_size=size, micro_batch_size=self._per_pass, data_parallel_size=replicas
            )
            for number in range(index, count):
                yield consumed_samples + (number * replicas + self._world.dp_rank) * self._per_pass
            consumed_samples, index = consumed_samples + size, 0

    def _read(self, numbers: range, sources: np.ndarray, start_tokens: np.ndarray) -> HostBatch:
        starts = self.data.document_starts(sources, start_tokens) if self._run.data.document_mask else None
        rows = torch.empty(
            (len(numbers) if reads_data(self._world) else 0, self._run.data.seq_length + 1),
            dtype=torch.int64,
            pin_memory=self._world.device.type == "cuda",
        )
        if len(rows):
            self.data.read_places(sources, start_tokens, rows.numpy())
        return HostBatch(
            numbers=numbers,
            sources=sources,
            start_tokens=start_tokens,
            rows=rows,
            document_starts=starts,
            hash=samples_hash(numbers, rows.numpy()) if hashes_data(self._world) else (0, 0),
        )


def _mtime_ns(source: Source) -> int:
    return shard_paths(source.shard.prefix)[0].stat().st_mtime_ns


def _carried(verified: VerifiedSource | None, mtime_ns: int) -> Compared:
    """What an earlier start has compared of a source whose .bin was written at ``mtime_ns``."""
    if verified is None or verified.bin_mtime_ns != mtime_ns:
        return Compared(has_index=False, num_tokens=0)
    return Compared(has_index=verified.has_index, num_tokens=verified.num_tokens)


@contextlib.contextmanager
def open_reader(sources: Sources, run: RunConfig, world: World) -> Iterator[TrainReader]:
    """The reader of a rank, and the comparison of its shards; their threads end with the block, whatever ends it."""
    reader = TrainReader(TrainData(sources, run.data), run, world)
    reader.verifier.start()
    try:
        yield reader
    finally:
        reader.close()
        reader.verifier.close()
