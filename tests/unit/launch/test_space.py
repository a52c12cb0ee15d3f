"""How many checkpoints a run has at one time, and what is said if they have no room."""

import re
import subprocess
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanal.free_space import Free, free_at, nearest_folder
from fanal.run_progress import whole_steps
from launch.preflight.space import check_space, check_write, quota
from launch.sites.schema import FileSystemConfig
from launch.sites.site import load_site
from pretrain.config.load import load_run
from pretrain.config.schema import CheckpointConfig, RunConfig, TrainConfig
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.plan.retention import most_at_once
from tests.runs.disks import small_disk

ROOT = Path(__file__).parents[3]


def run_of(train_steps: int, **checkpoint: int | None) -> RunConfig:
    run = load_run(ROOT / "configs" / "tiny.yaml")
    kept = replace(run.checkpoint, **{"interval": None, "keep_last": None, "keep_every_steps": None, **checkpoint})
    return replace(run, train=replace(run.train, train_steps=train_steps), checkpoint=kept)


@pytest.mark.parametrize(
    ("run", "there", "most"),
    [
        (run_of(100), [], 1),
        (run_of(100, interval=10), [], 10),
        (run_of(105, interval=10), [], 11),
        (run_of(100, interval=10, keep_last=2), [], 3),
        (run_of(20, interval=10, keep_last=2), [], 2),
        (run_of(100, interval=10, keep_last=2, keep_every_steps=50), [], 4),  # 50, 80, 90 and 100
        (run_of(100, interval=10), [10, 20], 10),
        (run_of(100, interval=10, keep_last=2), [80, 90], 3),
        (run_of(100, interval=10, keep_last=2), [90, 100], 2),
        (run_of(100, interval=10), [7, 10], 11),  # 7: it was told to stop
    ],
)
def test_checkpoints_at_one_time(run: RunConfig, there: list[int], most: int) -> None:
    assert most_at_once(run, there) == most


def space(
    run: RunConfig, room: float, *, files: int | None = None, there: tuple[int, ...] = (), in_job: bool = False
) -> str:
    free = Free(int(room * checkpoint_bytes(run.model, num_states=3)), files)
    return check_space(run, num_ranks=4, free=free, there=there, run_dir=Path("/work/x"), in_job=in_job)


def test_what_fits_is_said_with_what_is_free() -> None:
    said = space(run_of(100, interval=10), 10.5)
    assert re.fullmatch(
        r"10 more checkpoints of [\d.]+ [MG]B and 12 files each, .* and 120 files in all; .* uncounted files are free",
        said,
    )


def test_too_little_room_names_the_sizes_and_a_keep_last_that_fits() -> None:
    with pytest.raises(
        ValueError, match=r"run_dir \(/work/x\) must have room for 10 more checkpoints of .* and 12 files each"
    ) as caught:
        space(run_of(100, interval=10), 5.5)
    assert "(checkpoint.interval=10, keep_last=null, keep_every_steps=null)" in str(caught.value)
    assert str(caught.value).endswith("checkpoint.keep_last=4 fits")
    space(run_of(100, interval=10, keep_last=4), 5.5)
    with pytest.raises(ValueError, match="fits"):
        space(run_of(100, interval=10, keep_last=5), 5.5)


def test_too_few_inodes_are_too_little_room() -> None:
    with pytest.raises(ValueError, match=r"and 35 files are free; checkpoint.keep_last=1 fits"):
        space(run_of(100, interval=10), 1000, files=35)


def test_where_what_is_kept_for_ever_takes_the_room_that_is_said() -> None:
    run = run_of(100, interval=10, keep_last=2, keep_every_steps=20)
    with pytest.raises(ValueError, match=r"checkpoint.keep_last=2 with checkpoint.keep_every_steps=null fits"):
        space(run, 3.5)


def test_where_nothing_fits_that_is_said() -> None:
    with pytest.raises(
        ValueError, match=r"not even checkpoint.keep_last=1 fits; make room, or choose a run_dir elsewhere"
    ):
        space(run_of(100, interval=10), 0.5)


def test_checkpoints_that_are_there_need_no_more_room() -> None:
    assert space(run_of(100, interval=10), 2.5, there=tuple(range(10, 90, 10))).startswith("2 more checkpoints")
    assert space(run_of(100, interval=10), 0, there=tuple(range(10, 110, 10))).startswith("0 more checkpoints")


def test_in_a_job_only_the_next_checkpoint_must_fit() -> None:
    assert space(run_of(100, interval=10), 1.5, in_job=True).startswith(
        "warning: run_dir (/work/x) must have room for 10"
    )
    with pytest.raises(ValueError, match="make room"):
        space(run_of(100, interval=10), 0.5, in_job=True)


