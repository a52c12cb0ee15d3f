"""Saves fail in every way that a disk, a folder or a process can, and training goes on as if nothing had been."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fanal.run_folder import REASON, checkpoints_dir, part_name, step_name
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.config.schema import RunConfig
from pretrain.parallel.local import run_local_ranks
from tests.dist.disturbances import SHORT_S, Disturbance, disturbed_rank
from tests.dist.harness import Trace, make_run, read_trace, run_and_trace
from tests.runs.cases import TP2
from tests.runs.disks import small_disk

SMALL = (
    *TP2, "data.validation=[]", "data.seq_length=32", "model.num_layers=2", "train.global_batch_size=2", "checkpoint.interval=1",
    "checkpoint.keep_last=2", "checkpoint.max_failed_saves=2", "optim.lr_decay_samples=80",
)  # fmt: skip
TOOK = rf"took more than checkpoint.phase_timeout_s \({SHORT_S:g} s\), so its writer process was ended"
DIED = r"the writer process died \(killed by signal 9\) while "
SOUND = Disturbance(name="")
WRITER = [
    Disturbance(name="an error of rank 0's disk", order=(0, "writing", "fail"), leaves_part=True,
                failure=r"^rank 0: Input/output error after [\d,]+ of [\d,]+ bytes \(.*/step-\d+.part/shards/rank-00000.safetensors\)$"),
    Disturbance(name="an error of rank 1's disk", order=(1, "writing", "fail"), leaves_part=True,
                failure=r"^rank 1: Input/output error after [\d,]+ of [\d,]+ bytes \(.*/shards/rank-00001.safetensors\)$"),
    SOUND,
    Disturbance(name="rank 0's writer is killed", order=(0, "writing", "die"), leaves_part=True, failure=f"rank 0: {DIED}writing"),
    Disturbance(name="rank 1's writer is killed", order=(1, "writing", "die"), leaves_part=True, failure=f"rank 1: {DIED}writing"),
    SOUND,
    Disturbance(name="rank 0's idle writer is killed", act="kill the idle writer of rank 0"),
    Disturbance(name="rank 1's idle writer is killed", act="kill the idle writer of rank 1"),
    Disturbance(name="rank 0's writer is stopped", order=(0, "writing", "stop"), leaves_part=True, failure=f"rank 0: writing {TOOK}"),
    Disturbance(name="rank 1's writer is stopped", order=(1, "writing", "stop"), leaves_part=True, failure=f"rank 1: writing {TOOK}"),
    SOUND,
    Disturbance(name="rank 0 hangs at the start", order=(0, "preparing the folder", "hang"), failure=f"rank 0: preparing the folder {TOOK}"),
    Disturbance(name="rank 1 hangs at the start", order=(1, "preparing the folder", "hang"), leaves_part=True, failure=f"rank 1: preparing the folder {TOOK}"),
    SOUND,
    Disturbance(name="rank 0 hangs for the others", order=(0, "waiting for the other ranks' files", "hang"), leaves_part=True,
                failure=f"rank 0: waiting for the other ranks' files {TOOK}"),
    Disturbance(name="rank 0 hangs at the seal", order=(0, "sealing", "hang"), leaves_part=True, failure=f"rank 0: sealing {TOOK}"),
    SOUND,
    Disturbance(name="rank 0 hangs while it deletes", order=(0, "deleting old checkpoints", "hang"), warning=f"old checkpoints may not have been deleted: deleting old checkpoints {TOOK}"),
    Disturbance(name="rank 0 dies while it deletes", order=(0, "deleting old checkpoints", "die"), warning=f"{DIED}deleting old checkpoints"),
    Disturbance(name="rank 1 dies when all is whole", order=(1, "end", "die once it is whole"),
                warning=r"^(old checkpoints may not have been deleted: another rank failed)?$"),
    Disturbance(name="the last save fails at first", order=(1, "writing", "fail"), failure="Input/output error"),
]  # fmt: skip
"""What writer processes do, by step from 1 on; twice in a row fails at most, and the run allows no more than that."""
FULL = r"rank [01]: No space left on device after [\d,]+ of [\d,]+ bytes \(.*/shards/rank-0000[01].safetensors\)"
DISK = [
    SOUND,
    Disturbance(name="the disk is full", act="fill the disk",
                failure=r"the checkpoint needs [\d,]+ bytes and the disk of .*checkpoints has [\d,]+ left; free [\d,]+ bytes, or keep fewer"),
    SOUND,
    Disturbance(name="no inodes are left", act="use up the inodes",
                failure=r"the checkpoint needs 10 files and folders \(inodes\) and the disk of .*checkpoints has [\d,]+ left; delete \d+ files"),
    SOUND,
    Disturbance(name="the folder is read-only", act="make it read-only", failure=r"Read-only file system \(.*step-00000006.part"),
    SOUND,
    Disturbance(name="the disk fills up while rank 1 writes", order=(1, "writing", "fill the disk"), failure=FULL),
    SOUND,
]  # fmt: skip
"""What the disk does; its folder is a small file system of its own."""
SHARED_DISK = [SOUND, *DISK[1:3], *DISK[-2:]]
"""The same where logs and metrics lie on it, too."""
ROOM = "size=48m,nr_inodes=120"
FOLDER = [
    SOUND,
    Disturbance(name="the checkpoints are removed", act="remove the checkpoints"),
    Disturbance(name="the run folder is removed", act="remove the run folder", failure=r"rank 0: /\S* no longer exists; create it again, or stop the run"),
    SOUND,
    Disturbance(name="the part is removed while rank 0 writes", order=(0, "writing", "remove the part"), failure="No such file or directory"),
    SOUND,
]  # fmt: skip
"""What happens to folders, in a run whose saves are not asynchronous."""


@dataclass(frozen=True)
class Disturbed:
    """A run that ended."""

    run: RunConfig
    trace: Trace
    disturbances: dict[int, Disturbance]
    reports: dict[int, list[dict[str, Any]]]
    """By step, what was said of its saves."""
    found: dict[int, dict[str, Any]]
    """By step, what was in the folder after its save."""
    notes: dict[int, list[dict[str, Any]]]
    """By rank, before each save."""


def disturb(run: RunConfig, disturbances: dict[int, Disturbance], notes: Path) -> Disturbed:
    notes.mkdir()
    code, failure = run_local_ranks(
        disturbed_rank, run, disturbances, notes,
        preload=["pretrain.train.loop"], num_ranks=2, device_type="cpu", log_dir=notes / "logs",
    )  # fmt: skip
    metrics = Path(run.run_dir) / "metrics.jsonl"
    reports: dict[int, list[dict[str, Any]]] = {}
    for record in read_lines(metrics):
        if record["kind"] == "checkpoint":
            reports.setdefault(record["step"], []).append(record)
    found = {record["before"] - 1: record for record in read_lines(notes / "found.jsonl")}
    by_rank = {rank: read_lines(notes / f"rank-{rank}.jsonl") for rank in (0, 1)}
    return Disturbed(run, read_trace(Path(run.run_dir), code, failure), disturbances, reports, found, by_rank)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def numbered(disturbances: list[Disturbance]) -> dict[int, Disturbance]:
    return dict(enumerate(disturbances, start=1))


def run_for(small_run: Path, folder: Path, disturbances: list[Disturbance], *overrides: str) -> RunConfig:
    return make_run(small_run, folder, *SMALL, f"train.train_steps={len(disturbances)}", *overrides)


@pytest.fixture(scope="module")
def undisturbed(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The longest of the runs, with nothing planted."""
    trace = run_and_trace(run_for(small_run, tmp_path_factory.mktemp("undisturbed"), WRITER))
    assert trace.exit_code == 0, trace.failure
    return trace


