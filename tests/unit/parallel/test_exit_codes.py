"""How a process ends that meets an error: by its type alone."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fanal.errors import FanalError, PassingError, UserError, exit_code_of, user_path
from fanal.exit_codes import CRASH, DAMAGED, WRONG_INPUT
from pretrain.config.derive import num_microbatches

ROOT = Path(__file__).parents[3]


def test_a_value_that_breaks_a_rule_is_the_user_s_mistake() -> None:
    with pytest.raises(UserError) as caught:
        num_microbatches(global_batch_size=3, micro_batch_size=2, data_parallel_size=1)
    assert exit_code_of(caught.value) == WRONG_INPUT == 2


def test_a_value_error_from_a_library_is_a_crash() -> None:
    import json

    with pytest.raises(ValueError) as caught:
        json.loads("{")
    assert exit_code_of(caught.value) == CRASH == 70


def test_another_error_of_ours_is_a_crash() -> None:
    import numpy as np

    from pretrain.data.order import ROUNDS, permute

    three = np.array([3], np.uint64)
    with pytest.raises(AssertionError) as caught:
        permute(three, three, np.zeros((ROUNDS, 1), np.uint64))
    assert exit_code_of(caught.value) == CRASH


def test_an_error_is_what_its_type_says_raised_or_not() -> None:
    assert exit_code_of(ValueError("no traceback")) == CRASH
    assert exit_code_of(UserError("no traceback")) == WRONG_INPUT


def test_a_mistake_that_tokenizer_found_for_pretrain_is_the_user_s(tmp_path: Path) -> None:
    from tokenizer.shards.shard import open_shard

    with pytest.raises(UserError) as caught:
        open_shard(tmp_path / "nothing")
    assert exit_code_of(caught.value) == WRONG_INPUT


def test_a_library_s_error_inside_our_packages_is_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from pretrain.config import load

    (tmp_path / "run.yaml").write_text("{")
    monkeypatch.setattr(load, "parse_yaml", lambda *_, **__: json.loads("{"))
    with pytest.raises(ValueError) as caught:
        load.load_run(tmp_path / "run.yaml")
    assert exit_code_of(caught.value) == CRASH


def test_damaged_bytes_are_nobody_s_mistake(data_folder: Path, tmp_path: Path) -> None:
    from tokenizer.shards.shard import open_shard

    for suffix in (".bin", ".idx", ".json"):
        (tmp_path / f"cut{suffix}").write_bytes((data_folder / "shards" / f"train-code{suffix}").read_bytes())
    with (tmp_path / "cut.bin").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(FanalError) as caught:
        open_shard(tmp_path / "cut")
    assert exit_code_of(caught.value) == DAMAGED == 76


def test_a_path_that_no_file_system_takes_is_the_user_s(tmp_path: Path) -> None:
    from pretrain.checkpoint.disk.verify import is_checkpoint

    with pytest.raises(UserError, match="must be a path that the file system may use: File name too long"):
        is_checkpoint(tmp_path / ("n" * 300))


def open_config(path: Path) -> object:
    from pretrain.config.load import load_run

    return load_run(path)


def open_site(path: Path) -> object:
    from launch.sites.site import load_site

    return load_site(str(path))


def open_tokenizer(path: Path) -> object:
    from tokenizer.vocabulary.load import load_tokenizer

    return load_tokenizer(path)


def open_a_shard(path: Path) -> object:
    from tokenizer.shards.index import check_files
    from tokenizer.shards.manifest import ShardManifest

    manifest = object.__new__(ShardManifest)
    for name, value in {"dtype": "uint16", "num_documents": 1, "num_tokens": 1}.items():
        object.__setattr__(manifest, name, value)
    return check_files(path, manifest)


def make_run_dir(path: Path) -> object:
    from pretrain.log.run_dir import open_run_dir

    return open_run_dir(path)


@pytest.mark.parametrize("act", [open_config, open_site, open_tokenizer, open_a_shard, make_run_dir])
def test_a_user_s_path_that_is_not_usable_is_refused_where_it_is_judged(
    act: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"File name too long"):
        act(tmp_path / ("n" * 300 + ".yaml"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ELOOP])
@pytest.mark.parametrize("place", ["mine", "mine/inside", "mine.bin", "."])
def test_a_path_that_this_user_may_not_use_is_named_with_what_works(number: int, place: str, tmp_path: Path) -> None:
    named = str(tmp_path / place)
    with pytest.raises(UserError) as caught, user_path(tmp_path / "other", tmp_path / "mine"):
        raise OSError(number, os.strerror(number), named)
    assert f"'{named}' must be a path that" in str(caught.value) and "works" in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "/dev/shm/torch_1"),  # of a library
        PermissionError(errno.EACCES, "Permission denied"),
        PermissionError("no right to"),
        OSError(errno.EIO, "Input/output error", "/given/mine"),  # of the disk
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable", "/given/mine"),
    ],
)
def test_an_error_of_the_disk_or_of_a_path_that_no_user_gave_is_no_wrong_input(error: OSError) -> None:
    with pytest.raises(OSError) as caught, user_path("/given/mine"):
        raise error
    assert caught.value is error and exit_code_of(error) == CRASH


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EIO, PassingError),
        (errno.ESTALE, PassingError),
        (errno.ETIMEDOUT, PassingError),
        (errno.ENOTDIR, UserError),
    ],
)
def test_our_words_for_an_error_of_the_disk_are_no_wrong_input(
    number: int, kind: type[FanalError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node with a sick mount must not end a chain for ever."""
    from launch.chain.job import here
    from pretrain.config.load import load_run
    from pretrain.log.run_dir import open_run_dir, tempfile
    from tokenizer.shards.manifest import read_manifest

    def sick(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "run.yaml").touch()
    monkeypatch.setattr(Path, "read_text", sick)
    monkeypatch.setattr(Path, "read_bytes", sick)
    monkeypatch.setattr("fanal.records.read_plain", sick)
    monkeypatch.setattr(tempfile, "TemporaryFile", sick)
    for act in (
        lambda: here(tmp_path),
        lambda: load_run(tmp_path / "run.yaml"),
        lambda: read_manifest(tmp_path / "shard"),
        lambda: open_run_dir(tmp_path / "run"),
    ):
        with pytest.raises(FanalError, match=os.strerror(number)) as caught:
            act()
        assert isinstance(caught.value, kind), str(caught.value)
        assert exit_code_of(caught.value) == (CRASH if kind is PassingError else WRONG_INPUT)


FULL_OUTPUT = """
import sys
from pathlib import Path
from fanal.output import let_go_of_output
if sys.argv[1] == "local":
    from pretrain.parallel.local import run_local_ranks
    from tests.unit.parallel.test_exit_codes import stops
    code, failure = run_local_ranks(stops, preload=[], num_ranks=1, device_type="cpu", log_dir=Path(sys.argv[2]))
else:
    print("a word")
    code = 75
let_go_of_output()
sys.exit(code)
"""


def stops() -> int:
    """A rank's work."""
    print("stopped on request")
    return 75


@pytest.mark.parametrize("who", ["local", "alone"])
def test_an_output_that_takes_nothing_changes_no_exit_code(who: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-c", FULL_OUTPUT, who, str(tmp_path)], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**environment, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert result.returncode == 75, result.stderr
