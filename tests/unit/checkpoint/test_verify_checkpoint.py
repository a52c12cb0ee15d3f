"""Every way to damage a real checkpoint is found: sizes and absence by the quick look, bytes by the deep one."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from fanal.console import Console
from fanal.errors import exit_code_of
from fanal.exit_codes import WRONG_INPUT
from fanal.run_folder import COMPLETE, MANIFEST, checkpoints_dir, step_name
from pretrain.checkpoint.disk import verify
from pretrain.checkpoint.disk.manifest import Manifest, seal_text
from pretrain.checkpoint.disk.verify import GoneError, first_whole, is_checkpoint, verify_checkpoint
from pretrain.inspect.verify import verify as verify_path
from tests.dist.harness import make_run, run_and_trace
from tests.runs.cases import TP2
from tests.runs.files import files_below

ROOT = Path(__file__).parents[3]
FILES = [
    "COMPLETE",
    "config.yaml",
    "data.json",
    "manifest.json",
    "shards/rank-00000.safetensors",
    "shards/rank-00001.safetensors",
    "state.json",
    "tensors.json",
]
FLIPS_PER_FILE = 25


@pytest.fixture(scope="session")
def written(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of two ranks after two steps. Not to be changed."""
    folder = tmp_path_factory.mktemp("written")
    trace = run_and_trace(make_run(small_run, folder, *TP2, "train.train_steps=2", "data.validation=[]"))
    assert trace.exit_code == 0, trace.failure
    return checkpoints_dir(folder) / step_name(2)


@pytest.fixture
def checkpoint(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(written, tmp_path / written.name))


def problems(checkpoint: Path, *, deep: bool) -> tuple[str, ...]:
    return verify_checkpoint(checkpoint, deep=deep).problems


def assert_found(checkpoint: Path, path: str, *, deep: bool) -> None:
    """At least one problem, and one that names the file."""
    found = problems(checkpoint, deep=deep)
    assert any(str(checkpoint / path) in problem for problem in found), f"{path}: {found}"


