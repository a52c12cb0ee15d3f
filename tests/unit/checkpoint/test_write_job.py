"""What the writers of several ranks make together in a folder, each in a thread of its own."""

import errno
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from fanal.run_folder import REASON, STATE, checkpoints_dir, part_name, shard_path, step_name
from pretrain.checkpoint.disk import retention
from pretrain.checkpoint.disk.retention import Keep
from pretrain.checkpoint.disk.state_file import state_text
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.checkpoint.saving import write_job
from pretrain.checkpoint.saving.write_job import (
    FileJob,
    Job,
    LeaderJob,
    SaveError,
    job_from_text,
    job_to_text,
    set_part_aside,
    write_checkpoint,
)
from pretrain.state import TrainState

NUM_RANKS = 3
NUMBERS = bytes(range(256)) * 50


def job_of(run_dir: Path, rank: int, *, step: int = 5, attempt: str = "a-1", keep_last: int | None = None) -> Job:
    texts = {STATE: state_text(TrainState(step=step)), "config.yaml": "é: 1\n"}
    leader = LeaderJob(
        texts=texts,
        num_bytes=NUM_RANKS * len(NUMBERS),
        keep=Keep(last=keep_last, every_steps=None),
    )
    return Job(
        folder=str(checkpoints_dir(run_dir)), step=step, attempt=attempt, rank=rank, num_ranks=NUM_RANKS,
        files=(FileJob(number=rank, header=f"head of {rank}\xff", start=0, end=len(NUMBERS)),), leader=leader if rank == 0 else None,
    )  # fmt: skip


def write_all(*jobs: Job) -> list[str | None]:
    """What each says; a thread that fails raises here."""
    with ThreadPoolExecutor(len(jobs)) as threads:
        found = [threads.submit(write_checkpoint, job, memoryview(NUMBERS), lambda stage: None) for job in jobs]
        return [future.result(timeout=60) for future in found]


def jobs_of(run_dir: Path, **changes: object) -> list[Job]:
    return [job_of(run_dir, rank, **changes) for rank in range(NUM_RANKS)]  # type: ignore[arg-type]


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in checkpoints_dir(run_dir).iterdir())


def test_a_job_goes_to_a_writer_and_comes_back_the_same(tmp_path: Path) -> None:
    for job in jobs_of(tmp_path):
        assert job_from_text(job_to_text(job).encode()) == job


def test_three_ranks_make_one_whole_checkpoint(tmp_path: Path) -> None:
    assert write_all(*jobs_of(tmp_path)) == [None] * NUM_RANKS
    assert names(tmp_path) == [step_name(5)]
    checkpoint = checkpoints_dir(tmp_path) / step_name(5)
    finding = verify_checkpoint(checkpoint, deep=True)
    assert not finding.problems and finding.manifest is not None and len(finding.manifest.files) == NUM_RANKS + 2
    assert (checkpoint / shard_path(1)).read_bytes() == b"head of 1\xff" + NUMBERS


def test_a_rank_writes_several_files_each_from_its_place_in_memory(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path)
    parts = [(0, 4096), (4096, 5000), (8192, len(NUMBERS))]
    files = [
        FileJob(number=1 + place * NUM_RANKS, header=f"head {place}", start=start, end=end)
        for place, (start, end) in enumerate(parts)
    ]
    jobs[1] = replace(jobs[1], files=tuple(files))
    write_all(*jobs)
    checkpoint = checkpoints_dir(tmp_path) / step_name(5)
    assert not verify_checkpoint(checkpoint, deep=True).problems
    for file in files:
        expected = file.header.encode() + NUMBERS[file.start : file.end]
        assert (checkpoint / shard_path(file.number)).read_bytes() == expected and file.num_bytes == len(expected)


