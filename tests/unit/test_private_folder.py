"""Folders at places that everybody knows: made ours alone, or left to whoever made them. With two real users."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fanal.private_folder import private_folder
from pretrain.parallel.caches import use_private_caches

NOBODY = 65534
ROOT = Path(__file__).parents[2]
NODE_SCRIPT = ROOT / "launch" / "chain" / "node.sh"
two_users = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like /tmp: everybody writes to it, and nobody takes what is another's."""
    folder = Path(tempfile.mkdtemp(prefix="fanal-shared-", dir="/tmp"))
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def as_nobody(act: Callable[[], object]) -> None:
    """Do something as another user."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.umask(0)
            act()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def is_ours_alone(folder: Path) -> bool:
    found = folder.lstat()
    return (
        folder.is_dir() and not folder.is_symlink() and found.st_uid == os.geteuid() and found.st_mode & 0o777 == 0o700
    )


def test_a_folder_that_is_not_there_is_made_and_taken_again(shared: Path) -> None:
    for _ in range(2):
        assert private_folder(shared / "cache") == (shared / "cache", "")
        assert is_ours_alone(shared / "cache")
    assert private_folder(shared / "me" / "cache") == (shared / "me" / "cache", "")
    assert is_ours_alone(shared / "me")


def test_a_folder_of_ours_that_others_could_only_read_is_kept_and_closed(shared: Path) -> None:
    (shared / "cache").mkdir()
    (shared / "cache").chmod(0o755)
    (shared / "cache" / "kernel").touch()
    assert private_folder(shared / "cache") == (shared / "cache", "")
    assert is_ours_alone(shared / "cache") and (shared / "cache" / "kernel").exists()


def open_to_all(shared: Path) -> None:
    (shared / "cache").mkdir()
    (shared / "cache").chmod(0o777)


def link(shared: Path) -> None:
    (shared / "mine").mkdir(mode=0o700)
    (shared / "cache").symlink_to(shared / "mine")


def a_file(shared: Path) -> None:
    (shared / "cache").touch()


def a_strangers(shared: Path) -> None:
    as_nobody((shared / "cache").mkdir)


def a_strangers_link(shared: Path) -> None:
    (shared / "mine").mkdir(mode=0o700)
    as_nobody(lambda: (shared / "cache").symlink_to(shared / "mine"))


TAKEN = {
    "open to all": (open_to_all, "its group and everybody may write to it (mode 777)"),
    "a link": (link, "it is no folder"),
    "a file": (a_file, "it is no folder"),
    "a stranger's": (a_strangers, f"it belongs to user {NOBODY}"),
    "a stranger's link to a folder of ours": (a_strangers_link, "it is no folder"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_may_be_a_stranger_s_is_left_alone_and_a_new_folder_is_taken(name: str, shared: Path) -> None:
    make, expected = TAKEN[name]
    if "stranger" in name and os.geteuid() != 0:
        pytest.skip("only root can be two users")
    make(shared)
    folder, why = private_folder(shared / "cache")
    assert why == expected and folder != shared / "cache" and folder.parent == shared
    assert is_ours_alone(folder) and not list(folder.iterdir())


@two_users
def test_a_folder_above_that_a_stranger_owns_or_writes_to_is_not_gone_through(shared: Path) -> None:
    as_nobody((shared / "user").mkdir)
    assert private_folder(shared / "user" / "cache")[1] == f"{shared / 'user'} belongs to user {NOBODY}"
    (shared / "open").mkdir()
    (shared / "open").chmod(0o777)
    why = f"{shared / 'open'}: its group and everybody may write to it (mode 777)"
    assert private_folder(shared / "open" / "cache")[1] == why


@two_users
def test_another_user_does_not_take_what_root_has_made(shared: Path) -> None:
    (shared / "cache").mkdir(mode=0o700)

    def act() -> None:
        folder, why = private_folder(shared / "cache")
        assert why == "it belongs to user 0" and is_ours_alone(folder)

    as_nobody(act)


def test_compilers_write_where_nobody_else_does(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("USER", "me")
    monkeypatch.setenv("LOGNAME", "me")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(shared / "triton-me"))
    (shared / "triton-me").symlink_to("/etc")
    use_private_caches()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(shared / "torchinductor_me")
    assert is_ours_alone(shared / "torchinductor_me")
    taken = Path(os.environ["TRITON_CACHE_DIR"])
    assert is_ours_alone(taken) and taken.name.startswith("triton-me.")
    line = f"warning: TRITON_CACHE_DIR ({shared / 'triton-me'}) is not used, since it is no folder; {taken} is, which is new\n"
    assert capsys.readouterr().err == line


def node(shared: Path, *, user: int | None = None, tools: str = "") -> subprocess.CompletedProcess[str]:
    """Run a node's script, with a program in place of the ranks that imports from where they would and says where that is."""
    script = shared / "node.sh"
    shutil.copy(NODE_SCRIPT, script)
    (shared / "packed" / "code").mkdir(parents=True)
    (shared / "packed" / "code" / "ours.py").write_text("ours\n")
    python = shared / "packed" / "python" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\nmine="${PYTHONPATH%%/code*}"\necho "$mine"\nstat -c "%u %a" "$mine"\ncat "${PYTHONPATH%%:*}"/*.py\n'
    )
    script.chmod(0o755)
    python.chmod(0o755)
    subprocess.run(
        ["tar", "-cf", str(shared / "packed.tar"), "-C", str(shared / "packed"), "code", "python"], check=True
    )
    (shared / "packed.tar").chmod(0o644)
    attempt = Path(tempfile.mkdtemp(dir=shared))
    if user is not None:
        os.chown(attempt, user, user)
    names = {
        "FANAL_NODE_LOCAL": str(shared / "fanal-7"), "FANAL_PACKED": str(shared / "packed.tar"), "FANAL_ATTEMPT": str(attempt),
        "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1", "FANAL_RANKS_PER_NODE": "1", "FANAL_MEET_AT": "localhost:1", "FANAL_CONFIG": "",
        "PYTHON": str(python), "PATH": f"{tools}{os.environ['PATH']}",
    }  # fmt: skip
    return subprocess.run(
        ["bash", str(script)], env=names, cwd=shared, capture_output=True, text=True, timeout=60, user=user, group=user,
        extra_groups=None if user is None else [],
    )  # fmt: skip


def ran_from_a_folder_of(user: int, done: subprocess.CompletedProcess[str], shared: Path) -> bool:
    assert done.returncode == 0, done.stderr
    place, owner, *code = done.stdout.splitlines()
    assert Path(place).parent == shared and not Path(place).exists(), "it is removed at the end"
    return owner == f"{user} 700" and code == ["ours"]


@two_users
def test_a_node_does_not_run_the_code_of_a_stranger_who_made_its_folder_before(shared: Path) -> None:
    def trap() -> None:
        (shared / "fanal-7-0" / "code").mkdir(parents=True)
        (shared / "fanal-7-0" / "code" / "sitecustomize.py").write_text("theirs\n")

    as_nobody(trap)
    assert ran_from_a_folder_of(0, node(shared), shared)
    assert (shared / "fanal-7-0" / "code" / "sitecustomize.py").exists(), "what is another's stays"


@two_users
def test_a_node_writes_through_no_link_that_a_stranger_put_in_place_of_its_folder(shared: Path) -> None:
    (shared / "home" / "code").mkdir(parents=True)
    (shared / "home" / "code" / "ours.py").write_text("the owner's own\n")
    as_nobody(lambda: (shared / "fanal-7-0").symlink_to(shared / "home"))
    assert ran_from_a_folder_of(0, node(shared), shared)
    assert (shared / "home" / "code" / "ours.py").read_text() == "the owner's own\n"


@two_users
def test_a_folder_that_another_user_made_before_stops_no_node(shared: Path) -> None:
    (shared / "fanal-7-0").mkdir(mode=0o700)
    assert ran_from_a_folder_of(NOBODY, node(shared, user=NOBODY), shared)


def test_what_a_killed_start_has_left_is_removed(shared: Path) -> None:
    for name in ("fanal-7-0.left", "fanal-7-1.another-node", "fanal-70-0.another-job"):
        (shared / name).mkdir()
    assert ran_from_a_folder_of(os.geteuid(), node(shared), shared)
    assert sorted(path.name for path in shared.glob("fanal-*")) == ["fanal-7-1.another-node", "fanal-70-0.another-job"]


@two_users
@pytest.mark.parametrize("open_to", ["everybody", "its owner"])
def test_a_node_unpacks_nothing_where_others_may_exchange_it(open_to: str, shared: Path) -> None:
    exchange = f"cd {shared}; mv $name theirs && cp -r theirs $name && echo theirs >$name/code/ours.py"
    tools = shared / "tools"
    tools.mkdir()
    (tools / "tar").write_text(
        f'#!/bin/bash\n/bin/tar "$@"\nchmod -R go+rX "$4"; name=$(basename "$4")\n'
        f'name=$name setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups bash -c "{exchange}"\n'
    )
    (tools / "tar").chmod(0o755)
    shared.chmod(0o777 if open_to == "everybody" else 0o755)
    os.chown(shared, NOBODY if open_to == "its owner" else 0, -1)
    done = node(shared, tools=f"{tools}:")
    assert "theirs" not in done.stdout
    assert done.returncode == 2 and f"error: {shared} must keep its names" in done.stderr, done.stderr
