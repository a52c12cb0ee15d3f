"""The manifest of a checkpoint, its seal and its state are read strictly."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from fanal.errors import exit_code_of
from fanal.exit_codes import DAMAGED
from fanal.run_folder import COMPLETE, MANIFEST, STATE
from fanal.run_progress import standing_in
from pretrain.checkpoint.disk.manifest import (
    DamagedCheckpointError,
    FileEntry,
    Manifest,
    describe,
    entries_from_text,
    entries_to_text,
    manifest_bytes,
    parse_manifest,
    read_sealed_manifest,
    seal_text,
)
from pretrain.checkpoint.disk.state_file import read_state, state_text
from pretrain.state import Recent, TrainState

ENTRIES = (
    FileEntry(path="shards/__0_0.distcp", bytes=7, hash="blake3:" + "ab" * 32),
    FileEntry(path="config.yaml", bytes=0, hash="sha256:" + "cd" * 32),
)


def test_a_manifest_reads_as_it_was_written_and_is_sorted(tmp_path: Path) -> None:
    content = manifest_bytes(Manifest(step=5, files=ENTRIES))
    assert content == manifest_bytes(Manifest(step=5, files=ENTRIES[::-1])), "whoever hashed first"
    assert parse_manifest(content, tmp_path) == Manifest(step=5, files=ENTRIES[::-1])
    assert entries_from_text(entries_to_text(ENTRIES)) == list(ENTRIES)


def test_a_file_is_described_by_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000  # several blocks
    (tmp_path / "a").write_bytes(content)
    for algorithm, expected in (("blake3", blake3(content)), ("sha256", hashlib.sha256(content))):
        entry = FileEntry(path="a", bytes=2_560_000, hash=f"{algorithm}:{expected.hexdigest()}")
        assert describe(tmp_path, "a", algorithm=algorithm) == entry
    assert describe(tmp_path, "a").hash.startswith("blake3:")


def with_entry(**changes: Any) -> dict[str, Any]:
    return {
        "format_version": 2,
        "step": 5,
        "files": [{"path": "a", "bytes": 1, "hash": "blake3:" + "ab" * 32} | changes],
    }


def old_entry(**changes: Any) -> dict[str, Any]:
    return {"format_version": 1, "step": 5, "files": [{"path": "a", "bytes": 1, "sha256": "ab" * 32} | changes]}


OLD_ENTRY = old_entry()
NO_HASHES = ("ab" * 32, "blake3:" + "AB" * 32, "blake3:" + "ab" * 31, "md5:" + "ab" * 32, "")


def test_a_manifest_of_the_first_version_holds_sha256(tmp_path: Path) -> None:
    entry = FileEntry(path="a", bytes=1, hash="sha256:" + "ab" * 32)
    assert parse_manifest(json.dumps(OLD_ENTRY).encode(), tmp_path) == Manifest(step=5, files=(entry,))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], "it must hold format_version, step and files"),
        ({"format_version": 2, "step": 5}, "it must hold format_version, step and files"),
        (with_entry() | {"more": 1}, "it must hold format_version, step and files"),
        (with_entry() | {"format_version": 3}, r"format_version \(3\) must be 1 or 2"),
        (with_entry() | {"format_version": 1}, "unknown key 'hash', expected path, bytes, sha256"),
        (with_entry(sha256="ab" * 32), "unknown key 'sha256', expected path, bytes, hash"),
        (OLD_ENTRY | {"format_version": 2}, "unknown key 'sha256', expected path, bytes, hash"),
        (old_entry(sha256="AB" * 32), "hash of a .* must be blake3: or sha256: and 64 hexadecimal digits"),
        (old_entry(path="../a"), "must be that of a file inside"),
        (old_entry(bytes=-1), r"bytes of a \(-1\) must be an integer from 0"),
        (with_entry() | {"step": True}, r"step \(True\) must be an integer from 0"),
        (with_entry() | {"step": "5"}, r"step \('5'\) must be an integer from 0"),
        (with_entry() | {"files": 3}, "TypeError"),
        (with_entry() | {"files": [3]}, "holds 3, expected an object"),
        (with_entry(mode=1), "unknown key 'mode', expected path, bytes, hash"),
        (with_entry(path="/etc/passwd"), r"path \('/etc/passwd'\) must be that of a file inside"),
        (with_entry(path="a/../../b"), "must be that of a file inside"),
        (with_entry(path="a//b"), "must be that of a file inside"),
        (with_entry(path="."), "must be that of a file inside"),
        (with_entry(path=COMPLETE), "must be that of a file inside"),
        (with_entry(path=3), "path holds 3, expected a string"),
        (with_entry(bytes=-1), r"bytes of a \(-1\) must be an integer from 0"),
        (with_entry(bytes=1.0), "bytes holds 1.0, expected an integer"),
        *(
            (with_entry(hash=wrong), "hash of a .* must be blake3: or sha256: and 64 hexadecimal digits")
            for wrong in NO_HASHES
        ),
        (with_entry(hash=None), "hash holds null, expected a string"),
        (with_entry() | {"files": with_entry()["files"] * 2}, "its paths must be sorted and different"),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(tmp_path: Path, content: Any, complaint: str) -> None:
    with pytest.raises(DamagedCheckpointError, match=f"{MANIFEST} is not a manifest .*{complaint}"):
        parse_manifest(json.dumps(content).encode(), tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000], ids=["empty", "cut", "no text", "deep"]
)
def test_bytes_that_are_no_json_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DamagedCheckpointError, match=f"{MANIFEST} is not a manifest"):
        parse_manifest(content, tmp_path)


def test_the_seal_binds_the_manifest(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(b"{}")
    with pytest.raises(DamagedCheckpointError, match=f"{COMPLETE} cannot be read") as caught:
        read_sealed_manifest(tmp_path)
    assert exit_code_of(caught.value) == DAMAGED == 76
    (tmp_path / COMPLETE).write_text(seal_text(b"{}"))
    assert read_sealed_manifest(tmp_path) == b"{}"
    for seal in (seal_text(b"{ }"), "step 5\n", "", seal_text(b"{}") + "x" * 10_000):
        (tmp_path / COMPLETE).write_text(seal)
        with pytest.raises(DamagedCheckpointError, match=f"{COMPLETE} holds .*, expected .*{MANIFEST}"):
            read_sealed_manifest(tmp_path)


def test_a_pipe_or_a_link_in_a_seal_s_place_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(b"{}")
    os.mkfifo(tmp_path / COMPLETE)
    with pytest.raises(DamagedCheckpointError, match="not a file"):
        read_sealed_manifest(tmp_path)
    (tmp_path / COMPLETE).unlink()
    (tmp_path / "elsewhere").write_text(seal_text(b"{}"))
    (tmp_path / COMPLETE).symlink_to("elsewhere")
    with pytest.raises(DamagedCheckpointError, match=f"{COMPLETE} cannot be read"):
        read_sealed_manifest(tmp_path)


def test_a_state_reads_as_it_was_written(tmp_path: Path) -> None:
    state = TrainState(step=5, consumed_samples=40, consumed_tokens=2560, skipped_steps=2, skipped_in_a_row=1)
    (tmp_path / STATE).write_text(state_text(state))
    assert read_state(tmp_path, step=5) == state
    with pytest.raises(DamagedCheckpointError, match=r"step \(5\) must be 6, that of the checkpoint's manifest"):
        read_state(tmp_path, step=6)


def test_recent_values_come_back_to_the_last_bit(tmp_path: Path) -> None:
    values = (0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2.0)
    state = TrainState(step=5, skipped_spikes=1, recent=Recent(losses=values, grad_norms=values[::-1]))
    (tmp_path / STATE).write_text(state_text(state))
    found = read_state(tmp_path, step=5)
    assert found == state and isinstance(found.recent.losses, tuple)
    assert [value.hex() for value in found.recent.losses] == [value.hex() for value in values]


OLD = {"step": 5, "consumed_samples": 40, "consumed_tokens": 2560, "skipped_steps": 0, "skipped_in_a_row": 0}
GOOD = OLD | {"skipped_spikes": 0, "recent": {"losses": [2.5], "grad_norms": []}}
"""As it was before a decay could begin on request."""


def test_where_a_decay_began_comes_back_and_a_state_from_before_has_none(tmp_path: Path) -> None:
    state = TrainState(step=5, consumed_samples=40, consumed_tokens=2560, decay_start_sample=32)
    (tmp_path / STATE).write_text(state_text(state))
    assert read_state(tmp_path, step=5) == state and state.standing == (5, 40, 32)
    assert standing_in(tmp_path) == state.standing
    (tmp_path / STATE).write_text(json.dumps(GOOD))
    assert read_state(tmp_path, step=5).decay_start_sample is None
    assert standing_in(tmp_path) == (5, 40, None)


def test_a_state_from_before_spikes_were_looked_for_starts_without_recent_values(tmp_path: Path) -> None:
    (tmp_path / STATE).write_text(json.dumps(OLD))
    state = TrainState(step=5, consumed_samples=40, consumed_tokens=2560)
    assert read_state(tmp_path, step=5) == state


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (json.dumps(GOOD | {"consumed_samples": "40"}), 'consumed_samples holds "40", expected an integer'),
        (json.dumps(GOOD | {"consumed_samples": 40.0}), "consumed_samples holds 40.0, expected an integer"),
        (json.dumps(GOOD | {"skipped_steps": False}), "skipped_steps holds false, expected an integer"),
        (json.dumps(GOOD | {"consumed_tokens": -1}), r"consumed_tokens \(-1\) must be an integer"),
        (json.dumps(GOOD | {"more": 1}), "unknown key 'more', expected step, consumed_samples, "),
        (json.dumps({"step": 5}), "it lacks consumed_samples, consumed_tokens, skipped_steps, skipped_in_a_row$"),
        (json.dumps(OLD | {"skipped_spikes": 0}), "it lacks recent, recent.losses, recent.grad_norms$"),
        (json.dumps(GOOD | {"recent": []}), r"recent holds \[\], expected an object"),
        (json.dumps(GOOD | {"recent": {"losses": []}}), "it lacks recent.grad_norms$"),
        (
            json.dumps(GOOD | {"recent": {"losses": 1.0, "grad_norms": []}}),
            "recent.losses holds 1.0, expected an array",
        ),
        (
            json.dumps(GOOD | {"recent": {"losses": [1], "grad_norms": []}}),
            "recent.losses holds 1; every value must",
        ),
        (json.dumps(GOOD | {"recent": {"losses": [], "grad_norms": [float("inf")]}}), "recent.grad_norms holds inf"),
        (json.dumps(GOOD | {"decay_start_sample": -1}), r"decay_start_sample \(-1\) must be an integer from 0"),
        (json.dumps(GOOD | {"decay_start_sample": "32"}), 'decay_start_sample holds "32", expected an integer'),
        ("5", "the file holds 5, expected an object"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_what_is_no_state_is_refused_by_name(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / STATE).write_text(content)
    with pytest.raises(DamagedCheckpointError, match=f"{STATE} is not the state of this checkpoint: .*{complaint}"):
        read_state(tmp_path, step=5)
