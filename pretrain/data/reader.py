"""The dataloader of one rank: its training samples, read ahead, with the hash of those that were consumed.

Letters: b micro batch, s sequence.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch

from pretrain.config.derive import num_microbatches
from pretrain.config.schema import RunConfig
from pretrain.config.steps import global_batch_size_at
from pretrain.data.position import DataPosition, StepPosition, VerifiedSource, position_of
from pretrain.data.prefetch import Prefetcher
from pretrain.data.read import TrainData
from pretrain.data.rows import DamagedTokenError
from pretrain.data.same_data import check_same_data
from pretrain.data.sample_hash import NEW_RUN, Lanes, SampleHasher, add, algorithm_of, lanes_of, to_text
from pretrain.data.shard_verifier import Compared, ShardVerifier
from pretrain.data.sources import Source, Sources
from pretrain.parallel.environment import rank_and_size
from pretrain.parallel.reduce import smallest_each, wrapping_sum
from pretrain.parallel.world import World
from tokenizer.shards.manifest import DamagedShardError, shard_paths

PLACED_SAMPLES = 2048
"""Samples whose places are computed at once: numpy's cost per call is shared among them."""
READ_SAMPLES = 64
"""Samples that are read, checked and handed over at once: fewer calls a sample, and the thread that reads ahead and the one that
trains change places at the interpreter less often."""


@dataclass(frozen=True, kw_only=True)
class HostBatch:
    """One micro batch in host memory, owned by its holder."""

    numbers: range
    """Its samples."""
    sources: np.ndarray
    """int64 [b]: of each row, its source's number in the run."""
    places: np.ndarray
    """int64 [b]: of each row, its place in the source (``TrainData.places``)."""
    has_padding: bool
    """Whether a token is padding; False on ranks that read none."""
    contents: torch.Tensor
    """uint16 or int32 [b, content_items]: each row's number, then its s + 1 tokens, as objectives made them; pinned
    where the device is a GPU, in a block that the allocator gives out again only when the copies from it have ended. No row on
    stages that read no token."""
    counted: np.ndarray | None
    """bool [b, s]: which predictions packed rows and objectives count; None if all, and on ranks that read no token."""
    document_starts: list[np.ndarray] | None
    """Positions 1 to s where a document starts, per row, if data.document_mask is on."""
    hash: Lanes
    """Sum of the hashes of the samples as they were read (``SampleHasher``); zeros on ranks that do not hash."""


def reads_data(world: World) -> bool:
    """The first pipeline stage needs tokens, the last one labels; the others read nothing."""
    return world.is_pipeline_first or world.is_pipeline_last


def hashes_data(world: World) -> bool:
    """Return whether this rank hashes the tokens of its replica: one of the ranks that read them does."""
    return world.is_pipeline_first and world.tp_rank == 0 and world.cp_rank == 0