def test_a_hundred_thousand_checkpoints_are_counted_in_a_moment() -> None:
    with pytest.raises(ValueError, match=r"checkpoint.keep_last=8 fits"):
        space(run_of(100_000, interval=1), 9.5)


def test_only_whole_checkpoints_count_as_there(tmp_path: Path) -> None:
    for name, whole in (("step-00000010", True), ("step-00000020", False), ("step-00000030.part", True)):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        if whole:
            (tmp_path / "checkpoints" / name / "COMPLETE").touch()
    assert whole_steps(tmp_path) == [10]
    assert whole_steps(tmp_path / "none") == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=8m,nr_inodes=40"):
        yield tmp_path / "disk"


def test_free_space_is_that_of_the_file_system_of_the_run(disk: Path) -> None:
    free = free_at(nearest_folder(disk / "runs" / "mine"))
    assert free.num_bytes == 8 << 20 and free.num_files is not None and free.num_files < 40


def test_a_full_disk_and_a_read_only_one_are_refused_and_nothing_stays(disk: Path) -> None:
    assert check_write(disk / "mine") == f"{disk} can be written to; {disk / 'mine'} will be made"
    assert list(disk.iterdir()) == []
    (disk / "fill").write_bytes(bytes(free_at(disk).num_bytes))
    with pytest.raises(ValueError, match=r"must be a folder that can be made and written to: No space left on device"):
        check_write(disk / "mine")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(ValueError, match=r"Read-only file system .*; run_dir=runs/mine works where"):
        check_write(disk / "mine")


@pytest.mark.parametrize("below", [".", "x", "x/y"])
def test_a_file_in_place_of_the_run_folder_is_refused(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name in ("file", "gone"):
        message = rf"run_dir \({tmp_path}/{name}.*\) must be a folder .*: {tmp_path}/{name} is not a folder; run_dir="
        with pytest.raises(ValueError, match=message):
            check_write(tmp_path / name / below)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "gone"]


def site_with(command: str) -> object:
    return replace(load_site("local"), file_systems=[FileSystemConfig(name="WORK", roots=["/"], quota_command=command)])


def test_a_quota_is_shown_as_its_command_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quota(Path("/w"), site_with("echo 3 of 5 TB")) == "echo 3 of 5 TB says\n3 of 5 TB"
    assert quota(Path("/w"), site_with("no_such_command -u")) == "no_such_command is not on this machine"
    assert quota(Path("/w"), site_with("")) == ""
    monkeypatch.setattr("launch.preflight.space.QUOTA_LIMIT_S", 0.2)
    assert quota(Path("/w"), site_with("sleep 10")) == "sleep 10: no answer in 0.2 s"


def one_by_one(run: RunConfig, there: Sequence[int]) -> int:
    """The most checkpoints at once, as they come and go: the definition."""
    keep, every = run.checkpoint.keep_last, run.checkpoint.keep_every_steps
    after, last, interval = max(there, default=0), run.train.train_steps, run.checkpoint.interval
    steps = [] if interval is None else [*range(after // interval * interval + interval, last, interval)]
    recent, for_ever, most = deque(sorted(there)), 0, len(there)
    for step in [*steps, last] if after < last else steps:
        recent.append(step)
        most = max(most, for_ever + len(recent))
        while keep is not None and len(recent) > keep:
            old = recent.popleft()
            for_ever += every is not None and old % every == 0
    return most


@given(
    steps=st.integers(1, 40),
    interval=st.sampled_from([None, 1, 2, 3, 5, 7]),
    keep=st.sampled_from([None, 1, 2, 3, 6]),
    every=st.sampled_from([None, 1, 2, 3, 4, 10]),
    there=st.sets(st.integers(1, 50), max_size=6),
)
@settings(max_examples=300)
def test_checkpoints_are_counted_as_if_one_by_one(steps, interval, keep, every, there) -> None:
    checkpoint = CheckpointConfig(interval=interval, keep_last=keep, keep_every_steps=every)
    train = TrainConfig(train_steps=steps, global_batch_size=1, micro_batch_size=1)
    run = RunConfig(run_dir="x", train=train, checkpoint=checkpoint)
    assert most_at_once(run, sorted(there)) == one_by_one(run, sorted(there))


@pytest.mark.parametrize("keep", [None, 3, 10**15])
def test_checkpoints_without_end_are_counted_at_once(keep: int | None) -> None:
    checkpoint = CheckpointConfig(interval=1, keep_last=keep, keep_every_steps=1000)
    train = TrainConfig(train_steps=10**18, global_batch_size=1, micro_batch_size=1)
    expected = {None: 10**18, 3: 10**15 - 1 + 4, 10**15: 10**15 + 1 + (10**18 - 10**15 - 1) // 1000}
    assert most_at_once(RunConfig(run_dir="x", train=train, checkpoint=checkpoint), []) == expected[keep]
