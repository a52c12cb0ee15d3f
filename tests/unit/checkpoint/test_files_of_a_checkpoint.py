"""How many files a checkpoint has, counted beforehand and on the disk, and which of them rank 0 brings there."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fanal.checkpoint_files import (
    FILE_BYTES,
    MAX_FILES,
    files_of_a_rank,
    inodes,
    inodes_while_written,
    texts_of_a_checkpoint,
)
from fanal.free_space import free_at
from fanal.run_folder import STATE, checkpoints_dir, part_name, shard_path, step_name
from pretrain.checkpoint.disk.retention import Keep
from pretrain.checkpoint.disk.state_file import state_text
from pretrain.checkpoint.saving.write_job import FileJob, Job, LeaderJob, SaveError, write_checkpoint
from pretrain.plan.retention import room_for
from pretrain.state import TrainState
from tests.runs.disks import small_disk

TEXTS = texts_of_a_checkpoint(has_origin=False)
SYNCS_OF_RANK_0 = len(TEXTS) + len(
    ("manifest", "folder of tensors", "folder", "COMPLETE", "folder again", "its new name")
)


def save(run_dir: Path, num_ranks: int, *, step: int = 5, num_files: int = 1) -> None:
    """What the writers of so many ranks do, each in a thread of its own."""

    def job(rank: int) -> Job:
        texts = dict.fromkeys(TEXTS, "{}\n") | {STATE: state_text(TrainState(step=step))}
        leader = LeaderJob(texts=texts, num_bytes=num_ranks * 4096, keep=Keep(last=None, every_steps=None))
        numbers = range(rank, num_ranks * num_files, num_ranks)
        return Job(
            folder=str(checkpoints_dir(run_dir)), step=step, attempt="a", rank=rank, num_ranks=num_ranks,
            files=tuple(FileJob(number=number, header="head", start=0, end=0) for number in numbers),
            leader=leader if rank == 0 else None,
        )  # fmt: skip

    def write(rank: int) -> None:
        write_checkpoint(job(rank), memoryview(b""), lambda stage: None)

    with ThreadPoolExecutor(num_ranks) as threads:
        others = [threads.submit(write, rank) for rank in range(1, num_ranks)]
        try:
            write(0)
        finally:
            for rank, other in enumerate(others, start=1):
                if not other.done():  # it waits for a folder that rank 0 did not make
                    job(rank).entries.mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(("num_ranks", "num_files"), [(1, 1), (3, 1), (16, 1), (16, 4)])
def test_each_rank_syncs_its_own_files_and_rank_0_as_few_however_many_ranks_there_are(
    num_ranks: int, num_files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync = [], os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    save(tmp_path, num_ranks, num_files=num_files)
    folder = checkpoints_dir(tmp_path)
    part = folder / part_name(5)
    tensors = [part / shard_path(number) for number in range(num_ranks * num_files)]
    assert sorted(path for path in synced if path in tensors) == sorted(tensors), "each once, by its writer"
    of_rank_0 = [path for path in synced if path not in tensors]
    assert len(of_rank_0) == SYNCS_OF_RANK_0 == 10
    names = [path.relative_to(folder).as_posix() for path in of_rank_0]
    assert sorted(names[:5]) == sorted(f"{part.name}/{name}" for name in (*TEXTS, "manifest.json"))
    assert names[5:] == [f"{part.name}/shards", part.name, f"{part.name}/COMPLETE", part.name, "."]
    assert max(map(synced.index, tensors)) < synced.index(part), "no rank's file comes after the folder"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=64m,nr_inodes=80"):
        yield tmp_path / "disk"


@pytest.mark.parametrize(("num_ranks", "num_files"), [(1, 1), (1, 4), (2, 3), (9, 1)])
def test_as_many_checkpoints_fit_on_a_disk_as_were_promised(num_ranks: int, num_files: int, disk: Path) -> None:
    checkpoints_dir(disk).mkdir()
    counted = {"num_ranks": num_ranks, "num_files": num_files, "num_texts": len(TEXTS)}
    files = inodes(**counted)
    promised = room_for(free_at(disk), size=1, files=files, notes=inodes_while_written(**counted) - files)
    assert promised >= 3
    for number in range(promised):
        save(disk, num_ranks, num_files=num_files, step=number + 1)
        folder = checkpoints_dir(disk) / step_name(number + 1)
        assert 1 + sum(1 for _ in folder.rglob("*")) == files
    with pytest.raises(SaveError, match=r"files and folders \(inodes\)"):
        save(disk, num_ranks, num_files=num_files, step=promised + 1)


def test_a_rank_writes_one_file_until_its_part_is_large_and_never_more_than_a_few() -> None:
    assert files_of_a_rank(1, 4096) == files_of_a_rank(5 * 10**6, 1) == 1
    assert files_of_a_rank(84 * 10**9, 512) == 1, "a 7B model on 512 ranks"
    assert files_of_a_rank(2 * FILE_BYTES * 8 - 1, 8) == 1 and files_of_a_rank(2 * FILE_BYTES * 8, 8) == 2
    assert files_of_a_rank(10**15, 8) == MAX_FILES == 4
