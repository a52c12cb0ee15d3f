"""STOP, SAVE and DECAY in a run folder: noticed, acted on once, removed; and never in the way."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fanal.run_folder import DECAY, REQUESTS_SINCE_S, SAVE, STOP
from pretrain.log.run_dir import hold_run_dir
from pretrain.train import request_files
from pretrain.train.request_files import RequestFiles, open_request_files


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_files, "LOOK_EVERY_S", 0.01)


@pytest.fixture(params=[".", "requests"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a colleague leaves a file: in the run folder, or in the one for requests."""
    (tmp_path / request.param).mkdir(exist_ok=True)
    return tmp_path / request.param


@pytest.fixture
def files(tmp_path: Path) -> Iterator[RequestFiles]:
    found = RequestFiles(tmp_path)
    time.sleep(0.1)
    yield found
    found.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.005)


def test_a_file_is_noticed_and_removed_once_it_was_acted_on(files: RequestFiles, place: Path) -> None:
    assert not files.asks(SAVE) and not files.asks(STOP)
    (place / "SAVE").touch()
    wait_until(lambda: files.asks(SAVE))
    assert (place / "SAVE").exists() and not files.asks(STOP)
    files.done(SAVE)
    assert not files.asks(SAVE), "at once, whenever the file goes"
    wait_until(lambda: not (place / "SAVE").exists())
    (place / "SAVE").touch()
    wait_until(lambda: files.asks(SAVE))


def test_a_file_that_is_taken_asks_no_more_and_stays_until_it_is_released(files: RequestFiles, place: Path) -> None:
    (place / "DECAY").touch()
    wait_until(lambda: files.asks(DECAY))
    files.take(DECAY)
    assert not files.asks(DECAY)
    time.sleep(0.1)
    assert (place / "DECAY").exists()
    os.utime(place / "DECAY", (1_700_000_000, 1_700_000_000))
    wait_until(lambda: files.asks(DECAY))  # asked for once more: an answer is due, though the first is not released yet
    files.done(DECAY)
    wait_until(lambda: not (place / "DECAY").exists())
    (place / "DECAY").touch()
    wait_until(lambda: files.asks(DECAY))
    files.take(DECAY)
    files.release(DECAY)
    wait_until(lambda: not (place / "DECAY").exists())
    assert not files.asks(DECAY)


def test_a_decay_that_was_asked_for_before_the_start_counts_and_one_that_nobody_has_taken_waits_for_the_next(
    tmp_path: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "DECAY").touch()
    with open_request_files(tmp_path, rank=0) as files:
        assert files is not None
        wait_until(lambda: files.asks(DECAY))
    assert (place / "DECAY").exists() and not caplog.text
    with open_request_files(tmp_path, rank=0) as files:
        assert files is not None
        wait_until(lambda: files.asks(DECAY))
        files.take(DECAY)
    assert not (place / "DECAY").exists(), "the last checkpoint holds what came of it"


def test_a_file_that_is_taken_away_asks_no_more(files: RequestFiles, place: Path) -> None:
    (place / "STOP").touch()
    wait_until(lambda: files.asks(STOP))
    (place / "STOP").unlink()
    wait_until(lambda: not files.asks(STOP))


def test_files_that_were_there_before_are_removed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "STOP").touch()
    os.utime(tmp_path / "STOP", (1_700_000_000, 1_700_000_000))
    with open_request_files(tmp_path, rank=0) as files:
        assert files is not None
        wait_until(lambda: not (tmp_path / "STOP").exists())
        assert not files.asks(STOP)
    assert f"{tmp_path}/STOP (written 2023-11-1" in caplog.text
    assert "was there before this start, so it was meant for an earlier one: removed without effect" in caplog.text


def test_a_run_that_ends_well_leaves_no_request_behind(tmp_path: Path) -> None:
    with open_request_files(tmp_path, rank=0) as files:
        assert files is not None
        time.sleep(0.1)
        (tmp_path / "STOP").touch()
        wait_until(lambda: files.asks(STOP))
    assert not (tmp_path / "STOP").exists()


def test_a_run_that_crashes_leaves_the_request_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_request_files(tmp_path, rank=0) as files:
        assert files is not None
        time.sleep(0.1)
        (tmp_path / "STOP").touch()
        wait_until(lambda: files.asks(STOP))
        raise RuntimeError("the save failed")
    assert (tmp_path / "STOP").exists()


def test_a_file_that_cannot_be_removed_is_acted_on_once_and_warned_of_once(
    files: RequestFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "SAVE").mkdir()
    wait_until(lambda: files.asks(SAVE))
    files.done(SAVE)
    wait_until(lambda: "or remove it" in caplog.text)
    time.sleep(0.1)
    assert not files.asks(SAVE) and caplog.text.count("or remove it") == 1


def test_a_file_system_that_hangs_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_files, "LAST_LOOK_S", 0.2)
    monkeypatch.setattr(RequestFiles, "_identity", lambda self, name: time.sleep(3600))
    started = time.monotonic()
    with open_request_files(tmp_path, rank=0) as files:
        assert files is not None and not files.asks(STOP)
        files.done(SAVE)
    assert time.monotonic() - started < 30


def test_only_rank_0_looks(tmp_path: Path) -> None:
    (tmp_path / "STOP").touch()
    with open_request_files(tmp_path, rank=1) as files:
        assert files is None
    assert (tmp_path / "STOP").exists()


def test_a_file_from_while_the_job_began_is_meant_for_this_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REQUESTS_SINCE_S, str(int(time.time()) - 60))
    for name, age_s in ((STOP, 30), (SAVE, 90)):
        (tmp_path / name).touch()
        written = time.time() - age_s
        os.utime(tmp_path / name, (written, written))
    files = RequestFiles(tmp_path)
    wait_until(lambda: files.asks(STOP) and not (tmp_path / "SAVE").exists())
    assert not files.asks(SAVE)
    files.close()


def test_a_folder_of_requests_that_is_a_link_asks_for_nothing_and_loses_nothing(tmp_path: Path) -> None:
    run_dir, other = tmp_path / "run", tmp_path / "other"
    for folder in (run_dir, other):
        folder.mkdir()
    for name in (STOP, SAVE):
        (other / name).write_text("precious")
    (run_dir / "requests").symlink_to(other)
    (run_dir / SAVE).touch()
    os.utime(run_dir / SAVE, (1e9, 1e9))  # of before: it goes at the second look, when both places were looked at
    with open_request_files(run_dir, rank=0) as files:
        assert files is not None
        wait_until(lambda: not (run_dir / SAVE).exists())
        assert not files.asks(STOP) and not files.asks(SAVE)
    assert {path.name for path in other.iterdir()} == {STOP, SAVE}


def test_a_request_that_is_a_link_is_removed_and_not_what_it_leads_to(files: RequestFiles, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    (tmp_path / STOP).symlink_to("precious")
    wait_until(lambda: files.asks(STOP))
    files.done(STOP)
    wait_until(lambda: not os.path.lexists(tmp_path / STOP))
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o777])
def test_who_may_write_into_the_run_folder_may_ask(mode: int, tmp_path: Path) -> None:
    tmp_path.chmod(mode)
    with hold_run_dir(tmp_path, rank=0):
        assert (tmp_path / "requests").stat().st_mode & 0o777 == mode
    (tmp_path / "requests").chmod(0o770)
    with hold_run_dir(tmp_path, rank=0):
        pass
    assert (tmp_path / "requests").stat().st_mode & 0o777 == 0o770, "as its owner left it"
