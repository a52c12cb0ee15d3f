"""A disk that fails is not wrong input: whoever starts jobs tries one again and gives up on the other."""

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fanal.errors import MAY_PASS, FanalError, PassingError, UserError, error_type, exit_code_of, may_pass
from fanal.exit_codes import CRASH
from fanal.records import read_record
from tests.runs.disks import UNREADABLE
from tokenizer.__main__ import main
from tokenizer.encoding import block_encoder
from tokenizer.shards.manifest import DamagedShardError
from tokenizer.shards.writer import ShardWriter
from tokenizer.vocabulary.trained import TokenizerInfo


def error_of(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def in_words(cause: BaseException) -> FanalError:
    """As our readers do it."""
    return error_type(cause)(f"bad ({cause})")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENOMEM])
def test_an_error_that_may_pass_is_known_however_often_it_was_put_in_other_words(number: int) -> None:
    assert may_pass(error_of(number))
    for words in (in_words(error_of(number)), in_words(in_words(error_of(number)))):
        assert isinstance(words, PassingError) and exit_code_of(words) == CRASH


@pytest.mark.parametrize(
    "number", [errno.EAGAIN, errno.ENOENT, errno.EACCES, errno.ENOSPC, errno.EISDIR, errno.ENAMETOOLONG]
)
def test_an_error_that_comes_again_is_none_of_them(number: int) -> None:
    assert number not in MAY_PASS
    assert type(in_words(error_of(number))) is UserError
    assert type(in_words(ValueError("a.jsonl:3: not a line of JSON"))) is UserError


def test_want_of_memory_may_pass_though_a_library_calls_it_an_error_of_its_own() -> None:
    assert isinstance(in_words(pyarrow.ArrowMemoryError("malloc of size 64 failed")), PassingError)


def test_a_pickle_keeps_what_is_known_of_an_error() -> None:
    for error in (in_words(error_of(errno.EIO)), in_words(error_of(errno.ENOSPC)), DamagedShardError("cut")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error)


def test_a_record_that_cannot_be_read_names_its_file_within(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.symlink_to(UNREADABLE)
    with pytest.raises(PassingError, match=rf"^{path} cannot be read as JSON .*Input/output error"):
        read_record(TokenizerInfo, path, remedy="")


@pytest.mark.parametrize("broken", ["tokenizer-info.json", "tokenizer.model", "spec.yaml", "input", "x.idx"])
@pytest.mark.parametrize(("replacement", "code"), [(UNREADABLE, 70), ("a folder", 2)], ids=["bad disk", "folder"])
def test_a_file_that_cannot_be_read_is_wrong_input_only_if_it_will_stay_so(
    tmp_path: Path,
    tokenizer_dir: Path,
    capfd: pytest.CaptureFixture[str],
    broken: str,
    replacement: Path | str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What stands for a bad disk here can only be reached by a link.
    monkeypatch.setattr("fanal.links._refuse_outside", lambda *_: None)
    copy = tmp_path / "copy"
    shutil.copytree(tokenizer_dir, copy)
    path = tmp_path / broken if broken in ("input", "x.idx") else copy / broken
    path.unlink(missing_ok=True)
    path.symlink_to(replacement if replacement == UNREADABLE else tmp_path)
    words = ["encode", "--tokenizer", str(copy), "--input", "none.jsonl", "--output", str(tmp_path / "out")]
    if broken == "input":
        words = ["train", str(path), "--input", "none.jsonl", "--output", str(tmp_path / "out")]
    elif broken == "x.idx":
        words = ["adopt", str(tmp_path / "x"), "--tokenizer", str(copy)]
    assert main(words) == code
    err = capfd.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, "one line, no traceback"
    assert str(path) in err


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EIO, 70), (errno.ESTALE, 70), (errno.EACCES, 2)], ids=["EIO", "ESTALE", "EACCES"]
)
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_disk_that_fails_in_the_middle_of_the_input_names_the_file_and_may_be_tried_again(
    tmp_path: Path, tokenizer_dir: Path, failing_input: Callable[[BaseException], None],
    capfd: pytest.CaptureFixture[str], name: str, workers: str, number: int, code: int,
) -> None:  # fmt: skip
    path = tmp_path / name
    texts = [f"the cat {n} sat on the mat" for n in range(200)]
    if name == "a.parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    else:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    failing_input(error_of(number))
    words = ["encode", "--tokenizer", str(tokenizer_dir), "--input", str(path), "--output", str(tmp_path / "shard")]
    assert main([*words, "--workers", workers]) == code
    err = capfd.readouterr().err.splitlines()
    assert err[-1].startswith(f"error: {path}") and os.strerror(number) in err[-1]
    assert not any("Traceback" in line for line in err)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("in_our_words", [False, True])
def test_an_error_in_a_worker_is_the_same_outside(
    tmp_path: Path, tokenizer_dir: Path, write_documents, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], in_our_words: bool,
) -> None:  # fmt: skip
    path = write_documents(tmp_path / "a.jsonl", ["the cat sat on the mat"] * 200)
    here = os.getpid()

    def fail(*_: object) -> None:
        assert os.getpid() != here, "this is a test of workers"
        problem = error_of(errno.EIO)
        problem.filename = str(path)
        raise in_words(problem) if in_our_words else problem

    for module in ("tokenizer.documents.blocks", "tokenizer.encoding.encode"):
        monkeypatch.setattr(f"{module}.BLOCK_BYTES", 1000)  # no more workers than blocks
    monkeypatch.setattr(block_encoder, "parse_block", fail)
    words = ["encode", "--tokenizer", str(tokenizer_dir), "--input", str(path), "--output", str(tmp_path / "shard")]
    assert main([*words, "--workers", "2"]) == 70
    err = capfd.readouterr().err
    assert "Input/output error" in err and str(path) in err
    assert ("Traceback" in err) is not in_our_words, (
        "an error that nobody put in words is a crash, with the worker's traceback"
    )
    assert in_our_words or "in fail" in err


def test_a_description_of_leftovers_that_cannot_be_read_does_not_make_them_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"xx")
    (tmp_path / "a.json.part").symlink_to(UNREADABLE)
    with pytest.raises(PassingError, match=r"a\.json\.part cannot be read"):
        ShardWriter(tmp_path / "a", vocab_size=9, tokenizer_sha256="ab" * 32).__enter__()
    assert (tmp_path / "a.bin").read_bytes() == b"xx"
