"""What the ranks of a layout do for the grid of saves and loads: one world, many checkpoints. A world costs seconds to open."""

import contextlib
import functools
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from fanal import checkpoint_files
from fanal.run_folder import step_name
from pretrain.checkpoint.content import LocalBox, boxes_to_read
from pretrain.checkpoint.disk.manifest import parse_manifest, read_sealed_manifest
from pretrain.checkpoint.disk.tensors import TensorReader
from pretrain.checkpoint.loading import fill
from pretrain.checkpoint.loading.choose import Early, hash_problems
from pretrain.checkpoint.loading.fill import Fill
from pretrain.checkpoint.loading.load import restore_tensors
from pretrain.checkpoint.saving import save
from pretrain.checkpoint.saving.save import Saver, open_saver
from pretrain.config.schema import RunConfig
from pretrain.data.position import DataPosition, StepPosition
from pretrain.model.gpt import build_model
from pretrain.model.placement import Placement, place_parameters
from pretrain.optim.optimizer import build_optimizer
from pretrain.optim.registry import checkpoint_states
from pretrain.optim.states import owned_states, publish_masters, set_num_updates
from pretrain.parallel.world import World, open_world
from pretrain.state import TrainState
from pretrain.train import loop

FRESH_STEP = 100
"""The checkpoint of initial values; that of source number i has step i + 1, and as many updates."""
SMALL_FILE_BYTES = 1 << 14
"""Size from which on these ranks cut their part."""
NOWHERE = DataPosition(
    consumed_samples=0, tokenizer_sha256="", seq_length=0, seed=0, sources=(), phases=(), consumed_hash="",
    last_step=StepPosition(first_sample=0, num_samples=0, hash=""),
)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def numbers(source: int, tensor: str, state: str, shape: tuple[int, ...]) -> np.ndarray:
    """What source number ``source`` holds: other numbers for every tensor and state."""
    key = zlib.crc32(f"{source}/{tensor}/{state}".encode())
    return np.random.default_rng(key).standard_normal(shape, np.float32)


def save_sources(kinds: Sequence[RunConfig], trained: RunConfig, source: int) -> int:
    """One rank: for each kind of model save its initial values, and then numbers of our own; at last train a run."""
    _prepare()
    with open_world(trained.parallel, seed=trained.train.seed) as world:
        for run in kinds:
            Path(run.run_dir).mkdir(parents=True, exist_ok=True)
            model = build_model(run, world)
            optimizer = build_optimizer(run, model)
            with open_saver(run, model, optimizer, world) as saver:
                _save(saver, FRESH_STEP)
                _fill(boxes_to_read(place_parameters(model, world), owned_states(optimizer)), source)
                set_num_updates(optimizer, source + 1)
                publish_masters(optimizer, model)
                _save(saver, source + 1)
        return train_each([trained], world)


def load_all(kinds: Sequence[tuple[RunConfig, Sequence[Path]]], resumed: Sequence[RunConfig]) -> int:
    """One rank: for each kind load every source's checkpoint and save it again at once; at last resume runs."""
    _prepare()
    with open_world(resumed[0].parallel, seed=resumed[0].train.seed) as world:
        for kind, (run, sources) in enumerate(kinds):
            _load_and_save(run, sources, world, kind=kind)
        return train_each(resumed, world)


def load_with_faults(run: RunConfig, source: Path, resumed: RunConfig) -> int:
    """One rank: the same for one source, under each fault of FAULTS in turn, in a folder of the fault's name."""
    _prepare()
    with open_world(run.parallel, seed=run.train.seed) as world:
        for name, fault in FAULTS.items():
            with fault():
                _load_and_save(_in_folder(run, name), [source], world)
                train_each([_in_folder(resumed, name)], world)
    return 0


