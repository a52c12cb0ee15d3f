"""A shard made from many files opens without reading what it says of each, and still knows when that changed."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from fanal.files import InputFile
from fanal.records import has_own_hash, own_hash, write_record
from tokenizer.shards.manifest import DamagedShardError, ShardError, read_manifest, with_own_hash
from tokenizer.shards.shard import open_shard

NUM_FILES = 20_000


@pytest.fixture(scope="module")
def prefix(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of as many files."""
    there, prefix = data_folder / "shards/train-code", tmp_path_factory.mktemp("shards") / "many"
    for suffix in (".bin", ".idx"):
        shutil.copy(f"{there}{suffix}", f"{prefix}{suffix}")
    files = [
        InputFile(path=f"/corpus/{n:06d}.jsonl", bytes=123 + n, first_block=0, block_sha256=("ab" * 32,))
        for n in range(NUM_FILES)
    ]
    bare = replace(read_manifest(there), input_files=tuple(files), manifest_sha256=None)
    write_record(Path(f"{prefix}.json"), with_own_hash(bare))
    return prefix


def test_opening_takes_less_than_four_times_what_python_takes_to_parse_the_manifest(prefix: Path) -> None:
    content = Path(f"{prefix}.json").read_bytes()
    parsing, opening = [], []
    for _ in range(5):
        times = [time.process_time()]
        json.loads(content)
        times.append(time.process_time())
        open_shard(prefix)
        times.append(time.process_time())
        parsing.append(times[1] - times[0])
        opening.append(times[2] - times[1])
    assert min(opening) < 4 * min(parsing)  # 1.3 times; 13 times where each file became a record


def test_what_needs_the_files_reads_them(prefix: Path) -> None:
    files = read_manifest(prefix).input_files
    assert open_shard(prefix).manifest.input_files is None
    assert files is not None and len(files) == NUM_FILES and files[-1].bytes == 123 + NUM_FILES - 1


def test_a_change_of_a_file_s_entry_is_found_when_the_shard_is_opened(prefix: Path, tmp_path: Path) -> None:
    for suffix in (".bin", ".idx", ".json"):
        shutil.copy(f"{prefix}{suffix}", tmp_path / f"shard{suffix}")
    path = tmp_path / "shard.json"
    path.write_bytes(path.read_bytes().replace(b"/019999.jsonl", b"/019998.jsonl"))
    with pytest.raises(DamagedShardError, match="it changed after it was written"):
        open_shard(tmp_path / "shard")


@pytest.mark.parametrize("entry", [None, [5], [{"path": "a"}]])
def test_a_manifest_without_a_hash_of_its_own_is_read_whole(entry: object, prefix: Path, tmp_path: Path) -> None:
    for suffix in (".bin", ".idx"):
        shutil.copy(f"{prefix}{suffix}", tmp_path / f"shard{suffix}")
    content = json.loads(Path(f"{prefix}.json").read_bytes())
    (tmp_path / "shard.json").write_text(json.dumps(content | {"input_files": entry, "manifest_sha256": None}))
    with pytest.raises(ShardError, match="input_files"):
        read_manifest(tmp_path / "shard")
    with pytest.raises(ShardError, match="input_files"):
        open_shard(tmp_path / "shard")


@pytest.mark.parametrize(
    "content",
    [{"a": "é\x7f\u2028\n\"", "b": {"z": 1, "a": [True, None]}}, {"a": 1e-7, "b": 1e16, "c": -0.0}, {"a": "\ud800"}, {"a": 10**30}],
)  # fmt: skip
def test_a_hash_is_its_own_whichever_way_it_is_found(content: dict) -> None:
    stated = content | {"own": own_hash(content, "own")}
    assert has_own_hash(stated, "own")
    assert not has_own_hash(stated | {"a": 7}, "own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orjson, "dumps", lambda *_, **__: b"other bytes")
        assert has_own_hash(stated, "own")