class TrainReader:
    """A rank's place in the training samples. Close it, or use ``open_reader``."""

    def __init__(self, data: TrainData, run: RunConfig, world: World) -> None:
        self.data = data
        self._run = run
        self._world = world
        self._steps_left = 1
        self._ahead: Prefetcher[list[HostBatch]] | None = None
        self._made: Iterator[HostBatch] = iter(())  # what is read ahead, one by one
        self._hasher = self._new_hasher(NEW_RUN)
        self._earlier_hash: Lanes = (0, 0)  # of the whole run, up to where this process took over
        self._hash: Lanes = (0, 0)  # of what this rank has read since
        self._last_step = StepPosition(first_sample=0, num_samples=0, hash=to_text((0, 0), NEW_RUN))
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
            first_sample=consumed_samples, num_samples=global_batch_size, hash=to_text((0, 0), self._hasher.algorithm)
        )
        self._last_step_hash = (0, 0)

    def batch(self, index: int) -> HostBatch:
        """This replica's micro batch ``index`` of the step; it counts as consumed. Steps and batches in order are cheapest.

        Raises: DamagedTokenError, and whatever reading the shards raises.
        """
        consumed = self._last_step.first_sample
        first = consumed + (index * self._world.data_parallel_size + self._world.dp_rank) * self._per_pass
        batch = next(self._made, None)
        if batch is None or batch.numbers.start != first:
            self.close()
            batch = next(self._read_ahead(consumed, index))
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
            consumed_hash=to_text(add(self._earlier_hash, (low, high)), self._hasher.algorithm),
            last_step=StepPosition(
                first_sample=self._last_step.first_sample,
                num_samples=self._last_step.num_samples,
                hash=to_text(add(lanes_of(self._last_step.hash), (step_low, step_high)), self._hasher.algorithm),
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
            self.data,
            consumed_samples=saved.consumed_samples,
            consumed_hash=saved.consumed_hash,
            last_step=saved.last_step,
        )
        check_same_data(saved, now, where=where)
        self._hasher = self._new_hasher(algorithm_of(saved.consumed_hash))
        low, high = wrapping_sum(self._hash_again(saved.last_step), self._world)
        if (found := to_text((low, high), self._hasher.algorithm)) != saved.last_step.hash:
            raise DamagedShardError(
                f"the samples of the last step before checkpoint {where} ({saved.last_step.first_sample} to "
                f"{saved.last_step.first_sample + saved.last_step.num_samples - 1}) are no longer the tokens that were trained on "
                f"(hash {found}, checkpoint {saved.last_step.hash}): a .bin changed after its manifest was written. "
                "Find it with `fanal tokenizer verify PREFIX --deep` and copy the shard again"
            )
        self._earlier_hash, self._hash = lanes_of(saved.consumed_hash), (0, 0)
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
            self._ahead, self._made = None, iter(())

    @property
    def _per_pass(self) -> int:
        return self._run.train.micro_batch_size

    def _new_hasher(self, algorithm: str) -> SampleHasher:
        return SampleHasher(algorithm, vocab_size=self.data.sources.vocab_size, seq_length=self._run.data.seq_length)

    def _hash_again(self, step: StepPosition) -> Lanes:
        """Read this replica's share of a step's samples; their hash, and zeros on ranks that do not hash."""
        found: Lanes = (0, 0)
        if hashes_data(self._world):
            first, end = step.first_sample, step.first_sample + step.num_samples
            mine = np.arange(first + self._world.dp_rank, end, self._world.data_parallel_size, dtype=np.int64)
            for part in (mine[at : at + READ_SAMPLES] for at in range(0, len(mine), READ_SAMPLES)):
                contents = np.empty((len(part), self._hasher.content_items), self._hasher.dtype)
                self.data.read_places(*self.data.places(part), self._hasher.write_numbers(contents, part))
                found = add(found, self._hasher.sum(contents))
        return found

    def _read_ahead(self, consumed_samples: int, index: int) -> Iterator[HostBatch]:
        """Begin to read from micro batch ``index`` of a step on, in groups; the budget holds a few of them, one of which is being
        taken, or one batch after the other if it is small."""
        budget_bytes, batch_bytes = self._run.data.prefetch_bytes, self._batch_bytes()
        count = max(1, min(READ_SAMPLES // self._per_pass, budget_bytes // (4 * batch_bytes)))
        self._ahead = Prefetcher(
            self._groups(consumed_samples, index, count),
            item_bytes=count * batch_bytes,
            budget_bytes=budget_bytes if count == 1 else budget_bytes - count * batch_bytes,
            prepare_thread=self._prepare_thread,
        )
        self._made = chain.from_iterable(self._ahead)
        return self._made

    def _batch_bytes(self) -> int:
        """Memory of a HostBatch: its contents, what counts, and a source and a start for each."""
        contents = self._per_pass * self._hasher.content_items * self._hasher.dtype.itemsize
        if self._world.device.type == "cuda":
            contents = 1 << (contents - 1).bit_length()  # pinned blocks come in powers of two
        counted = self._per_pass * self._run.data.seq_length if self.data.counts_apart else 0
        return contents + counted + self._per_pass * 16

    def _prepare_thread(self) -> None:
        if self._world.device.type == "cuda":
            torch.cuda.set_device(self._world.device)  # else pinning makes a context on the first GPU

    def _groups(self, consumed_samples: int, index: int, count: int) -> Iterator[list[HostBatch]]:
        """This replica's micro batches from ``index`` of a step on, to the end of the run, ``count`` at a time."""
        firsts = self._first_samples(consumed_samples, index, self._steps_left)
        while part := list(islice(firsts, max(count, PLACED_SAMPLES // self._per_pass))):
            numbers = np.array(part, np.int64)[:, None] + np.arange(self._per_pass)  # [batches, b]
            sources, places = (found.reshape(numbers.shape) for found in self.data.places(numbers.ravel()))
            for at in range(0, len(part), count):
                group = tuple(array[at : at + count] for array in (numbers, sources, places))
                try:
                    read = self._read(*group)
                except DamagedTokenError:  # raised again behind the batches before it, which may end a step
                    read = None
                if read is not None:
                    yield read
                else:
                    yield from (self._read(*batch) for batch in zip(*(np.split(a, len(a)) for a in group), strict=True))

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

    def _read(self, numbers: np.ndarray, sources: np.ndarray, places: np.ndarray) -> list[HostBatch]:
        """These micro batches, read at once. Args: int64 [batches, b] each."""
        per_batch = self._per_pass if reads_data(self._world) else 0
        contents = torch.empty(
            (len(numbers), per_batch, self._hasher.content_items),
            dtype=getattr(torch, self._hasher.dtype.name),
            pin_memory=self._world.device.type == "cuda",
        )
        hashes, has_padding = [(0, 0)] * len(numbers), [False] * len(numbers)
        masked, counted = self._run.data.document_mask, None
        with_starts = masked or (self.data.reads_index and per_batch > 0)
        documents = self.data.document_starts(sources.ravel(), places.ravel()) if with_starts else None
        if per_batch:
            flat = contents.numpy().reshape(numbers.size, -1)
            tokens = self._hasher.write_numbers(flat, numbers.ravel())
            self.data.read_places(sources.ravel(), places.ravel(), tokens)
            has_padding = (tokens == self.data.sources.pad_id).any(axis=1).reshape(numbers.shape).any(axis=1).tolist()
            if hashes_data(self._world):
                lanes = self._hasher.each(flat).reshape(*numbers.shape, 2)
                hashes = [(low, high) for low, high in lanes.sum(axis=1, dtype=np.uint64).tolist()]
            counted = self.data.apply_objectives(numbers.ravel(), sources.ravel(), places.ravel(), tokens, documents)
        rows = [slice(at, at + self._per_pass) for at in range(0, numbers.size, self._per_pass)]
        return [
            HostBatch(
                numbers=range(first, first + self._per_pass),
                sources=sources[batch],
                places=places[batch],
                has_padding=has_padding[batch],
                contents=contents[batch],
                counted=None if counted is None else counted[rows[batch]],
                document_starts=documents[rows[batch]] if masked and documents is not None else None,
                hash=hashes[batch],
            )
            for batch, first in enumerate(numbers[:, 0].tolist())
        ]


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
