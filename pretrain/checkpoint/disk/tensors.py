"""Reading tensors of a checkpoint: any box of any tensor, whatever layout wrote it (resharding). No torch here."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fanal.run_folder import shard_path
from pretrain.checkpoint.disk.boxes import Box, first_element, intersection
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.checkpoint.disk.shard_file import ShardFile
from pretrain.checkpoint.disk.tensor_index import IndexedTensor, StoredBox, TensorIndex, entry_name, read_index

BLOCK_ELEMENTS = 1 << 22
"""Limit of the elements that are read into a buffer at a time, where rows are wider than what is asked for."""

MAX_OPEN_FILES = 128
"""Limit of a checkpoint's open files, well below what a process may have open: 64 ranks have written more than a thousand."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Elements ``start`` to ``end`` of a box, in row-major order, that lie in a file without a gap, from byte ``place`` on."""

    file: int
    place: int
    start: int
    end: int


class TensorReader:
    """The tensors of one checkpoint. Use ``open_tensors``."""

    def __init__(self, folder: Path, index: TensorIndex, *, max_open_files: int | None = None) -> None:
        self.index = index
        self._folder, self._max_open_files = folder, max_open_files or MAX_OPEN_FILES
        self._files: dict[int, ShardFile] = {}  # the one that was used last is the last

    def read(self, tensor: str, state: str, box: Box, out: np.ndarray) -> None:
        """Fill ``out`` (float32, contiguous, of the box's size) with a box of the whole tensor.

        Raises: DamagedCheckpointError if the checkpoint does not hold all of it.
        """
        found = 0
        target = out.reshape(box.size)
        for entry in self._known(tensor).stored:
            shared = intersection(entry.box, box)
            if shared is not None:
                place = tuple(
                    slice(a - b, a - b + n) for a, b, n in zip(shared.offset, box.offset, shared.size, strict=True)
                )
                self._read_shared(tensor, state, entry, shared, target[place])
                found += shared.num_elements
        if found != box.num_elements:
            raise DamagedCheckpointError(
                f"{self._folder} holds {found:,} of the {box.num_elements:,} elements of {tensor}/{state} from {box.offset} on"
            )

    def spans(self, tensor: str, state: str, box: Box) -> list[Span] | None:
        """Return where a box of the whole tensor lies, if every file holds its part of it without a gap; else None.

        Raises: DamagedCheckpointError if a file does not hold what the index says.
        """
        found = []
        for entry in self._known(tensor).stored:
            shared = intersection(entry.box, box)
            if shared is None:
                continue
            here, there = first_element(shared, box), first_element(shared, entry.box)
            if here is None or there is None:
                return None
            place = self._file(entry.file).place(entry_name(tensor, state, entry.box), entry.box.size, there)
            found.append(Span(file=entry.file, place=place, start=here, end=here + shared.num_elements))
        return found

    def read_all(self, tensor: str, state: str) -> np.ndarray:
        """Read the whole tensor, float32. Raises: as ``read``."""
        shape = self._known(tensor).shape
        out = np.empty(shape, np.float32)
        self.read(tensor, state, Box(offset=(0,) * len(shape), size=shape), out)
        return out

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files = {}

    def _known(self, tensor: str) -> IndexedTensor:
        if tensor not in self.index.tensors:
            raise DamagedCheckpointError(f"{self._folder} has no tensor {tensor}")
        return self.index.tensors[tensor]

    def _read_shared(self, tensor: str, state: str, entry: StoredBox, shared: Box, target: np.ndarray) -> None:
        """Read ``shared``, which lies in the stored box, into ``target``, its place in the caller's array, contiguous or not."""
        file, name = self._file(entry.file), entry_name(tensor, state, entry.box)
        start = first_element(shared, entry.box)
        if start is not None:
            if target.flags.c_contiguous:
                file.read(name, entry.box.size, start, target)
            else:
                rows = np.empty(shared.size, np.float32)
                file.read(name, entry.box.size, start, rows)
                target[...] = rows
            return
        first = shared.offset[0] - entry.box.offset[0]
        columns, column = entry.box.size[1], shared.offset[1] - entry.box.offset[1]
        step = max(1, BLOCK_ELEMENTS // columns)
        for row in range(0, shared.size[0], step):
            rows = np.empty((min(step, shared.size[0] - row), columns), np.float32)
            file.read(name, entry.box.size, (first + row) * columns, rows)
            target[row : row + len(rows)] = rows[:, column : column + shared.size[1]]

    def _file(self, number: int) -> ShardFile:
        file = self._files.pop(number, None)
        if file is None:
            if len(self._files) >= self._max_open_files:
                self._files.pop(next(iter(self._files))).close()
            file = ShardFile(self._folder / shard_path(number))
        self._files[number] = file
        return file


@contextlib.contextmanager
def open_tensors(folder: Path, *, max_open_files: int | None = None) -> Iterator[TensorReader]:
    """Open the tensors of a checkpoint's folder while the block runs.

    Args: max_open_files: at a time; fewer for each of several checkpoints that are read together.
    Raises: DamagedCheckpointError if the index cannot be read.
    """
    reader = TensorReader(folder, read_index(folder), max_open_files=max_open_files)
    try:
        yield reader
    finally:
        reader.close()


def read_whole(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (``NAME/STATE``, the whole tensor) for everything that a checkpoint holds, by name: in the same order in every layout.

    Raises: DamagedCheckpointError if something is missing.
    """
    with open_tensors(folder) as reader:
        for tensor in sorted(reader.index.tensors):
            for state in reader.index.states_of(tensor):
                yield f"{tensor}/{state}", reader.read_all(tensor, state)
