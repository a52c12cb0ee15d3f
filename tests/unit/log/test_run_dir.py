"""A run folder belongs to one run at a time."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fanal.run_folder import LOCK
from pretrain.log import run_dir
from pretrain.log.run_dir import hold_run_dir, open_run_dir
from tests.runs.disks import no_file_longer_than
from tests.two_users import COLLEAGUE, needs_two_users, share, shared_place


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_dir, "LOCK_WAIT_S", 0.5)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_a_second_run_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    with hold_run_dir(tmp_path, rank=0):
        message = (
            rf"must belong to one run at a time, and process {os.getpid()} on .* holds {tmp_path / LOCK}; stop that run"
        )
        with pytest.raises(ValueError, match=message), hold_run_dir(tmp_path, rank=0):
            pass
    with hold_run_dir(tmp_path, rank=0):
        pass


def test_only_rank_0_holds_the_folder(tmp_path: Path) -> None:
    with hold_run_dir(tmp_path, rank=0), hold_run_dir(tmp_path, rank=1), hold_run_dir(tmp_path, rank=7):
        pass


def test_the_lock_ends_with_a_run_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold_run_dir(tmp_path, rank=0):
        raise ZeroDivisionError
    with hold_run_dir(tmp_path, rank=0):
        pass


def test_a_full_disk_keeps_nobody_from_the_lock(tmp_path: Path) -> None:
    refused = pytest.raises(ValueError, match="another process holds")
    with no_file_longer_than(0), hold_run_dir(tmp_path, rank=0), refused, hold_run_dir(tmp_path, rank=0):
        pass


HOLD = "import sys, time\nfrom pretrain.log.run_dir import hold_run_dir\nwith hold_run_dir(sys.argv[1], rank=0):\n print(flush=True)\n time.sleep(60)"


def test_a_run_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline()
    with pytest.raises(ValueError, match=f"process {holder.pid} on "), hold_run_dir(tmp_path, rank=0):
        pass
    holder.kill()
    with hold_run_dir(tmp_path, rank=0):
        pass
    holder.communicate()


@pytest.mark.parametrize("wait", ["LOCK_WAIT_S", "LOCK_WAIT_IN_A_JOB_S"])
def test_a_run_that_is_just_ending_is_waited_for(wait: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if wait == "LOCK_WAIT_IN_A_JOB_S":
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setattr(run_dir, "LOCK_WAIT_S", 0)
    monkeypatch.setattr(run_dir, wait, 30)
    holder = subprocess.Popen([sys.executable, "-c", HOLD.replace("60", "0.5"), str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline()
    started = time.monotonic()
    with hold_run_dir(tmp_path, rank=0):
        assert time.monotonic() - started > 0.1
    holder.communicate()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of_and_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No such file system is at hand, so its answer is planted."""

    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with hold_run_dir(tmp_path, rank=0):
        assert "the file system has no locks" in caplog.text


def test_another_error_of_the_file_system_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"), hold_run_dir(tmp_path, rank=0):
        pass


@pytest.mark.parametrize("what", ["a link to nowhere", "a file", "a link in a circle"])
def test_what_stands_where_the_checkpoints_belong_is_no_run_without_checkpoints(what: str, tmp_path: Path) -> None:
    own = tmp_path / "run" / "checkpoints"
    own.parent.mkdir()
    if what == "a file":
        own.touch()
    else:
        own.symlink_to("nowhere" if what == "a link to nowhere" else own)
    with pytest.raises(
        ValueError,
        match=r"must have its checkpoints in a folder, and .*/run/checkpoints is .*`rm .*` to start a new run",
    ):
        open_run_dir(tmp_path / "run")


def test_checkpoints_may_lie_elsewhere_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    assert open_run_dir(tmp_path / "run") == tmp_path / "run"


def test_a_file_system_that_changes_no_modes_is_asked_for_none_where_none_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refused)
    with hold_run_dir(tmp_path, rank=0):
        assert (tmp_path / "requests").is_dir()


@needs_two_users
@pytest.mark.parametrize("umask", [0o022, 0o002])
def test_who_may_not_write_to_the_lock_cannot_hold_it(umask: int) -> None:
    before = os.umask(umask)
    try:
        with shared_place() as place:
            run_dir = share(place / "run", 0o2775)
            for is_new in (True, False):
                if not is_new:
                    (run_dir / LOCK).chmod(0o666 & ~umask)  # as it was made before
                with hold_run_dir(run_dir, rank=0):
                    pass
                found = stat.S_IMODE((run_dir / LOCK).stat().st_mode)
                assert found == (0o600 if umask == 0o022 else 0o660)
                stranger = ["setpriv", f"--reuid={COLLEAGUE}", f"--regid={COLLEAGUE}", "--clear-groups"]
                tried = subprocess.run([*stranger, "flock", "-n", str(run_dir / LOCK), "true"], capture_output=True)
                assert b"Permission denied" in tried.stderr
    finally:
        os.umask(before)
