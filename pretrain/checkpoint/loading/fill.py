"""Filling the optimizer's memory with the tensors of a checkpoint, while its files are hashed: each byte is read once.

A rank hashes the files that it fills its memory from where it can, which in the layout that wrote them is all of them. What lies
in files that another rank hashes, or not without a gap, it reads by itself.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from fanal.run_folder import CONFIG, shard_path
from pretrain.checkpoint.content import LocalBox, boxes_to_read
from pretrain.checkpoint.disk.manifest import Buffer, DamagedCheckpointError, Take
from pretrain.checkpoint.disk.shard_file import ITEM_BYTES
from pretrain.checkpoint.disk.tensors import TensorReader, open_tensors
from pretrain.model.placement import place_parameters
from pretrain.optim.states import owned_states
from pretrain.parallel.world import World


class Fill:
    """The filling of the optimizer's memory from one checkpoint. Every rank reads what its optimizer keeps; with the distributed
    optimizer that is each number once over the replicas."""

    def __init__(
        self,
        folder: Path,
        model: Sequence[DistributedDataParallel],
        optimizer: MegatronOptimizer,
        world: World,
        *,
        states: Sequence[str],
        hashed: Collection[str] = (),
    ) -> None:
        """Find where in the files lies what this rank's optimizer keeps.

        Args: states: names of what is read (optim/registry.py); hashed: the files that this rank reads to their end, so that
            ``takes`` may see their bytes.

        Raises: DamagedCheckpointError if the checkpoint does not hold what is asked for.
        """
        self._folder = folder
        self._rest: list[tuple[LocalBox, str]] = []
        memory: dict[str, list[tuple[int, torch.Tensor]]] = {}
        boxes = boxes_to_read(place_parameters(model, world), owned_states(optimizer))
        with open_tensors(folder) as reader:
            self.num_updates = reader.index.num_updates
            """Number of updates that its optimizer had made."""
            _check_shapes(reader, boxes, folder)
            for state in states:  # in the order of the files
                for local in boxes:
                    if state not in local.states:
                        continue
                    spans = reader.spans(local.tensor, state, local.box) if hashed else None
                    if spans is None or any(shard_path(span.file) not in hashed for span in spans):
                        self._rest.append((local, state))
                        continue
                    values = local.states[state].detach().view(torch.uint8)
                    for span in spans:
                        piece = values[span.start * ITEM_BYTES : span.end * ITEM_BYTES]
                        memory.setdefault(shard_path(span.file), []).append((span.place, piece))
        self.takes: dict[str, Take] = {path: _take_into(pieces) for path, pieces in memory.items()}
        """Functions by the path of a file, to be called with its bytes."""

    def read_rest(self) -> None:
        """Read all that ``takes`` does not bring. Raises: as ``__init__``."""
        if self._rest:
            with open_tensors(self._folder) as reader:
                for local, state in self._rest:
                    _read(reader, local, state)


def _check_shapes(reader: TensorReader, boxes: Sequence[LocalBox], folder: Path) -> None:
    for local in boxes:
        stored = reader.index.tensors.get(local.tensor)
        if stored is None or stored.shape != local.shape:
            raise DamagedCheckpointError(
                f"{folder} must hold {local.tensor} of shape {local.shape}, as its {CONFIG} says; found "
                f"{stored.shape if stored else 'no such tensor'}"
            )


def _take_into(pieces: list[tuple[int, torch.Tensor]]) -> Take:
    """Return a function that copies the bytes of a file to their memory.

    Args: pieces: places in a file, and the memory that the bytes from there on belong to."""
    pieces = sorted(pieces, key=lambda piece: piece[0])
    places = [place for place, _ in pieces]

    def take(start: int, block: Buffer) -> None:
        end, content = start + len(block), np.frombuffer(block, np.uint8)
        for place, memory in pieces[max(0, bisect_right(places, start) - 1) :]:
            if place >= end:
                return
            low, high = max(place, start), min(place + len(memory), end)
            if low < high:
                _copy(content[low - start : high - start], memory[low - place : high - place])

    return take


def _copy(content: np.ndarray, memory: torch.Tensor) -> None:
    if memory.device.type == "cpu":
        memory.numpy()[:] = content  # torch's copy would start threads of its own in every thread that hashes
    else:
        memory.copy_(torch.from_numpy(content))


@torch.no_grad()
def _read(reader: TensorReader, local: LocalBox, state: str) -> None:
    values = local.states[state].detach()
    if values.device.type == "cpu":
        reader.read(local.tensor, state, local.box, values.numpy())
    else:
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        reader.read(local.tensor, state, local.box, host.numpy())
        values.copy_(host)
