"""The commit of the code, read from git's files, against what git says."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fanal.checkout import checkout_commit, is_checkout_modified

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="the checkouts of these tests are made with git")


def git(folder: Path, *words: str) -> str:
    settings = (
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "-c",
        "init.defaultBranch=main",
        "-c",
        "commit.gpgsign=false",
    )
    done = subprocess.run(["git", *settings, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "pretrain").mkdir(parents=True)
    (folder / "docs").mkdir()
    (folder / "pretrain" / "loop.py").write_text("pass\n")
    (folder / "docs" / "page.md").write_text("words\n")
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    return folder


def test_the_commit_is_the_one_git_says_in_each_way_that_git_keeps_it(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert checkout_commit(checkout) == commit
    git(checkout, "pack-refs", "--all")
    assert not (checkout / ".git" / "refs" / "heads" / "main").exists() and checkout_commit(checkout) == commit
    git(checkout, "worktree", "add", "-b", "side/branch", str(checkout.with_name("worktree")))
    assert checkout_commit(checkout.with_name("worktree")) == commit
    (checkout / "pretrain" / "loop.py").write_text("pass  # 2\n")
    git(checkout, "commit", "-am", "second")
    git(checkout, "checkout", "--detach")
    assert checkout_commit(checkout) == git(checkout, "rev-parse", "HEAD") != commit
    assert checkout_commit(checkout.with_name("worktree")) == commit


def test_only_a_change_of_the_code_counts(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook of another checkout
    assert is_checkout_modified(checkout) is False
    (checkout / "docs" / "page.md").write_text("other words\n")
    assert is_checkout_modified(checkout) is False
    (checkout / "pretrain" / "loop.py").write_text("raise\n")
    assert is_checkout_modified(checkout) is True


def test_what_is_installed_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init")
    installed = tmp_path / "site-packages"
    installed.mkdir()
    assert (checkout_commit(installed), is_checkout_modified(installed)) == (None, None)


def test_without_git_the_commit_is_known_and_whether_it_was_changed_is_not(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", "/nowhere")
    assert (checkout_commit(checkout), is_checkout_modified(checkout)) == (commit, None)


@pytest.mark.parametrize("head", ["", "ref: refs/heads/.invalid", "ref: refs/heads/none", "\ud800", "x" * 40])
def test_what_is_not_understood_is_no_commit(head: str, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(head.encode("utf-8", "surrogatepass"))
    assert checkout_commit(tmp_path) is None
    shutil.rmtree(tmp_path / ".git")
    (tmp_path / ".git").write_text("gitdir: /nowhere")
    assert (checkout_commit(tmp_path), is_checkout_modified(tmp_path)) == (None, None)
