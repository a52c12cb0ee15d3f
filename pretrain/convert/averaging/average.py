"""``fanal average``: the mean of the weights of several checkpoints, as a checkpoint (Izmailov et al., SWA, 2018).

The mean is of the fp32 masters, whatever layouts wrote them: summed in fp64 from the earliest step to the last, divided by their
number, rounded once to fp32. A block of rows is in memory at a time. It is written as FOLDER.part and renamed once it is complete.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fanal.errors import UserError
from fanal.free_space import nearest_folder, shortage
from fanal.links import mode_of_copies
from fanal.new_files import write_new
from fanal.part_folder import part_folder
from fanal.progress import Progress
from fanal.run_folder import AVERAGE, COMPLETE, CONFIG, DATA, MANIFEST, ORIGIN, SHARDS, STATE, TENSORS
from pretrain.checkpoint.disk.average_file import ARITHMETIC, FORMAT_VERSION, Average, AveragedSource, average_text
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, describe, read_small_file
from pretrain.checkpoint.disk.masters import write_masters
from pretrain.checkpoint.disk.sealing import SaveError, seal
from pretrain.checkpoint.disk.shard_file import ITEM_BYTES
from pretrain.checkpoint.disk.stored_sums import row_boxes, stored_sum
from pretrain.checkpoint.disk.tensor_index import TensorIndex, index_text
from pretrain.checkpoint.disk.tensors import MAX_OPEN_FILES, TensorReader, open_tensors
from pretrain.checkpoint.disk.verify import still_there
from pretrain.convert.averaging.sources import Source, Wanted, open_sources
from pretrain.convert.ours.target import harm_of, named
from pretrain.optim.registry import MASTER

OF_THE_NEWEST = (STATE, DATA, CONFIG, ORIGIN)
"""Small files that are copied from the newest checkpoint, where it has them."""
OUR_NAMES = {*OF_THE_NEWEST, TENSORS, AVERAGE, SHARDS, MANIFEST, COMPLETE}
SMALL_FILES_BYTES = 16 << 20


class AverageTargetError(UserError):
    """Error: the average cannot be written at the requested path; the message names the reason."""


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """Result of an average."""

    checkpoint: Path
    sources: tuple[Source, ...]
    """What it is the mean of, in the order of the steps."""
    num_bytes: int


def average(wanted: Wanted, to: str | Path) -> Averaged:
    """Write the checkpoint ``to``.

    Raises: UserError for input that must change; DamagedCheckpointError if a checkpoint that was named is damaged, or holds other
    weights than were trained. Nothing is left under the name ``to`` then.
    """
    final = named(to)
    _check_target(final, 0)  # before every byte of the sources is read
    sources = open_sources(wanted)
    shapes = {name: tensor.shape for name, tensor in sources[-1].index.tensors.items()}
    _check_target(final, sum(math.prod(shape) for shape in shapes.values()) * ITEM_BYTES + SMALL_FILES_BYTES)
    with contextlib.ExitStack() as open_now:
        for source in sources:
            open_now.enter_context(still_there(source.folder))
        # Outside of the files: it removes what was written after they are closed.
        part = open_now.enter_context(_part_of(final))
        readers = [
            open_now.enter_context(open_tensors(source.folder, max_open_files=max(1, MAX_OPEN_FILES // len(sources))))
            for source in sources
        ]
        return _write(part, final, sources, readers, shapes, wanted.state)


def _write(
    part: Path,
    final: Path,
    sources: Sequence[Source],
    readers: Sequence[TensorReader],
    shapes: dict[str, tuple[int, ...]],
    state: str,
) -> Averaged:
    newest, mode, done_bytes = sources[-1], 0o666, 0
    for source in sources:
        mode &= mode_of_copies(source.folder, source.paths)
    with Progress("average", sum(math.prod(shape) for shape in shapes.values()) * ITEM_BYTES) as progress:

        def count(num_bytes: int) -> None:
            nonlocal done_bytes
            done_bytes += num_bytes
            progress.update(done_bytes)

        entries, tensors = write_masters(
            part, shapes, lambda name: mean_blocks(sources, readers, name, state),
            weights_dtype=newest.index.weights_dtype, on_bytes=count, mode=mode,
        )  # fmt: skip
    index = TensorIndex(states=(MASTER,), num_updates=0, weights_dtype=newest.index.weights_dtype, tensors=tensors)
    record = Average(
        format_version=FORMAT_VERSION, state=state, arithmetic=ARITHMETIC, sources=tuple(map(_described, sources))
    )
    texts: dict[str, str | bytes] = {
        **{name: read_small_file(newest.folder / name) for name in OF_THE_NEWEST if name in newest.paths},
        TENSORS: index_text(index),
        AVERAGE: average_text(record),
    }
    for name, text in texts.items():
        write_new(part / name, text, mode=mode)
    entries += [describe(part, name) for name in texts]
    try:
        seal(part, final, step=newest.state.step, entries=entries)
    except SaveError as error:
        raise AverageTargetError(f"--to ({final}) could not be written, and was removed: {error}") from None
    return Averaged(checkpoint=final, sources=tuple(sources), num_bytes=sum(entry.bytes for entry in entries))


def mean_blocks(
    sources: Sequence[Source], readers: Sequence[TensorReader], name: str, state: str
) -> Iterator[np.ndarray]:
    """Yield the mean of a tensor from its first row to its last, float32, a block at a time.

    Raises: DamagedCheckpointError if a source's masters have another sum than the weights that were trained (stored_sums.py).
    """
    sums = [0] * len(sources)
    for box in row_boxes(sources[-1].index.tensors[name].shape):
        total = np.empty(box.size, np.float64)
        values = np.empty(box.size, np.float32)
        for number, reader in enumerate(readers):
            reader.read(name, state, box, values)
            if number:
                total += values
            else:
                total[...] = values
            if state == MASTER:
                sums[number] += stored_sum(values, reader.index.weights_dtype)
        total /= len(readers)
        yield total.astype(np.float32)
    for source, found in zip(sources, sums, strict=True):
        expected = source.index.tensors[name].weights_sum
        if state == MASTER and f"{found % 2**64:016x}" != expected:
            raise DamagedCheckpointError(
                f"{source.folder}: the stored values of {name} have the sum {found % 2**64:016x}, and the trained weights had "
                f"{expected} ({TENSORS}): other values were stored than were trained"
            )


def _described(source: Source) -> AveragedSource:
    data: dict[str, Any] | None = json.loads(read_small_file(source.folder / DATA)) if DATA in source.paths else None
    return AveragedSource(
        checkpoint=str(source.folder),
        manifest_sha256=source.manifest_sha256,
        step=source.state.step,
        consumed_samples=source.state.consumed_samples,
        consumed_tokens=source.state.consumed_tokens,
        data=data,
    )


def _check_target(final: Path, needed_bytes: int) -> None:
    harm = harm_of(final)
    if harm is not None:
        raise AverageTargetError(f"--to ({final}) {harm}")
    if os.path.lexists(final) and (final.is_symlink() or not final.is_dir() or any(final.iterdir())):
        raise AverageTargetError(
            f"--to ({final}) must not exist, or be an empty folder; {final}-2 works, or remove what is there"
        )
    lack = shortage(
        nearest_folder(final.absolute().parent),
        "the average",
        needed_bytes=needed_bytes,
        instead="write it to another disk",
    )
    if lack is not None:
        raise AverageTargetError(lack)


def _part_of(final: Path) -> contextlib.AbstractContextManager[Path]:
    """Create the empty folder FOLDER.part, locked by this process; remove it unless the block has renamed it."""
    return part_folder(
        final,
        name=f"--to ({final})",
        act="average",
        error=AverageTargetError,
        is_ours=lambda path: path.name in OUR_NAMES,
    )
