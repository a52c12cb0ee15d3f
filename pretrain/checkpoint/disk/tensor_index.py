"""``tensors.json``: every tensor of a checkpoint, and which file holds which boxes of it. No torch here.

A tensor of the model is kept as several of its whole shape, all float32: ``param`` (the master values) and what the optimizer
states of itself (optim/registry.py), ``exp_avg`` and ``exp_avg_sq`` for AdamW. Weights of another precision are not stored: they
are the master values, rounded.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import DamageError
from fanal.reason import reason
from fanal.run_folder import TENSORS
from pretrain.checkpoint.disk.boxes import Box, cover_once
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, read_small_file

FORMAT_VERSION = 1
NUM_UPDATES = "adam_step"
"""Name of the number of updates in the file: it is older than the second optimizer."""
WEIGHTS_DTYPES = ("float32", "bfloat16")
_SUM = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class StoredBox:
    """A box of a tensor, and the number of the file that holds it in all of its states (run_folder.py)."""

    file: int
    box: Box


@dataclass(frozen=True, kw_only=True)
class IndexedTensor:
    """One tensor of the whole model."""

    name: str
    shape: tuple[int, ...]
    stored: tuple[StoredBox, ...]
    weights_sum: str
    """Sum of the weights in ``weights_dtype`` (weight_sums.py): 16 hexadecimal digits."""
    states: tuple[str, ...] | None = None
    """Names of its states, in the order of ``TensorIndex.states``; None for all of them."""


@dataclass(frozen=True, kw_only=True)
class TensorIndex:
    """All tensors of a checkpoint."""

    states: tuple[str, ...]
    """Names of the states; only ``param`` where there is no optimizer. They are kept of every tensor that does not name fewer."""
    num_updates: int
    """Number of updates that the optimizer had made; 0 for one that does not count them."""
    weights_dtype: str
    """Precision of the weights that were trained: ``bfloat16`` or ``float32``."""
    tensors: dict[str, IndexedTensor]

    def states_of(self, tensor: str) -> tuple[str, ...]:
        """Return the names of the states of a tensor."""
        own = self.tensors[tensor].states
        return self.states if own is None else own


def entry_name(tensor: str, state: str, box: Box) -> str:
    """Return the name of a box in its file."""
    return f"{tensor}/{state}@{','.join(map(str, box.offset))}"


def boxes_to_text(boxes: Iterable[tuple[str, tuple[int, ...], StoredBox]]) -> str:
    """Return (tensor, its shape, where a box of it is) of one rank as JSON, for rank 0."""
    return json.dumps([[name, shape, entry.file, entry.box.offset, entry.box.size] for name, shape, entry in boxes])


def tensors_from_texts(texts: Sequence[str]) -> dict[str, tuple[tuple[int, ...], list[StoredBox]]]:
    """Return each tensor's shape and where its boxes are, by its name, from the texts of all ranks in their order.

    Raises: AssertionError if the boxes do not hold every element once: then ranks disagree about the layout.
    """
    found: dict[str, tuple[tuple[int, ...], list[StoredBox]]] = {}
    for rank, text in enumerate(texts):
        for name, shape, file, offset, size in json.loads(text):
            known = found.setdefault(name, (tuple(shape), []))
            assert known[0] == tuple(shape), f"{name} has shape {known[0]} on one rank and {shape} on rank {rank}"
            known[1].append(StoredBox(file=file, box=Box(offset=tuple(offset), size=tuple(size))))
    for name, (shape, stored) in found.items():
        boxes = [entry.box for entry in stored]
        assert cover_once(shape, boxes), f"the ranks do not hold every element of {name} {shape} once: {boxes}"
    return found


def index_text(index: TensorIndex) -> str:
    """Return the content of ``tensors.json``."""
    tensors = [
        {
            "name": tensor.name,
            "shape": tensor.shape,
            "weights_sum": tensor.weights_sum,
            **({} if tensor.states is None else {"states": tensor.states}),
            "stored": [[entry.file, entry.box.offset, entry.box.size] for entry in tensor.stored],
        }
        for tensor in index.tensors.values()
    ]
    head = {
        "format_version": FORMAT_VERSION,
        "states": index.states,
        NUM_UPDATES: index.num_updates,
        "weights_dtype": index.weights_dtype,
    }
    lines = ",\n".join(json.dumps(tensor) for tensor in tensors)
    return json.dumps(head)[:-1] + f', "tensors": [\n{lines}\n]}}\n'


def read_index(folder: Path) -> TensorIndex:
    """Read the index of a checkpoint's folder.

    Raises: DamagedCheckpointError if it is missing or is not such an index.
    """
    content = read_small_file(folder / TENSORS)
    try:
        fields = json.loads(content)
        if fields["format_version"] != FORMAT_VERSION:
            raise DamageError(f"format_version ({fields['format_version']}) must be {FORMAT_VERSION}")
        states, dtype = tuple(_text(state) for state in fields["states"]), fields["weights_dtype"]
        if "param" not in states or len(set(states)) != len(states):
            raise DamageError(f"states ({states}) must be different, and param one of them")
        if dtype not in WEIGHTS_DTYPES:
            raise DamageError(f"weights_dtype ({dtype!r}) must be one of {', '.join(WEIGHTS_DTYPES)}")
        tensors: dict[str, IndexedTensor] = {}
        for tensor in map(_parse_tensor, fields["tensors"]):
            if tensor.name in tensors:
                raise DamageError(f"{tensor.name} is listed twice")
            own = tensor.states
            if own is not None and ("param" not in own or own != tuple(state for state in states if state in own)):
                raise DamageError(
                    f"states of {tensor.name} ({own}) must be some of {states}, in that order, and param one of them"
                )
            tensors[tensor.name] = tensor
        return TensorIndex(states=states, num_updates=_count(fields[NUM_UPDATES]), weights_dtype=dtype, tensors=tensors)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedCheckpointError(f"{folder / TENSORS} is not an index of tensors ({reason(error)})") from None


def _parse_tensor(fields: Any) -> IndexedTensor:
    name, weights_sum = _text(fields["name"]), _text(fields["weights_sum"])
    shape = tuple(_count(length) for length in fields["shape"])
    stored = tuple(
        StoredBox(
            file=_count(file),
            box=Box(offset=tuple(_count(place) for place in offset), size=tuple(_count(length) for length in size)),
        )
        for file, offset, size in fields["stored"]
    )
    if len(shape) not in (1, 2) or not cover_once(shape, [entry.box for entry in stored]):
        raise DamageError(f"the boxes of {name} must hold every element of its shape {shape} once")
    if not _SUM.fullmatch(weights_sum):
        raise DamageError(f"weights_sum of {name} ({weights_sum!r}) must have 16 hexadecimal digits")
    own = tuple(_text(state) for state in fields["states"]) if "states" in fields else None
    return IndexedTensor(name=name, shape=shape, stored=stored, weights_sum=weights_sum, states=own)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DamageError(f"{value!r} must be a string")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise DamageError(f"{value!r} must be an integer from 0")
    return value
