import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fanal.errors import PassingError
from tests.runs.disks import UNREADABLE
from tests.unit.tokenizer.manifests import edit_manifest
from tokenizer.__main__ import main
from tokenizer.shards.index import write_index
from tokenizer.shards.manifest import DamagedShardError
from tokenizer.shards.shard import EncodeOptions, ShardError, ShardWriter, open_shard
from tokenizer.verify_shards import verify


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    options = EncodeOptions(append_bos=False, append_eos=False, text_field="text")
    with ShardWriter(tmp_path / "a", vocab_size=70_000, tokenizer_sha256="cd" * 32) as writer:
        for document in ([1, 2, 3], [4, 5], [6], [7, 69_999]):
            writer.add_document(document)
        writer.finish(domain=None, licence=None, source=None, input_files=[], options=options)
    return tmp_path / "a"


def replace(prefix: Path, suffix: str, content: bytes | bytearray, *, with_hash: bool) -> None:
    """Swap a file; with_hash also makes the manifest agree, as a faulty writer would have."""
    Path(f"{prefix}.{suffix}").write_bytes(content)
    if with_hash:
        sha256 = hashlib.sha256(content).hexdigest()
        hashes: dict[str, dict[str, object]] = {"idx": {"idx_sha256": sha256}, "bin": {"bin_block_sha256": [sha256]}}
        edit_manifest(prefix, **hashes[suffix])


def test_one_flipped_bit_inside_is_found_by_deep_alone(prefix: Path) -> None:
    content = bytearray(Path(f"{prefix}.bin").read_bytes())
    content[8] ^= 1
    replace(prefix, "bin", content, with_hash=False)
    assert verify([prefix])[0].problems == ()
    (problem,) = verify([prefix], deep=True)[0].problems
    assert f"{prefix}.bin block 0 (bytes 0 to 31, documents 0 to 3) has sha256" in problem


def test_one_flipped_bit_in_the_index_is_found_by_deep(prefix: Path) -> None:
    content = bytearray(Path(f"{prefix}.idx").read_bytes())
    content[34 + 4] ^= 1
    replace(prefix, "idx", content, with_hash=False)
    assert f"{prefix}.idx has sha256" in str(verify([prefix], deep=True)[0].problems)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (70_000, "holds id 70000 at token 3 (document 1), expected 0 to vocab_size - 1 = 69999"),
        (-2, "holds id -2 at token 3 (document 1)"),
    ],
)
def test_an_id_outside_the_vocabulary_is_found_by_deep_though_the_hash_agrees(
    prefix: Path, token: int, message: str
) -> None:
    tokens = np.fromfile(f"{prefix}.bin", dtype="<i4")
    tokens[3] = token
    replace(prefix, "bin", tokens.tobytes(), with_hash=True)
    assert message in str(verify([prefix], deep=True)[0].problems)


def test_lengths_that_do_not_meet_the_offsets_are_found_by_deep_though_the_hash_agrees(prefix: Path) -> None:
    (prefix.parent / "lengths").write_bytes(np.array([3, 2, 1, 2], "<i4").tobytes())
    write_index(prefix.parent / "idx", prefix.parent / "lengths", "int32")
    content = bytearray((prefix.parent / "idx").read_bytes())
    content[34 + 4 : 34 + 12] = np.array([1, 2], "<i4").tobytes()
    replace(prefix, "idx", content, with_hash=True)
    assert verify([prefix])[0].problems == ()
    assert "holds lengths that do not lead from one byte offset to the next, in 2 documents (1, 2)" in str(
        verify([prefix], deep=True)[0].problems
    )


def test_a_bad_shard_does_not_hide_the_next_one(prefix: Path, tmp_path: Path) -> None:
    missing, good = verify([tmp_path / "none", prefix], deep=True)
    assert "none.json does not exist" in missing.problems[0]
    assert (missing.num_documents, missing.num_tokens) == (None, None)
    assert (good.problems, good.num_documents, good.num_tokens) == ((), 4, 8)