def test_a_checkpoint_as_it_was_written_is_whole(written: Path) -> None:
    assert files_below(written) == FILES
    for deep in (False, True):
        finding = verify_checkpoint(written, deep=deep, num_threads=2)
        assert not finding.problems and finding.manifest is not None
        assert [entry.path for entry in finding.manifest.files] == [p for p in FILES if p not in (COMPLETE, MANIFEST)]
        assert finding.manifest.step == 2


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_the_seal_is_a_line_that_sha256sum_checks(written: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", COMPLETE], cwd=written, check=True, capture_output=True)


def test_every_file_s_hash_is_that_of_its_algorithm(written: Path) -> None:
    for entry in json.loads((written / MANIFEST).read_bytes())["files"]:
        assert entry["hash"] == f"blake3:{blake3((written / entry['path']).read_bytes()).hexdigest()}", entry


@pytest.mark.parametrize("deep", [False, True])
def test_a_changed_file_is_found_by_the_hash_of_either_algorithm(checkpoint: Path, deep: bool) -> None:
    content = json.loads((checkpoint / MANIFEST).read_bytes())
    old = {
        entry["path"]: hashlib.sha256((checkpoint / entry["path"]).read_bytes()).hexdigest()
        for entry in content["files"]
    }
    files = [
        {"path": entry["path"], "bytes": entry["bytes"], "sha256": old[entry["path"]]} for entry in content["files"]
    ]
    (checkpoint / MANIFEST).write_text(json.dumps(content | {"format_version": 1, "files": files}))
    (checkpoint / COMPLETE).write_text(seal_text((checkpoint / MANIFEST).read_bytes()))
    assert not verify_checkpoint(checkpoint, deep=deep).problems
    changed = next(path for path in FILES if path.startswith("shards/")) if deep else "config.yaml"
    damaged = bytearray((checkpoint / changed).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (checkpoint / changed).write_bytes(damaged)
    (problem,) = verify_checkpoint(checkpoint, deep=deep).problems
    found = hashlib.sha256(damaged).hexdigest()
    assert f"{changed} has hash sha256:{found}, expected sha256:{old[changed]}; its bytes changed" in problem


@pytest.mark.parametrize("path", FILES)
def test_a_missing_file_is_found_by_the_quick_look(checkpoint: Path, path: str) -> None:
    (checkpoint / path).unlink()
    assert_found(checkpoint, path, deep=False)


@pytest.mark.parametrize("path", FILES)
def test_another_length_is_found_by_the_quick_look(checkpoint: Path, path: str) -> None:
    content = (checkpoint / path).read_bytes()
    chance = random.Random(path)
    for kept in {0, len(content) - 1, *(chance.randrange(len(content)) for _ in range(5))}:
        (checkpoint / path).write_bytes(content[:kept])
        assert_found(checkpoint, path, deep=False)
    (checkpoint / path).write_bytes(content + b"\0")
    assert_found(checkpoint, path, deep=False)


@pytest.mark.parametrize("path", FILES)
def test_one_flipped_bit_anywhere_is_found_by_the_deep_look(checkpoint: Path, path: str) -> None:
    content = bytearray((checkpoint / path).read_bytes())
    chance = random.Random(path)
    for place in {0, len(content) - 1, *(chance.randrange(len(content)) for _ in range(FLIPS_PER_FILE))}:
        bit = 1 << chance.randrange(8)
        content[place] ^= bit
        (checkpoint / path).write_bytes(content)
        assert_found(checkpoint, path, deep=True)
        content[place] ^= bit
    (checkpoint / path).write_bytes(content)
    assert not problems(checkpoint, deep=True), "the file is as it was"


def test_a_flipped_bit_of_the_weights_is_not_found_by_the_quick_look(checkpoint: Path) -> None:
    """What the deep one is for."""
    path = checkpoint / "shards" / "rank-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not problems(checkpoint, deep=False)


def test_zeros_in_place_of_a_block_are_found(checkpoint: Path) -> None:
    """What a file system leaves that lost a block in a crash."""
    with (checkpoint / "shards" / "rank-00000.safetensors").open("r+b") as stream:
        stream.seek(4096)
        stream.write(bytes(4096))
    assert_found(checkpoint, "shards/rank-00000.safetensors", deep=True)


def test_two_files_that_changed_names_are_found(checkpoint: Path) -> None:
    first, second = (checkpoint / "shards" / f"rank-{rank:05d}.safetensors" for rank in (0, 1))
    first.rename(checkpoint / "third")
    second.rename(first)
    (checkpoint / "third").rename(second)
    assert_found(checkpoint, "shards/rank-00000.safetensors", deep=True)
    assert_found(checkpoint, "shards/rank-00001.safetensors", deep=True)


@pytest.mark.parametrize("path", ["extra", ".hidden", "shards/rank-00002.safetensors", "new/folder/file"])
def test_a_file_too_many_is_found(checkpoint: Path, path: str) -> None:
    (checkpoint / path).parent.mkdir(parents=True, exist_ok=True)
    (checkpoint / path).touch()
    assert_found(checkpoint, path, deep=False)


def test_an_empty_folder_too_many_is_found(checkpoint: Path) -> None:
    (checkpoint / "empty").mkdir()
    assert f"{checkpoint / 'empty'} is a folder that manifest.json does not name" in problems(checkpoint, deep=False)


@pytest.mark.parametrize("path", FILES)
def test_a_link_to_the_very_bytes_is_found_and_not_followed(checkpoint: Path, path: str) -> None:
    moved = checkpoint.parent / "moved"
    (checkpoint / path).rename(moved)
    (checkpoint / path).symlink_to(moved)
    assert_found(checkpoint, path, deep=False)
    assert_found(checkpoint, path, deep=True)


def test_a_folder_that_is_a_link_is_found_and_not_followed(checkpoint: Path) -> None:
    (checkpoint / "shards").rename(checkpoint.parent / "moved")
    (checkpoint / "shards").symlink_to(checkpoint.parent / "moved")
    found = problems(checkpoint, deep=True)
    assert f"{checkpoint / 'shards'} is a link that manifest.json does not name" in found
    assert f"{checkpoint / 'shards/rank-00000.safetensors'} is missing" in found


@pytest.mark.parametrize("path", FILES)
def test_a_pipe_in_a_file_s_place_is_found_without_waiting_for_it(checkpoint: Path, path: str) -> None:
    (checkpoint / path).unlink()
    os.mkfifo(checkpoint / path)
    assert_found(checkpoint, path, deep=True)


def test_a_file_whose_name_is_no_text_is_found(checkpoint: Path) -> None:
    os.close(os.open(os.fsencode(checkpoint) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    (problem,) = problems(checkpoint, deep=False)
    assert problem.endswith("is a file that manifest.json does not name")


def test_a_checkpoint_under_another_step_s_name_is_found(checkpoint: Path) -> None:
    renamed = checkpoint.rename(checkpoint.with_name(step_name(3)))
    assert problems(renamed, deep=False) == (f"{renamed / MANIFEST} is of step 2, and the folder is named for step 3",)
    copy = renamed.rename(checkpoint.with_name("copy of the best one"))
    assert not problems(copy, deep=True), "a name that says no step says nothing wrong"


def test_every_problem_is_named_at_once(checkpoint: Path) -> None:
    (checkpoint / "data.json").unlink()
    (checkpoint / "extra").touch()
    (checkpoint / "shards" / "common.pt").write_bytes(b"")
    assert len(problems(checkpoint, deep=True)) == 3


WATCHED = """
import sys
from pathlib import Path
from pretrain.checkpoint.disk.verify import verify_checkpoint
seen = []
sys.addaudithook(lambda event, arguments: seen.append(event) if event.startswith(("pickle.", "exec", "compile")) else None)
print(len(verify_checkpoint(Path(sys.argv[1]), deep=True).problems), seen, "torch" in sys.modules)
"""


def test_verification_unpickles_nothing_and_needs_no_torch(checkpoint: Path) -> None:
    for path in FILES:
        if path not in (COMPLETE, MANIFEST):
            size = (checkpoint / path).stat().st_size
            (checkpoint / path).write_bytes((b"cbuiltins\nprint\n(Vread\ntR." + bytes(size))[:size])
    result = subprocess.run(
        [sys.executable, "-c", WATCHED, str(checkpoint)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "7 [] False", "6 hashes and a state that is none"


def test_links_in_a_circle_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert not is_checkpoint(tmp_path / "a")


def deleted_when_it_was_parsed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A run drops the checkpoint of this name between the reading of its manifest and that of its files."""
    real = verify.parse_manifest

    def parse(content: bytes, folder: Path) -> Manifest:
        if folder.name == name and folder.is_dir():
            folder.rename(folder.with_name(f"{name}.part"))
        return real(content, folder)

    monkeypatch.setattr(verify, "parse_manifest", parse)


@pytest.mark.parametrize("deep", [False, True])
def test_a_checkpoint_that_its_run_deletes_meanwhile_is_not_called_damaged(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, deep: bool
) -> None:
    deleted_when_it_was_parsed(monkeypatch, checkpoint.name)
    with pytest.raises(GoneError, match=f"{checkpoint} was deleted while it was read") as caught:
        verify_checkpoint(checkpoint, deep=deep)
    assert exit_code_of(caught.value) == WRONG_INPUT
    with pytest.raises(GoneError):  # it was listed before it went
        verify_checkpoint(checkpoint, deep=deep)
    with pytest.raises(GoneError):
        first_whole([checkpoint], deep=deep)


def test_a_run_that_goes_on_is_verified_without_what_it_deletes(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoints_dir(tmp_path)
    for step in (1, 2):
        shutil.copytree(written, folder / step_name(step))
    deleted_when_it_was_parsed(monkeypatch, step_name(1))
    assert verify_path(tmp_path, True, Console(width=200)) == []
    out = capsys.readouterr().out
    assert step_name(2) in out and step_name(1) not in out
    finding, problems = first_whole([folder / step_name(1), folder / step_name(2)], deep=False)
    assert finding.folder.name == step_name(2) and problems == []
    deleted_when_it_was_parsed(monkeypatch, step_name(2))
    with pytest.raises(GoneError, match=step_name(2)):
        verify_path(tmp_path, True, Console(width=200))