def test_old_ones_go_once_the_new_one_is_whole(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        write_all(*jobs_of(tmp_path, step=step, keep_last=2))
    assert names(tmp_path) == [step_name(10), step_name(15)]


def test_what_an_earlier_attempt_left_is_removed(tmp_path: Path) -> None:
    left = checkpoints_dir(tmp_path) / part_name(5)
    (left / "shards").mkdir(parents=True)
    (left / "entries-a-0").mkdir()
    (left / shard_path(1)).write_text("half a file")
    set_part_aside(left.parent, 5, "the disk was full")
    assert (left.parent / f"{part_name(5)}.{REASON}").read_text() == "the disk was full\n"
    write_all(*jobs_of(tmp_path))
    assert names(tmp_path) == [step_name(5)]


def test_a_reason_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    set_part_aside(tmp_path, 5, "there is no part")
    assert not list(tmp_path.iterdir())
    (tmp_path / part_name(5)).mkdir()
    (tmp_path / f"{part_name(5)}.{REASON}").mkdir()
    set_part_aside(tmp_path, 5, "its name is taken")


def test_an_attempt_that_was_whole_before_it_failed_is_kept_when_it_is_tried_again(tmp_path: Path) -> None:
    write_all(*jobs_of(tmp_path))
    before = (checkpoints_dir(tmp_path) / step_name(5)).stat().st_ino
    assert write_all(*jobs_of(tmp_path, attempt="a-2")) == [None] * NUM_RANKS
    assert names(tmp_path) == [step_name(5)]
    assert (checkpoints_dir(tmp_path) / step_name(5)).stat().st_ino == before


def test_another_checkpoint_under_the_same_name_is_not_replaced(tmp_path: Path) -> None:
    write_all(*jobs_of(tmp_path))
    other = jobs_of(tmp_path, attempt="a-2")
    other[2] = replace(other[2], files=(replace(other[2].files[0], header="another head"),))
    with pytest.raises(
        SaveError,
        match=r"step-00000005 exists already, is complete, and is not the checkpoint of this run's step 5; move it away",
    ):
        write_all(*other)
    assert not verify_checkpoint(checkpoints_dir(tmp_path) / step_name(5), deep=True).problems


def test_one_that_is_not_whole_is_set_aside_when_the_run_comes_to_its_step_again(tmp_path: Path) -> None:
    write_all(*jobs_of(tmp_path))
    (checkpoints_dir(tmp_path) / step_name(5) / shard_path(1)).unlink()
    write_all(*jobs_of(tmp_path, attempt="a-2"))
    assert names(tmp_path) == [step_name(5), f"{step_name(5)}.bad", f"{step_name(5)}.bad.{REASON}"]
    assert not verify_checkpoint(checkpoints_dir(tmp_path) / step_name(5), deep=True).problems


def test_what_one_rank_could_not_write_the_leader_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = write_job._write_file

    def broken(part: Path, path: str, *args: object) -> object:
        if path == shard_path(1):
            raise OSError(5, "Input/output error after 3 of 9 bytes", str(part / path))
        return sound(part, path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(write_job, "_write_file", broken)
    with ThreadPoolExecutor(NUM_RANKS) as threads:
        found = [
            threads.submit(write_checkpoint, job, memoryview(NUMBERS), lambda stage: None) for job in jobs_of(tmp_path)
        ]
        errors = [future.exception(timeout=60) for future in found]
    assert errors[2] is None and isinstance(errors[0], SaveError) and isinstance(errors[1], SaveError)
    assert str(errors[0]) == f"rank 1: {errors[1]}" and "after 3 of 9 bytes (" in str(errors[1])
    assert names(tmp_path) == [part_name(5)]


def test_a_file_that_changed_its_size_after_it_was_written_is_not_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = write_job._gather

    def broken(job: Job) -> object:
        entries = sound(job)
        (job.part / shard_path(2)).write_bytes(b"")
        return entries

    monkeypatch.setattr(write_job, "_gather", broken)
    with pytest.raises(
        SaveError, match=r"the checkpoint was not written completely: .*rank-00002.safetensors has 0 bytes, expected"
    ):
        write_all(*jobs_of(tmp_path))
    assert names(tmp_path) == [part_name(5)]


def test_the_writers_of_an_older_attempt_are_not_taken_for_those_of_this_one(tmp_path: Path) -> None:
    """Rank 2's writer is of attempt a-1 and comes late: it waits for a folder that is never made, and its file is not used."""
    late, ended = job_of(tmp_path, 2), []

    def write_late() -> None:
        with pytest.raises(SaveError):
            write_checkpoint(late, memoryview(b"old"), lambda stage: None)
        ended.append(True)

    thread = threading.Thread(target=write_late, daemon=True)
    thread.start()
    write_all(*jobs_of(tmp_path, attempt="a-2"))
    assert (checkpoints_dir(tmp_path) / step_name(5) / shard_path(2)).read_bytes().endswith(NUMBERS)
    assert not ended
    late.entries.mkdir(parents=True)  # lets it go
    thread.join(timeout=30)
    assert ended


def test_a_run_folder_that_is_gone_is_named_and_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match=r"run no longer exists; create it again, or stop the run"):
        write_checkpoint(job_of(tmp_path / "run", 0), memoryview(NUMBERS), lambda stage: None)
    assert not (tmp_path / "run").exists()


def test_space_and_inodes_are_counted_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail, f_frsize, f_favail, f_files = 10, 1000, 7, 99

    monkeypatch.setattr("os.statvfs", lambda path: Full)
    complaint = r"the checkpoint needs [\d,]+ bytes and the disk of .* has 10,000 left; free [\d,]+ bytes, or keep fewer with checkpoint.keep_last"
    with pytest.raises(SaveError, match=complaint):
        write_checkpoint(job_of(tmp_path, 0), memoryview(NUMBERS), lambda stage: None)
    Full.f_bavail = 10**9
    with pytest.raises(
        SaveError, match=r"needs 10 files and folders \(inodes\) and the disk of .* has 7 left; delete 3 files"
    ):
        write_checkpoint(job_of(tmp_path, 0), memoryview(NUMBERS), lambda stage: None)
    assert names(tmp_path) == []
    Full.f_files = 0  # a file system that does not count them
    write_all(*jobs_of(tmp_path))


def test_the_stages_are_told_in_their_order(tmp_path: Path) -> None:
    told: list[list[str]] = [[] for _ in range(NUM_RANKS)]
    with ThreadPoolExecutor(NUM_RANKS) as threads:
        list(
            threads.map(
                lambda job: write_checkpoint(job, memoryview(NUMBERS), told[job.rank].append), jobs_of(tmp_path)
            )
        )
    assert told[0] == [
        "preparing the folder", "writing", "waiting for the other ranks' files", "sealing", "deleting old checkpoints",
    ]  # fmt: skip
    assert told[1] == told[2] == ["preparing the folder", "writing"]
    assert json.loads(job_to_text(job_of(tmp_path, 1)))["leader"] is None


def test_leftovers_that_cannot_be_removed_stop_the_save_of_their_own_step_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints_dir(tmp_path)
    (folder / part_name(5) / "shards").mkdir(parents=True)

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with monkeypatch.context() as patch:
        patch.setattr(retention.shutil, "rmtree", busy)
        with pytest.raises(
            SaveError, match=f"{folder / part_name(5)} is in the way and could not be removed; remove it by hand"
        ):
            write_checkpoint(job_of(tmp_path, 0), memoryview(NUMBERS), lambda stage: None)
    (folder / part_name(5)).rename(folder / part_name(4))
    real, kept = shutil.rmtree, folder / part_name(4)
    monkeypatch.setattr(retention.shutil, "rmtree", lambda path: busy(path) if path == kept else real(path))
    assert write_all(*jobs_of(tmp_path)) == [None] * NUM_RANKS
    assert names(tmp_path) == [part_name(4), step_name(5)]