def test_a_shard_that_cannot_be_read_for_now_is_not_called_damaged_nor_sound(
    prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "b.json"
    manifest.symlink_to(UNREADABLE)
    unread, good = verify([tmp_path / "b", prefix])
    assert (unread.cut_short, unread.failed) == (True, False)
    assert unread.problems == (
        f"{tmp_path / 'b'} cannot be read for now, which says nothing about it: {manifest} cannot be read as JSON "
        "([Errno 5] Input/output error); try again, perhaps on another node",
    )
    assert not good.problems
    assert main(["verify", str(tmp_path / "b"), str(prefix)]) == 70
    captured = capsys.readouterr()
    assert "not read" in captured.out and "FAILED" not in captured.out
    assert captured.err == f"error: {unread.problems[0]}\n"
    assert main(["verify", str(tmp_path / "b"), str(tmp_path / "none")]) == 76, "damage is known, whatever is not"


def test_damage_found_before_the_disk_failed_stays_damage(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path) -> tuple[str, ...]:
        raise PassingError(f"{path} cannot be read: {os.strerror(errno.EIO)}")

    monkeypatch.setattr("tokenizer.shards.verify.block_sha256_of_file", fail)  # it is read behind the index
    assert main(["verify", str(prefix), "--deep"]) == 70
    content = bytearray(Path(f"{prefix}.idx").read_bytes())
    content[34 + 4] ^= 1
    replace(prefix, "idx", content, with_hash=False)
    (result,) = verify([prefix], deep=True)
    assert (result.cut_short, result.failed) == (True, True)
    assert "a.idx has sha256" in result.problems[0] and "cannot be read for now" in result.problems[-1]
    assert main(["verify", str(prefix), "--deep"]) == 76


def test_a_file_that_may_not_be_read_is_a_finding(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "b.json").mkdir()
    (result,) = verify([tmp_path / "b"])
    assert (result.cut_short, result.failed) == (False, True)


def labelled(prefix: Path) -> Path:
    options = EncodeOptions(append_bos=False, append_eos=False, text_field="text")
    with ShardWriter(prefix, vocab_size=100, tokenizer_sha256="cd" * 32) as writer:
        writer.add_document([1, 2, 3])
        writer.finish(domain="prose", licence="CC-BY-4.0", source="été", input_files=[], options=options)
    return prefix


def test_every_flipped_bit_of_a_manifest_is_refused_and_one_of_the_licence_is_damage(tmp_path: Path) -> None:
    prefix = labelled(tmp_path / "a")
    path = Path(f"{prefix}.json")
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        assert verify([prefix])[0].failed, f"byte {place}: {content[place - 20 : place + 20]!r}"
    path.write_bytes(content.replace(b"CC-BY-4.0", b"CC-BY-4.1"))
    with pytest.raises(
        DamagedShardError, match=r"a.json has content with sha256 \w+, expected \w+ by its manifest_sha256"
    ):
        open_shard(prefix)
    assert main(["verify", str(prefix)]) == 76


def test_a_manifest_without_a_hash_opens_and_verify_says_that_its_labels_are_not_covered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = labelled(tmp_path / "a")
    assert main(["verify", str(prefix), "--deep"]) == 0
    assert "note" not in capsys.readouterr().err
    path = Path(f"{prefix}.json")
    content = json.loads(path.read_text())
    del content["manifest_sha256"]
    path.write_text(json.dumps(content))
    assert open_shard(prefix).manifest.licence == "CC-BY-4.0"
    assert main(["verify", str(prefix), "--deep"]) == 0
    assert f"note: {prefix}.json has no hash of its own" in capsys.readouterr().err


def test_a_manifest_of_a_later_version_with_more_fields_keeps_its_hash(tmp_path: Path) -> None:
    prefix = labelled(tmp_path / "a")
    edit_manifest(prefix, colour="red")
    with pytest.raises(ShardError, match="unknown key 'colour'"):
        open_shard(prefix)
