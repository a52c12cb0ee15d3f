"""The shards of a run are compared with their manifests beside the training: what is found, what is recorded, at which pace."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fanal.errors import exit_code_of
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig, VerifyConfig
from pretrain.data import reader as reader_module
from pretrain.data.batch import train_micro_batches
from pretrain.data.position import DataPosition, position_text, read_position
from pretrain.data.reader import TrainReader, open_reader
from pretrain.data.sources import open_sources
from pretrain.parallel.world import World
from tests.unit.data.shards import copy_shard
from tokenizer.shards.manifest import DamagedShardError
from tokenizer.shards.shard import EncodeOptions, ShardWriter, open_shard

ALONE = World(
    rank=0, size=1, device=torch.device("cpu"), tp_rank=0, pp_rank=0, dp_rank=0,
    tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=1,
)  # fmt: skip
SLOWLY = "data.verify.bytes_per_s=1"
"""The first piece that is read, an index, then waits for hours."""


@pytest.fixture(autouse=True)
def no_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "wrapping_sum", lambda values, world: list(values))


@pytest.fixture
def shards(data_folder: Path, tmp_path: Path) -> Path:
    """A folder of shards that a test may change."""
    for name in ("train-code", "train-prose", "validation-code", "validation-prose"):
        copy_shard(data_folder / "shards" / name, tmp_path / name)
    return tmp_path


def run_on(small_run: Path, shards: Path, *overrides: str) -> RunConfig:
    train = f"data.train=[{{prefix: {shards}/train-code, weight: 2}}, {{prefix: {shards}/train-prose, weight: 1}}]"
    validation = f"data.validation=[{{prefix: {shards}/validation-code}}, {{prefix: {shards}/validation-prose}}]"
    return load_run(small_run, [train, validation, *overrides])


def xor_1(prefix: Path) -> None:
    """Every token of a shard changes, and no size; its ids stay in the vocabulary."""
    tokens = np.fromfile(f"{prefix}.bin", open_shard(prefix).dtype)
    (tokens ^ 1).tofile(f"{prefix}.bin")


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def whole(reader: TrainReader) -> bool:
    found = reader.position(0)
    return all(v.has_index and v.num_tokens == s.num_tokens for v, s in zip(found.verified, found.sources, strict=True))


def begin_step(reader: TrainReader, consumed: int) -> None:
    reader.begin_step(consumed_samples=consumed, global_batch_size=8, steps_left=1)


def found_by_training(run: RunConfig) -> str:
    """The message with which a run ends that takes steps until it does."""
    with open_reader(open_sources(run), run, ALONE) as reader, pytest.raises(DamagedShardError) as error:
        wait_for(lambda: begin_step(reader, 0) is not None)
    assert exit_code_of(error.value) == 76
    return str(error.value)


@pytest.mark.parametrize("name", ["train-prose", "validation-code"])
def test_a_shard_whose_every_token_changed_ends_the_run_by_its_file_and_block(
    name: str, small_run: Path, shards: Path
) -> None:
    xor_1(shards / name)
    last = open_shard(shards / name).num_documents - 1
    message = found_by_training(run_on(small_run, shards))
    assert f"{shards / name}.bin block 0 (bytes 0 to " in message and f"documents 0 to {last}) has sha256" in message
    assert "by data.verify" in message


def test_a_changed_index_ends_the_run_by_its_name(small_run: Path, shards: Path) -> None:
    path = shards / "train-code.idx"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    assert f"{path} has sha256" in found_by_training(run_on(small_run, shards))


def test_a_checkpoint_is_not_taken_of_what_was_found_altered(small_run: Path, shards: Path) -> None:
    xor_1(shards / "train-code")
    run = run_on(small_run, shards)
    with (
        open_reader(open_sources(run), run, ALONE) as reader,
        pytest.raises(DamagedShardError, match=r"train-code\.bin"),
    ):
        wait_for(lambda: not reader.position(0))


def test_the_record_says_how_much_was_compared_and_how_much_is_the_manifests_word(
    small_run: Path, shards: Path, tmp_path: Path
) -> None:
    run = run_on(small_run, shards)
    with open_reader(open_sources(run), run, ALONE) as reader:
        wait_for(lambda: whole(reader))
        saved = reader.position(0)
    assert [v.identity for v in saved.verified] == [s.identity for s in saved.sources]
    (tmp_path / "data.json").write_text(position_text(saved))
    assert read_position(tmp_path / "data.json").verified == saved.verified
    for off in ("data.verify=null", SLOWLY):
        run = run_on(small_run, shards, off)
        with open_reader(open_sources(run), run, ALONE) as reader:
            time.sleep(0.05)
            begin_step(reader, 0)
            assert [v.num_tokens for v in reader.position(0).verified] == [0, 0], off
    with open_reader(open_sources(run), run, ALONE) as reader:
        assert reader.position(0) == replace(saved, verified=()), "which data were read does not depend on it"


def test_altered_bytes_train_on_where_nothing_is_compared(small_run: Path, shards: Path) -> None:
    xor_1(shards / "train-code")
    run = run_on(small_run, shards, "data.verify=null")
    with open_reader(open_sources(run), run, ALONE) as reader:
        list(train_micro_batches(reader, run.train, ALONE, consumed_samples=0, global_batch_size=8))
        assert [v.num_tokens for v in reader.position(8).verified] == [0, 0]


def test_one_rank_of_a_node_compares_for_all(small_run: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xor_1(shards / "train-code")
    run = run_on(small_run, shards)
    for name, value in (("RANK", "9"), ("WORLD_SIZE", "16"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with open_reader(open_sources(run), run, ALONE) as reader:
        time.sleep(0.1)
        begin_step(reader, 0)
        assert reader.verifier.num_parts() == [2, 2], "it takes away nothing of what the others compared"
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "train-code.bin block 0" in found_by_training(run)


def test_what_one_node_has_not_compared_is_not_recorded(
    small_run: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_on(small_run, shards)
    with open_reader(open_sources(run), run, ALONE) as reader:
        wait_for(lambda: whole(reader))
        monkeypatch.setattr(reader_module, "smallest_each", lambda values, world: [values[0], 1])
        code, prose = reader.position(0).verified
    assert (code.has_index, code.num_tokens > 0) == (True, True)
    assert (prose.has_index, prose.num_tokens) == (True, 0)


def test_the_pace_is_bounded_but_a_source_is_compared_before_its_second_pass(small_run: Path, shards: Path) -> None:
    run = run_on(small_run, shards, SLOWLY)
    with open_reader(open_sources(run), run, ALONE) as reader:
        begin_step(reader, 0)
        time.sleep(0.1)
        assert reader.verifier.num_parts() == [0, 0]
        chunks = sum(source.order.chunks_per_epoch for source in reader.data.sources.train)
        begin_step(reader, 3 * chunks)
        wait_for(lambda: whole(reader))


def resumed(run: RunConfig, saved: DataPosition) -> list[int]:
    with open_reader(open_sources(run), run, ALONE) as reader:
        reader.resume(saved, where="step-1")
        return [found.num_tokens for found in reader.position(saved.consumed_samples).verified]


def test_a_later_start_keeps_what_was_compared_unless_the_file_was_written_since(small_run: Path, shards: Path) -> None:
    run = run_on(small_run, shards)
    with open_reader(open_sources(run), run, ALONE) as reader:
        list(train_micro_batches(reader, run.train, ALONE, consumed_samples=0, global_batch_size=8))
        wait_for(lambda: whole(reader))
        saved = reader.position(8)
    slowly = run_on(small_run, shards, SLOWLY)
    tokens = [source.num_tokens for source in saved.sources]
    assert resumed(slowly, saved) == tokens
    assert resumed(slowly, replace(saved, verified=())) == [0, 0], "an earlier version's record"
    Path(f"{shards}/train-code.bin").touch()
    assert resumed(slowly, saved) == [0, tokens[1]]


def test_a_later_start_compares_the_rest_first_and_then_all_of_it_again(
    small_run: Path, shards: Path, data_folder: Path
) -> None:
    prefix, block = shards / "large", (64 << 20) // 2
    with ShardWriter(
        prefix, vocab_size=2000, tokenizer_sha256=open_shard(shards / "train-code").manifest.tokenizer_sha256
    ) as writer:
        for tokens in (block, 100):
            writer.add_documents(np.array([tokens], np.int32), np.zeros(tokens, np.uint16))
        options = EncodeOptions(append_bos=False, append_eos=False, text_field=None)
        writer.finish(domain=None, licence=None, source=None, input_files=[], options=options)
    run = run_on(small_run, shards, f"data.train=[{{prefix: {prefix}}}]", "data.validation=[]", SLOWLY)
    with open_reader(open_sources(run), run, ALONE) as reader:
        list(train_micro_batches(reader, run.train, ALONE, consumed_samples=0, global_batch_size=8))
        saved = reader.position(8)
    half = replace(saved, verified=(replace(saved.verified[0], has_index=True, num_tokens=block),))
    quick = replace(run, data=replace(run.data, verify=VerifyConfig(bytes_per_s=1 << 40)))
    for place, expected in (
        (2 * block + 7, "block 1 (bytes 67108864 to 67109063, documents 1 to 1)"),
        (7, "block 0 ("),
    ):
        with Path(f"{prefix}.bin").open("r+b") as stream:
            mtime = half.verified[0].bin_mtime_ns
            stream.seek(place)
            stream.write(b"\1")
        os.utime(f"{prefix}.bin", ns=(mtime, mtime))
        with open_reader(open_sources(quick), quick, ALONE) as reader, pytest.raises(DamagedShardError) as error:
            reader.resume(half, where="step-1")
            wait_for(lambda reader=reader: begin_step(reader, 8) is not None)
        assert f"{prefix}.bin {expected}" in str(error.value)
        with Path(f"{prefix}.bin").open("r+b") as stream:
            stream.seek(place)
            stream.write(b"\0")
