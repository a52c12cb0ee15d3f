"""The check that a checkpoint holds the numbers that were trained. No torch here.

A hash says that a file is the one that was written. The sum of a parameter was taken from the weights in the ranks' memory before
anything was copied (replicas.py); this is the same sum, of what lies on the disk.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fanal.run_folder import TENSORS
from pretrain.checkpoint.disk.boxes import Box
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.checkpoint.disk.tensors import BLOCK_ELEMENTS, open_tensors


def sum_problems(folder: Path) -> Iterator[str]:
    """Yield a problem for every parameter whose stored master values, in the precision of the weights, have another sum than
    ``tensors.json`` says. Reads a third of the checkpoint, a block at a time."""
    try:
        with open_tensors(folder) as reader:
            for tensor in reader.index.tensors.values():
                total = 0
                for box in row_boxes(tensor.shape):
                    values = np.empty(box.size, np.float32)
                    reader.read(tensor.name, "param", box, values)
                    total += stored_sum(values, reader.index.weights_dtype)
                found = f"{total % 2**64:016x}"
                if found != tensor.weights_sum:
                    yield (
                        f"{folder}: the stored values of {tensor.name} have the sum {found}, and the trained weights had "
                        f"{tensor.weights_sum} ({TENSORS}): other values were stored than were trained"
                    )
    except DamagedCheckpointError as error:
        yield str(error)


def stored_sum(values: np.ndarray, dtype: str) -> int:
    """Return the sum of float32 values as weights of ``dtype``, as ``weight_sum`` of weight_sums.py does."""
    bits = values.reshape(-1).view(np.uint32)
    if dtype == "bfloat16":
        return int(_bfloat16_bits(bits).view(np.int16).sum(dtype=np.int64)) % 2**64
    return int(bits.view(np.int32).sum(dtype=np.int64)) % 2**64


def _bfloat16_bits(bits: np.ndarray) -> np.ndarray:
    """Round float32 numbers to bfloat16 as torch does, to the nearest, ties to even. NaN has one form."""
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(is_nan, np.uint16(0x7FC0), rounded)


def row_boxes(shape: tuple[int, ...]) -> Iterator[Box]:
    """Yield boxes of whole rows that together are a tensor of this shape, of about BLOCK_ELEMENTS each."""
    rest = shape[1:]
    rows = max(1, BLOCK_ELEMENTS // max(1, *rest, 1))
    for row in range(0, shape[0], rows):
        yield Box(offset=(row, *(0 for _ in rest)), size=(min(rows, shape[0] - row), *rest))
