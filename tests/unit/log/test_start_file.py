"""The files of a run's starts: written whole, read back, and refused where they were altered."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fanal import records
from fanal.errors import DamageError, UserError
from fanal.records import object_bytes, own_hash
from fanal.run_folder import METRICS_FILE, STARTS_DIR, start_name, start_number
from pretrain.log.start_file import (
    OWN_HASH,
    Code,
    StartFile,
    StartSource,
    next_start,
    read_start,
    read_starts,
    start_numbers,
    write_start_file,
)
from tests.unit.every_bit import unnoticed_bits

SOURCE = StartSource(
    prefix="shards/code", identity="ab" * 32, num_tokens=1000, train_tokens=900, domain="code", idx_sha256="cd" * 32,
    documents_sha256=None,
)  # fmt: skip
START = StartFile(
    number=1, time_unix_s=1.5e9, startup_s=12.25, step=5, consumed_samples=40, decay_start_sample=None,
    config={"run_dir": "runs/é", "data": {"train": [{"prefix": "shards/code", "weight": 0.5}]}},
    code=Code(version="0.3.0", commit="ef" * 20, modified=False), versions={"python": "3.11.7"}, hosts=("n1", "n2"), num_ranks=8,
    devices={"NVIDIA H100": 8}, device_type="cuda", user="ada", job="77", sources=(SOURCE,), validation_sources=(),
    origin={"checkpoint": "/runs/a/checkpoints/step-00000008"}, changes=("train.train_steps: 8 -> 10",),
)  # fmt: skip


def without_hash(start: StartFile) -> StartFile:
    return replace(start, start_sha256=None)


def test_starts_are_read_back_by_their_numbers(tmp_path: Path) -> None:
    assert read_starts(tmp_path) == [] and next_start(tmp_path) == 1
    for number in (2, 1, 10):
        path = write_start_file(tmp_path, replace(START, number=number))
        assert path == tmp_path / STARTS_DIR / f"start-{number:05d}.json"
    (tmp_path / STARTS_DIR / "start-00003.json.part").write_text("{")
    (tmp_path / STARTS_DIR / "notes.txt").write_text("mine")
    assert start_numbers(tmp_path) == [1, 2, 10] and next_start(tmp_path) == 11
    found = read_starts(tmp_path)
    assert [without_hash(start) for start in found] == [replace(START, number=number) for number in (1, 2, 10)]
    assert all(start.start_sha256 is not None for start in found)


def test_a_start_whose_file_a_full_disk_did_not_take_keeps_its_number(tmp_path: Path) -> None:
    write_start_file(tmp_path, START)
    (tmp_path / METRICS_FILE).write_text(
        '{"kind": "start", "step": 5, "start": 1}\n{"kind": "step", "step": 6, "start": 4}\n'
    )
    assert next_start(tmp_path) == 5
    (tmp_path / METRICS_FILE).write_text('{"kind": "step", "step": 6}\n')
    assert next_start(tmp_path) == 2


@pytest.mark.parametrize(
    "name", ["start-1.json", "start-00001.json.part", "start-000001.json", "start-0000x.json", "x"]
)
def test_other_names_are_no_starts(name: str) -> None:
    assert start_number(name) is None
    assert start_number(start_name(123456)) == 123456


def test_every_flipped_bit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_start_file(tmp_path, replace(START, config=START.config | {"optim": {"eps": 1e-05}}))
    assert unnoticed_bits(path, lambda: read_start(tmp_path, 1)) == []
    monkeypatch.setattr(records, "object_bytes", lambda content: path.read_bytes())
    bit = 8 * (path.read_bytes().index(b"1e-05") + 1) + 5
    assert bit in unnoticed_bits(path, lambda: read_start(tmp_path, 1), first=bit, every=1 << 30), (
        "1E-05 is the same content in other bytes"
    )


def test_a_change_with_a_new_hash_is_a_start_like_another_and_another_number_is_not(tmp_path: Path) -> None:
    path = write_start_file(tmp_path, START)
    content = json.loads(path.read_text()) | {"user": "eve"}
    path.write_bytes(object_bytes(content | {OWN_HASH: own_hash(content, OWN_HASH)}))
    assert read_start(tmp_path, 1).user == "eve"
    path.rename(path.with_name(start_name(2)))
    with pytest.raises(DamageError, match="the number in its name"):
        read_starts(tmp_path)


def test_the_file_of_a_newer_version_is_no_damage(tmp_path: Path) -> None:
    path = write_start_file(tmp_path, START)
    content = json.loads(path.read_text()) | {"energy_j": 5}
    path.write_bytes(object_bytes(content | {OWN_HASH: own_hash(content, OWN_HASH)}))
    with pytest.raises(UserError, match=r"unknown key 'energy_j', .*read it with the version that wrote it"):
        read_starts(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"start_sha256": null}', "\x00" * 40])
def test_what_is_no_record_is_damage(content: str, tmp_path: Path) -> None:
    write_start_file(tmp_path, START).write_text(content)
    with pytest.raises(DamageError, match=r"start-00001\.json"):
        read_starts(tmp_path)
