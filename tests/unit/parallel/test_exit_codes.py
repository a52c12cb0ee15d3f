"""Whose mistake an error is."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fanal.errors import exit_code_of, message_of
from fanal.exit_codes import CRASH, DAMAGED, WRONG_INPUT
from pretrain.config.derive import num_microbatches

ROOT = Path(__file__).parents[3]


def test_a_value_error_of_ours_is_the_user_s_mistake() -> None:
    with pytest.raises(ValueError) as caught:
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


def test_an_error_that_was_never_raised_is_a_crash() -> None:
    assert exit_code_of(ValueError("no traceback")) == CRASH


def test_a_mistake_that_tokenizer_found_for_pretrain_is_the_user_s(tmp_path: Path) -> None:
    from tokenizer.shards.shard import open_shard

    with pytest.raises(ValueError) as caught:
        open_shard(tmp_path / "nothing")
    assert exit_code_of(caught.value) == WRONG_INPUT


def test_a_library_s_error_inside_our_packages_is_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from pretrain.config import load

    (tmp_path / "run.yaml").write_text("{")
    monkeypatch.setattr(load.OmegaConf, "load", lambda _: json.loads("{"))
    with pytest.raises(ValueError) as caught:
        load.load_run(tmp_path / "run.yaml")
    assert exit_code_of(caught.value) == CRASH


def test_damaged_bytes_are_nobody_s_mistake(data_folder: Path, tmp_path: Path) -> None:
    from tokenizer.shards.shard import open_shard

    for suffix in (".bin", ".idx", ".json"):
        (tmp_path / f"cut{suffix}").write_bytes((data_folder / "shards" / f"train-code{suffix}").read_bytes())
    with (tmp_path / "cut.bin").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(ValueError) as caught:
        open_shard(tmp_path / "cut")
    assert exit_code_of(caught.value) == DAMAGED == 76


def test_a_path_that_no_file_system_takes_is_the_user_s(tmp_path: Path) -> None:
    from pretrain.checkpoint.disk.verify import is_checkpoint

    with pytest.raises(OSError, match="File name too long") as caught:
        is_checkpoint(tmp_path / ("n" * 300))
    assert exit_code_of(caught.value) == WRONG_INPUT
    assert exit_code_of(PermissionError("no right to")) == CRASH


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ELOOP])
def test_a_path_that_this_user_may_not_use_is_named_with_what_works(number: int, tmp_path: Path) -> None:
    error = OSError(number, os.strerror(number), str(tmp_path / "mine"))
    assert exit_code_of(error) == WRONG_INPUT
    assert f"'{tmp_path}/mine' must be a path that" in message_of(error) and "works" in message_of(error)


def test_an_error_of_the_disk_is_no_wrong_input(tmp_path: Path) -> None:
    assert exit_code_of(OSError(errno.EIO, "Input/output error", str(tmp_path))) == CRASH


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.EIO, CRASH), (errno.ESTALE, CRASH), (errno.ETIMEDOUT, CRASH), (errno.ENOTDIR, WRONG_INPUT)],
)
def test_our_words_for_an_error_of_the_disk_are_no_wrong_input(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node with a sick mount must not end a chain for ever."""
    from launch.chain.job import here
    from pretrain.config.load import OmegaConf, load_run
    from pretrain.log.run_dir import open_run_dir, tempfile
    from tokenizer.shards.manifest import read_manifest

    def sick(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "run.yaml").touch()
    monkeypatch.setattr(OmegaConf, "load", sick)
    monkeypatch.setattr(Path, "read_text", sick)
    monkeypatch.setattr(Path, "read_bytes", sick)
    monkeypatch.setattr(tempfile, "TemporaryFile", sick)
    for act in (
        lambda: here(tmp_path),
        lambda: load_run(tmp_path / "run.yaml"),
        lambda: read_manifest(tmp_path / "shard"),
        lambda: open_run_dir(tmp_path / "run"),
    ):
        with pytest.raises(ValueError, match=os.strerror(number)) as caught:
            act()
        assert exit_code_of(caught.value) == code, str(caught.value)


FULL_OUTPUT = """
import sys
from pathlib import Path
from pretrain.parallel.environment import let_go_of_output
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
