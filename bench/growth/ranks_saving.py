"""What a checkpoint costs the first rank as there are more ranks. No rank is needed: what the others tell it is text and files."""

import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from bench.growth.case import Act, Growth
from bench.growth.measure import ROUNDS
from fanal.checkpoint_files import texts_of_a_checkpoint
from fanal.run_folder import SHARDS, STATE, TENSORS, checkpoints_dir, shard_path
from fanal.run_progress import whole_steps
from pretrain.checkpoint.content import LocalBox, files_of
from pretrain.checkpoint.disk.boxes import boxes_of_range
from pretrain.checkpoint.disk.manifest import FileEntry, Manifest, describe, entries_to_text, manifest_bytes
from pretrain.checkpoint.disk.retention import Keep, checkpoints_in, drop_old
from pretrain.checkpoint.disk.state_file import state_text
from pretrain.checkpoint.disk.tensor_index import (
    IndexedTensor,
    StoredBox,
    TensorIndex,
    boxes_to_text,
    index_text,
    read_index,
    tensors_from_texts,
)
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.checkpoint.saving import write_job
from pretrain.checkpoint.saving.write_job import FileJob, Job, LeaderJob
from pretrain.state import TrainState

SIZES = (8, 64, 512, 4_096)
SHAPES = {
    f"decoder.layers.{layer}.{name}": shape
    for layer in range(32)
    for name, shape in {
        "self_attention.linear_qkv.weight": (6144, 4096), "self_attention.linear_proj.weight": (4096, 4096),
        "mlp.linear_fc1.weight": (22016, 4096), "mlp.linear_fc2.weight": (4096, 11008), "input_layernorm.weight": (4096,),
    }.items()
}  # fmt: skip
"""The tensors of a model of 7 billion parameters, by their names."""
STATES = ("param", "exp_avg", "exp_avg_sq")


def texts_of_ranks(num_ranks: int) -> list[str]:
    """What each rank tells the first of the boxes that it writes: with the distributed optimizer an equal flat range of all."""
    total, place = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in SHAPES.values()), 0
    boxes: list[list[tuple[str, tuple[int, ...], StoredBox]]] = [[] for _ in range(num_ranks)]
    for name, shape in SHAPES.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        for rank in range(place * num_ranks // total, num_ranks):
            low, high = (min(count, max(0, total * at // num_ranks - place)) for at in (rank, rank + 1))
            if low == high == count:
                break
            parts = [LocalBox(tensor=name, shape=shape, box=box, states={}) for box in boxes_of_range(shape, low, high)]
            (file,) = files_of(parts, num_files=1)
            boxes[rank] += [(name, shape, StoredBox(file=rank, box=local.box)) for local in file]
        place += count
    return [boxes_to_text(found) for found in boxes]


def plan(size: int, folder: Path) -> Act:
    """From what the ranks tell at the start to ``tensors.json`` and ``manifest.json``, and the index read again."""
    texts = texts_of_ranks(size)

    def act() -> object:
        tensors = {
            name: IndexedTensor(name=name, shape=shape, stored=tuple(stored), weights_sum="0" * 16)
            for name, (shape, stored) in tensors_from_texts(texts).items()
        }
        index = TensorIndex(states=STATES, num_updates=1, weights_dtype="bfloat16", tensors=tensors)
        (folder / TENSORS).write_text(index_text(index))
        entries = tuple(
            FileEntry(path=shard_path(rank), bytes=4096, hash=f"blake3:{rank:064x}") for rank in range(size)
        )
        manifest = manifest_bytes(Manifest(step=1, files=entries))
        found = read_index(folder)
        return {
            "boxes": sum(len(tensor.stored) for tensor in found.tensors.values()),
            "index KB": (folder / TENSORS).stat().st_size // 1000,
            "manifest KB": len(manifest) // 1000,
        }

    return act


def seal(size: int, folder: Path) -> Act:
    """The end of a save: the notes of all ranks are read, the folder is sealed and renamed. Counts files, and fsyncs of rank 0."""
    jobs = [_written_by_all(size, folder, step) for step in range(1, ROUNDS + 1)]

    def act() -> object:
        job, synced, sync = jobs.pop(0), [], os.fsync
        assert job.leader is not None

        def counted(descriptor: int) -> None:
            synced.append(descriptor)
            sync(descriptor)

        with patch.object(os, "fsync", counted):
            own = describe(job.part, shard_path(0))
            write_job._seal(job, job.leader, [own, *write_job._gather(job)])
        return {"files": sum(1 for _ in _newest(folder).rglob("*")), "fsyncs": len(synced)}

    return act


def after_a_save(act: Callable[[Path], object]) -> Callable[[int, Path], Act]:
    """Something that is done with a complete checkpoint, each round with one of its own."""

    def prepare(size: int, folder: Path) -> Act:
        for step in range(1, ROUNDS + 2):
            job = _written_by_all(size, folder, step)
            assert job.leader is not None
            write_job._seal(job, job.leader, [describe(job.part, shard_path(0)), *write_job._gather(job)])
        return lambda: act(folder)

    return prepare


def verify(run_dir: Path) -> None:
    assert not verify_checkpoint(_newest(run_dir), deep=False).problems


def delete_the_oldest(run_dir: Path) -> None:
    drop_old(checkpoints_dir(run_dir), Keep(last=len(whole_steps(run_dir)) - 1, every_steps=None))


def _newest(run_dir: Path) -> Path:
    return checkpoints_in(checkpoints_dir(run_dir))[0]


def _written_by_all(num_ranks: int, run_dir: Path, step: int) -> Job:
    """The job of rank 0 for a checkpoint whose files are there, with a note of every other rank."""
    texts = dict.fromkeys(texts_of_a_checkpoint(has_origin=False), "{}\n") | {STATE: state_text(TrainState(step=step))}
    job = Job(
        folder=str(checkpoints_dir(run_dir)), step=step, attempt="a", rank=0, num_ranks=num_ranks,
        files=(FileJob(number=0, header="", start=0, end=0),),
        leader=LeaderJob(texts=texts, num_bytes=4096 * num_ranks, keep=Keep(last=None, every_steps=None)),
    )  # fmt: skip
    (job.part / SHARDS).mkdir(parents=True)
    job.entries.mkdir()
    for name, text in texts.items():
        (job.part / name).write_text(text)
    for rank in range(num_ranks):
        (job.part / shard_path(rank)).write_bytes(bytes(16))
        if rank:
            (job.entries / f"{rank}.json").write_text(entries_to_text([describe(job.part, shard_path(rank))]))
    return job


CASES = (
    Growth(name="plan and index of a checkpoint", grows_with="ranks", sizes=SIZES, prepare=plan),
    Growth(name="seal of a checkpoint by rank 0", grows_with="ranks", sizes=SIZES, prepare=seal),
    Growth(name="quick verification of a checkpoint", grows_with="ranks", sizes=SIZES, prepare=after_a_save(verify)),
    Growth(name="deletion of a checkpoint", grows_with="ranks", sizes=SIZES, prepare=after_a_save(delete_the_oldest)),
)