def load_the_heads_of_the_first_group(run: RunConfig, source: Path) -> int:
    """One rank: load a checkpoint, the key and value heads of every group from the rows of the first, and save it again."""

    def broken(*args: Any) -> list[Placement]:
        found = place_parameters(*args)
        for index, placement in enumerate(found):
            if "linear_qkv" in placement.name:
                query, *shared = placement.pieces
                back = (world.tp_rank // shared[0].num_holders) * (placement.shape[0] // run.model.num_query_groups)
                moved = [replace(one, offset=(one.offset[0] - back, *one.offset[1:])) for one in shared]
                found[index] = replace(placement, pieces=(query, *moved))
        return found

    _prepare()
    with open_world(run.parallel, seed=run.train.seed) as world, patch.object(fill, "place_parameters", broken):
        _load_and_save(run, [source], world)
    return 0


def save_every_copy(run: RunConfig, source: Path) -> int:
    """One rank: load a checkpoint, and save it as if no rank's heads were copies."""

    def broken(*args: Any) -> list[Placement]:
        found = place_parameters(*args)
        return [
            replace(placement, pieces=tuple(replace(one, is_copy=False) for one in placement.pieces))
            if "linear_qkv" in placement.name
            else placement
            for placement in found
        ]

    _prepare()
    with open_world(run.parallel, seed=run.train.seed) as world, patch.object(save, "place_parameters", broken):
        _load_and_save(run, [source], world)
    return 0


def _prepare() -> None:
    """A rank of these small models writes many files, as one of a big model does."""
    torch.set_num_threads(1)
    checkpoint_files.FILE_BYTES = SMALL_FILE_BYTES


def _load_and_save(run: RunConfig, sources: Sequence[Path], world: World, *, kind: int = 0) -> None:
    """Every other checkpoint is read while it is hashed, the others afterwards; of another kind of model the other ones."""
    Path(run.run_dir).mkdir(parents=True, exist_ok=True)
    model = build_model(run, world)
    optimizer = build_optimizer(run, model)
    with open_saver(run, model, optimizer, world) as saver:
        for number, folder in enumerate(sources):
            if (number + kind) % 2:
                restore_tensors(folder, model, optimizer, world, states=checkpoint_states(run.optim))
            else:
                _restore_while_hashing(folder, model, optimizer, world, states=checkpoint_states(run.optim))
            _save(saver, number + 1)


def _restore_while_hashing(
    folder: Path,
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    world: World,
    *,
    states: Sequence[str],
) -> None:
    """As ``load_checkpoint`` does. What it must bring is lost before."""
    for owned in owned_states(optimizer):
        for values in owned.states.values():
            values.fill_(float("nan"))
    fills: list[Fill] = []

    def begin(hashed: Collection[str]) -> Early:
        fills.append(Fill(folder, model, optimizer, world, states=states, hashed=hashed))
        assert fills[0].takes or world.size > 1, "nothing is read with the hashes"
        return Early(takes=fills[0].takes, meanwhile=fills[0].read_rest)

    files = parse_manifest(read_sealed_manifest(folder), folder).files
    assert not hash_problems(folder, files, world, begin=begin)
    set_num_updates(optimizer, fills[0].num_updates)
    publish_masters(optimizer, model)


def _save(saver: Saver, step: int) -> None:
    saver.begin(TrainState(step=step), NOWHERE)
    saver.settle()
    assert saver.newest is not None and saver.newest.name == step_name(step), saver.reports()


def train_each(runs: Sequence[RunConfig], world: World) -> int:
    """Train runs of one layout one after the other in the same world."""
    with patch.object(loop, "open_world", lambda *args, **kwargs: contextlib.nullcontext(world)):
        return max(int(loop.train(run)) for run in runs)


@torch.no_grad()
def _fill(boxes: Sequence[LocalBox], source: int) -> None:
    for local in boxes:
        place = tuple(slice(a, a + n) for a, n in zip(local.box.offset, local.box.size, strict=True))
        for state, values in local.states.items():
            mine = numbers(source, local.tensor, state, local.shape)[place]
            values.copy_(torch.from_numpy(np.ascontiguousarray(mine)).reshape(-1))


def _in_folder(run: RunConfig, name: str) -> RunConfig:
    return replace(run, run_dir=f"{run.run_dir}/{name}")


@contextlib.contextmanager
def two_boxes_swapped() -> Iterator[None]:
    """What belongs to one half of a rank's part is read into the other."""
    sound = fill.boxes_to_read

    def broken(*args: object) -> list[LocalBox]:
        found = sound(*args)  # type: ignore[arg-type]
        places = [i for i, local in enumerate(found) if local.tensor == "decoder.layers.1.mlp.linear_fc1.weight"]
        first, second = places[:2]
        boxes = found[first].box, found[second].box
        assert boxes[0].size == boxes[1].size, boxes
        found[first], found[second] = replace(found[first], box=boxes[1]), replace(found[second], box=boxes[0])
        return found

    with patch.object(fill, "boxes_to_read", broken):
        yield


@contextlib.contextmanager
def moments_of_another_tensor() -> Iterator[None]:
    """The second moments of layer 0 are read from layer 1, of the same shape."""

    def broken(name: str) -> Any:
        sound = getattr(TensorReader, name)

        def act(reader: TensorReader, tensor: str, state: str, *args: object) -> Any:
            if state == "exp_avg_sq":
                tensor = tensor.replace("layers.0.", "layers.1.")
            return sound(reader, tensor, state, *args)

        return patch.object(TensorReader, name, act)

    with broken("read"), broken("spans"):
        yield


@contextlib.contextmanager
def gate_and_up_as_one_block() -> Iterator[None]:
    """The rows of the gate and of the up projection are split among tensor-parallel ranks as if they were one matrix."""

    def broken(*args: object) -> list[Placement]:
        found = place_parameters(*args)  # type: ignore[arg-type]
        for index, placement in enumerate(found):
            if placement.name.endswith("linear_fc1.weight"):
                first, second = placement.pieces
                rows = first.size[0]
                start = args[1].tp_rank * 2 * rows  # type: ignore[attr-defined]
                pieces = (replace(first, offset=(start, 0)), replace(second, offset=(start + rows, 0)))
                found[index] = replace(placement, pieces=pieces)
        return found

    with patch.object(fill, "place_parameters", broken):
        yield


FAULTS = {
    "two-boxes-swapped": two_boxes_swapped,
    "moments-of-another-tensor": moments_of_another_tensor,
    "gate-and-up-as-one-block": gate_and_up_as_one_block,
}
"""Each breaks loading alone: what is saved afterwards is what the optimizer holds."""