@pytest.fixture(scope="module")
def writers(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    folder = tmp_path_factory.mktemp("writers")
    return disturb(run_for(small_run, folder / "run", WRITER), numbered(WRITER), folder / "notes")


@pytest.fixture(scope="module")
def disk(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disturbed]:
    folder = tmp_path_factory.mktemp("disk")
    run = run_for(small_run, folder / "run", DISK)
    with small_disk(checkpoints_dir(run.run_dir), ROOM):
        yield disturb(run, numbered(DISK), folder / "notes")


@pytest.fixture(scope="module")
def shared_disk(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disturbed]:
    folder = tmp_path_factory.mktemp("shared_disk")
    run = run_for(small_run, folder / "run", SHARED_DISK, "log.tensorboard=true")
    with small_disk(Path(run.run_dir), ROOM):
        yield disturb(run, numbered(SHARED_DISK), folder / "notes")


@pytest.fixture(scope="module")
def folders(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    folder = tmp_path_factory.mktemp("folders")
    run = run_for(small_run, folder / "run", FOLDER, "checkpoint.asynchronous=false")
    return disturb(run, numbered(FOLDER), folder / "notes")


def cases(kind: str, disturbances: list[Disturbance]) -> list[Any]:
    return [
        pytest.param(kind, step, id=d.name.replace(" ", "-") or f"sound-{kind}-{step}")
        for step, d in numbered(disturbances).items()
    ]


@pytest.mark.parametrize(
    ("kind", "step"),
    [*cases("writers", WRITER), *cases("disk", DISK), *cases("shared_disk", SHARED_DISK), *cases("folders", FOLDER)],
)
def test_a_save_that_is_disturbed_is_reported_and_costs_nothing_else(
    kind: str, step: int, request: pytest.FixtureRequest
) -> None:
    disturbed: Disturbed = request.getfixturevalue(kind)
    assert disturbed.trace.exit_code == 0, disturbed.trace.failure
    disturbance, is_last = disturbed.disturbances[step], step == len(disturbed.disturbances)
    reports = disturbed.reports[step]
    assert len(reports) == (2 if is_last and disturbance.failure else 1), "each attempt is reported once"
    assert all(Path(report["path"]).name == step_name(step) for report in reports)
    if disturbance.failure is None:
        assert reports[0]["failure"] is None
        assert re.search(disturbance.warning or "^$", reports[0]["warning"] or ""), reports
    else:
        assert re.search(disturbance.failure, reports[0]["failure"]), reports
    if is_last:
        assert reports[-1]["failure"] is None, "the last save is tried until it is whole"
        final = checkpoints_dir(disturbed.run.run_dir) / step_name(step)
        assert not verify_checkpoint(final, deep=True).problems
        return
    found = disturbed.found[step]
    assert not found["problems"], "whatever has the name of a checkpoint is whole"
    assert (step_name(step) in found["names"]) == (disturbance.failure is None)
    assert (part_name(step) in found["names"]) or not disturbance.leaves_part
    assert (f"{part_name(step)}.{REASON}" in found["names"]) or not disturbance.leaves_part
    assert not any(part_name(step - 1) in name for name in found["names"]), "what an earlier save left is gone"


@pytest.mark.parametrize("kind", ["writers", "disk", "shared_disk", "folders"])
def test_training_is_the_same_to_the_last_bit_whatever_saves_do(
    kind: str, request: pytest.FixtureRequest, undisturbed: Trace
) -> None:
    disturbed: Disturbed = request.getfixturevalue(kind)
    steps = range(1, len(disturbed.disturbances) + 1)
    assert disturbed.trace.losses == {step: undisturbed.losses[step] for step in steps}
    assert disturbed.trace.grad_norms == {step: undisturbed.grad_norms[step] for step in steps}


@pytest.mark.parametrize("kind", ["writers", "disk", "shared_disk"])
def test_older_checkpoints_stay_while_newer_ones_fail(kind: str, request: pytest.FixtureRequest) -> None:
    disturbed: Disturbed = request.getfixturevalue(kind)
    succeeded = [step for step, d in disturbed.disturbances.items() if d.failure is None]
    for step, found in disturbed.found.items():
        expected = [step_name(s) for s in succeeded if s <= step][-2:]
        assert set(expected) <= set(found["names"]), f"the last two checkpoints after step {step}"
        extra = {name for name in found["names"] if name in map(step_name, succeeded)} - set(expected)
        assert not extra or disturbed.disturbances[step].warning, "only a deletion that went wrong leaves an old one"


@pytest.mark.parametrize("kind", ["writers", "disk", "shared_disk", "folders"])
def test_no_writer_process_and_no_descriptor_is_left_behind(kind: str, request: pytest.FixtureRequest) -> None:
    disturbed: Disturbed = request.getfixturevalue(kind)
    for notes in disturbed.notes.values():
        counts = [note["descriptors"]["all"] for note in notes]
        assert max(counts[2:]) <= max(counts[:2]), f"more and more are open: {counts}"
        assert len({note["descriptors"]["memory"] for note in notes}) == 1
        wait_until_gone({note["writer"] for note in notes})


def wait_until_gone(processes: set[int]) -> None:
    """A process that was killed takes a moment."""
    deadline = time.monotonic() + 20
    while left := {process for process in processes if is_writer(process)}:
        assert time.monotonic() < deadline, f"writer processes {left} are still there"
        time.sleep(0.05)


def is_writer(process: int) -> bool:
    try:
        return b"writer" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def test_more_failures_in_a_row_than_are_allowed_stop_the_run_with_the_reason(
    small_run: Path, tmp_path: Path, undisturbed: Trace
) -> None:
    plan = [SOUND, *[WRITER[1]] * 3, SOUND, SOUND]
    stopped = disturb(run_for(small_run, tmp_path / "run", plan), numbered(plan), tmp_path / "notes")
    assert stopped.trace.exit_code == 70 and stopped.trace.failure is not None
    message = str(stopped.trace.failure.error)
    assert message.startswith(
        "3 saves in a row have failed, and checkpoint.max_failed_saves (2) allows no more; the last one, of step 4: rank 1: "
    )
    assert "Input/output error after " in message
    assert stopped.trace.losses == {step: undisturbed.losses[step] for step in stopped.trace.losses}
    (left,) = (path for path in checkpoints_dir(stopped.run.run_dir).iterdir() if "part" not in path.name)
    assert left.name == step_name(1) and not verify_checkpoint(left, deep=True).problems
    for notes in stopped.notes.values():
        wait_until_gone({note["writer"] for note in notes})


def test_a_rank_that_is_killed_takes_its_writer_with_it(small_run: Path, tmp_path: Path) -> None:
    """While its writer is at work, and the other rank's waits for it."""
    run = run_for(small_run, tmp_path / "run", [SOUND] * 6)
    plan = {3: Disturbance(name="", order=(1, "writing", "hang")), 4: Disturbance(name="", act="kill rank 1")}
    killed = disturb(run, plan, tmp_path / "notes")
    assert killed.trace.failure is not None and "killed by SIGKILL" in killed.trace.failure.text
    for notes in killed.notes.values():
        wait_until_gone({note["writer"] for note in notes})
    names = {path.name for path in checkpoints_dir(run.run_dir).iterdir()}
    assert {step_name(1), step_name(2)} <= names and step_name(3) not in names
