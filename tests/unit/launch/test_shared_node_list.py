"""A list of nodes that a group shares: each user of it writes it, and takes back what is theirs alone."""

import json
import os
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from launch.chain import avoid
from launch.chain.node_list import Entry, edit_list, read_list
from tests.unit.launch.test_avoid import Slurm

ANNA, BELA, GROUP = 61001, 61002, 61003
root_alone = pytest.mark.skipif(os.geteuid() != 0, reason="another user is played by root alone")


@pytest.fixture
def umask() -> Iterator[None]:
    """That of a job (``close_new_files``) of a careful user."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def path(umask: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A list in a folder that everybody may enter: those of pytest are closed."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("FANAL_NODES_FILE", f"{folder}/nodes.txt")
        Path(folder).chmod(0o755)
        yield Path(folder) / "nodes.txt"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def as_user(user: int, act: Callable[[], object]) -> int:
    """Do something as another user of the group, in a process of its own; returns 0 if nothing was raised."""
    datetime.strptime("2026", "%Y")  # imports what the other user may not be able to read
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([GROUP])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("folder", "opened"), [(0o755, 0o600), (0o775, 0o660), (0o777, 0o666)])
def test_a_list_and_its_lock_are_as_open_as_their_folder(folder: int, opened: int, path: Path) -> None:
    path.parent.chmod(folder)
    edit_list(path, add=[Entry(node="n1")])
    avoid.allow(path, ["n2"])
    made = [path, path.with_name(".nodes.txt.lock"), path.with_name("nodes.txt.allowed.json")]
    assert [mode_of(file) for file in made] == [opened] * 3


@root_alone
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o2775], ids=["everybody", "a group", "a group, setgid"])
def test_two_users_write_one_list(mode: int, path: Path) -> None:
    os.chown(path.parent, -1, GROUP)
    path.parent.chmod(mode)
    for user in (ANNA, BELA, ANNA):
        assert as_user(user, lambda user=user: edit_list(path, add=[Entry(node=f"n{user}")])) == 0
        assert as_user(user, lambda: avoid.allow(path, ["n1"])) == 0
    assert {entry.node for entry in read_list(path)[0]} == {f"n{ANNA}", f"n{BELA}"}
    path.parent.chmod(0o755)
    assert as_user(BELA, lambda: edit_list(path, add=[Entry(node="n3")])) == 1, "who may not write in the folder"


def test_each_user_takes_back_what_is_theirs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Slurm(tmp_path, monkeypatch, {"8": 1, "9": 1})
    path.parent.chmod(0o777)
    path.write_text("n1\n")

    def apply(user: int, job: str) -> None:
        cluster.jobs = {job: 1}  # squeue --me
        with monkeypatch.context() as patch:
            patch.setattr("launch.chain.avoid.os.geteuid", lambda: user)
            patch.setattr("launch.chain.avoid.why_not_own", lambda path: "")
            avoid.apply_list(path)

    apply(ANNA, "8")
    apply(BELA, "9")
    assert cluster.excluded == {"8": "n1", "9": "n1"}
    path.write_text("")
    apply(BELA, "9")
    apply(ANNA, "8")
    assert cluster.excluded == {"8": "(null)", "9": "(null)"}


def test_what_an_old_version_applied_is_taken_back_and_what_a_user_excludes_then_stays(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Slurm(tmp_path, monkeypatch, {"8": 1})
    cluster.excluded["8"] = "n1,n4"
    old = path.with_name("nodes.txt.applied.json")
    old.write_text(json.dumps({"8": ["n1"]}))
    avoid.apply_list(path)
    assert cluster.excluded == {"8": "n4"}
    cluster.excluded["8"] = "n1"
    avoid.apply_list(path)
    assert cluster.excluded == {"8": "n1"}, "of the user, not of us"
    assert json.loads(old.read_text()) == {"8": ["n1"]}
