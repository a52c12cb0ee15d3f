"""What stands in a file's place is refused as soon as it is opened, and a file is read whole only up to a size."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fanal import links
from fanal.errors import UserError
from fanal.json_lines import read_lines
from fanal.links import mode_of_copies, read_inside
from fanal.plain_files import open_plain, read_named, read_plain
from fanal.run_folder import METRICS_FILE, STATE
from fanal.run_progress import NEW_RUN, metrics, standing_in


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_file_of_a_terabyte(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (a_pipe, "it is a pipe, and must be a file"),
    "device": (a_link_to_zeros, "it is a device, and must be a file"),
    "folder": (Path.mkdir, "Is a directory"),
    "large": (a_file_of_a_terabyte, "it has 1,099,511,627,776 bytes, and may have 67,108,864"),
}


@pytest.mark.parametrize(("make", "words"), KINDS.values(), ids=list(KINDS))
def test_no_name_is_waited_for_or_read_without_end(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    make(path)
    for read in (read_plain, lambda path: read_inside(path.parent, path.name)):
        with pytest.raises(OSError) as found:
            read(path)
        assert found.value.strerror == words and found.value.filename == str(path)


def test_a_file_is_read_whole_and_an_end_that_moved_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)
    assert read_plain(path) == path.read_bytes()
    assert read_plain(path, max_bytes=3_000_000) == path.read_bytes()
    with pytest.raises(OSError, match="3,000,000 bytes, and may have 2,999,999"):
        read_plain(path, max_bytes=2_999_999)


def test_what_a_shell_gives_as_a_file_is_read_to_a_limit() -> None:
    content, gives = os.pipe()
    os.write(gives, b"vocab_size: 2000")
    os.close(gives)
    assert read_named(Path(f"/dev/fd/{content}"), max_bytes=100) == b"vocab_size: 2000"
    os.close(content)
    with pytest.raises(OSError, match="it has more than the 100 bytes"):
        read_named(Path("/dev/zero"), max_bytes=100)


def test_a_link_put_there_meanwhile_is_judged_by_what_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, secret = tmp_path / "model", tmp_path / "secret"
    folder.mkdir()
    secret.write_text("key")
    (folder / "a.json").symlink_to(secret)

    def opens_and_exchanges(path: Path) -> int:
        descriptor = open_plain(path)
        (folder / "a.json").unlink()
        (folder / "a.json").write_text("{}")
        return descriptor

    monkeypatch.setattr(links, "open_plain", opens_and_exchanges)
    with pytest.raises(UserError, match=f"is a link to {secret}"):
        read_inside(folder, "a.json")


def test_a_link_put_in_the_folder_s_own_place_meanwhile_makes_nothing_else_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, private = tmp_path / "model", tmp_path / "private"
    for each in (folder, private):
        each.mkdir()
    (private / "key").write_text("key")
    (folder / "a.json").symlink_to(private / "key")

    def opens_and_exchanges(path: Path) -> int:
        descriptor = open_plain(path)
        folder.rename(tmp_path / "gone")
        folder.symlink_to(private)
        return descriptor

    monkeypatch.setattr(links, "open_plain", opens_and_exchanges)
    with pytest.raises(UserError, match=f"is a link to {private}/key"):
        read_inside(folder, "a.json")


@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "expected"),
    [
        (0o755, 0o644, 0o644), (0o755, 0o600, 0o600), (0o750, 0o644, 0o640), (0o700, 0o666, 0o600), (0o711, 0o640, 0o640),
        (0o555, 0o400, 0o600), (0o777, 0o666, 0o666), (0o771, 0o664, 0o664),
    ],
)  # fmt: skip
def test_copies_are_for_those_who_may_read_the_source(
    folder_mode: int, file_mode: int, expected: int, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, mode in (("a", 0o666), ("b", file_mode)):
        (folder / name).write_text("")
        (folder / name).chmod(mode)
    folder.chmod(folder_mode)
    assert mode_of_copies(folder, ["a", "b"]) == expected
    folder.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("make", [a_pipe, Path.mkdir], ids=["pipe", "folder"])
def test_a_run_folder_of_pipes_is_waited_for_by_nobody(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / METRICS_FILE)
    make(tmp_path / STATE)
    for read in (lambda: list(metrics(tmp_path)), lambda: list(read_lines(tmp_path / METRICS_FILE))):
        with pytest.raises(OSError):
            read()
    assert standing_in(tmp_path) in (None, NEW_RUN)
