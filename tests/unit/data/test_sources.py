"""Shards of a configuration: opened, checked, refused by name."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data.batch import TrainData, micro_batch
from pretrain.data.sources import open_sources
from tokenizer.shards import ShardWriter


def run_with(small_run: Path, *overrides: str) -> RunConfig:
    return load_run(small_run, overrides)


def test_sources_know_their_domain_and_give_whole_chunks(small_run: Path) -> None:
    train, held_out = open_sources(run_with(small_run))
    assert [source.domain for source in train] == ["code", "prose"]
    assert [source.domain for source in held_out] == ["code", "prose"]
    chunk = train[0].chunk(7)
    assert chunk.shape == (65,) and chunk.dtype == np.uint16


def test_a_sample_is_a_slice_of_its_source(small_run: Path) -> None:
    train, _ = open_sources(run_with(small_run))
    data = TrainData(train, seed=42)
    source, rank = data.blend.locate(1234)
    start = train[source].order.start_token(rank)
    assert np.array_equal(data.sample(1234), train[source].shard.tokens[start : start + 65])


def test_a_missing_shard_is_refused_with_its_path(small_run: Path) -> None:
    with pytest.raises(ValueError, match="/nowhere/shard"):
        open_sources(run_with(small_run, "data.train=[{prefix: /nowhere/shard}]"))


def test_a_sequence_longer_than_a_source_is_refused_with_a_length_that_works(small_run: Path) -> None:
    with pytest.raises(ValueError, match=r"data.seq_length \(9000000\) needs sources of at least") as caught:
        open_sources(run_with(small_run, "data.seq_length=9_000_000", "data.held_out=[]"))
    works = str(caught.value).rpartition("; ")[2].removesuffix(" works")
    train, _ = open_sources(run_with(small_run, works, "data.held_out=[]"))
    assert train[0].order.chunks_per_epoch == 1


def test_a_missing_tokenizer_is_refused_with_its_path(small_run: Path) -> None:
    with pytest.raises(ValueError, match="/nowhere/tokenizer"):
        open_sources(run_with(small_run, "data.tokenizer=/nowhere/tokenizer"))


def test_a_domain_named_in_the_config_wins(small_run: Path, data_folder: Path) -> None:
    prefix = data_folder / "shards" / "train-code"
    train, _ = open_sources(run_with(small_run, f"data.train=[{{prefix: {prefix}, domain: python}}]"))
    assert train[0].domain == "python"


def test_moving_the_shards_leaves_the_order_and_another_seed_changes_it(
    small_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    for suffix in (".bin", ".idx", ".json"):
        (tmp_path / f"train-code{suffix}").write_bytes((data_folder / "shards" / f"train-code{suffix}").read_bytes())

    def starts(prefix: Path, *overrides: str) -> list[int]:
        train, _ = open_sources(
            run_with(small_run, f"data.train=[{{prefix: {prefix}}}]", "data.held_out=[]", *overrides)
        )
        return [train[0].order.start_token(rank) for rank in range(50)]

    here = starts(data_folder / "shards" / "train-code")
    assert starts(tmp_path / "train-code") == here
    assert starts(tmp_path / "train-code", "data.seed=7") != here


def test_held_out_chunks_lie_in_a_row(small_run: Path) -> None:
    _, held_out = open_sources(run_with(small_run))
    assert [held_out[0].order.start_token(rank) for rank in range(3)] == [0, 64, 128]
    assert np.array_equal(held_out[0].chunk(1), held_out[0].shard.tokens[64 : 128 + 1])


def test_a_vocabulary_smaller_than_the_tokenizer_s_is_refused(small_run: Path) -> None:
    with pytest.raises(
        ValueError, match=r"model.vocab_size \(1999\) must be at least the 2000 tokens .*; model.vocab_size=2000 works"
    ):
        open_sources(run_with(small_run, "model.vocab_size=1999"))


def test_a_shard_of_another_tokenizer_is_refused(small_run: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "other", vocab_size=2000, tokenizer_sha256="ab" * 32) as writer:
        writer.add_document(list(range(500)))
        writer.finish(domain="code", licence=None, source=None, input_files=(), options=options())
    with pytest.raises(
        ValueError, match=r"was made by the tokenizer abababababab and data.tokenizer .* is [0-9a-f]{12}"
    ):
        open_sources(run_with(small_run, f"data.train=[{{prefix: {tmp_path / 'other'}}}]"))


def options():
    from tokenizer.shards import EncodeOptions

    return EncodeOptions(append_bos=True, append_eos=True, text_field="text")


def test_held_out_text_that_is_trained_on_is_refused_even_under_another_name(
    small_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    for suffix in (".bin", ".idx", ".json"):
        (tmp_path / f"copy{suffix}").write_bytes((data_folder / "shards" / f"train-code{suffix}").read_bytes())
    with pytest.raises(ValueError, match=r"holds the same tokens as data.train shard .* must never be trained on"):
        open_sources(run_with(small_run, f"data.held_out=[{{prefix: {tmp_path / 'copy'}}}]"))


def test_a_shard_named_twice_is_refused_with_the_weight_that_means_it(small_run: Path, data_folder: Path) -> None:
    prefix = data_folder / "shards" / "train-code"
    with pytest.raises(ValueError, match=r"data.train names the same tokens twice: .* name them once, with weight=3"):
        open_sources(
            run_with(small_run, f"data.train=[{{prefix: {prefix}, weight: 2}}, {{prefix: {prefix}, weight: 1}}]")
        )


def test_a_cut_shard_is_refused(small_run: Path, data_folder: Path, tmp_path: Path) -> None:
    for suffix in (".bin", ".idx", ".json"):
        (tmp_path / f"cut{suffix}").write_bytes((data_folder / "shards" / f"train-code{suffix}").read_bytes())
    with (tmp_path / "cut.bin").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(ValueError, match=r"cut.bin"):
        open_sources(run_with(small_run, f"data.train=[{{prefix: {tmp_path / 'cut'}}}]"))


def test_labels_are_the_tokens_one_position_on_and_masked_rows_count_nothing() -> None:
    rows = [np.arange(5, dtype=np.uint16), np.arange(10, 15, dtype=np.uint16)]
    batch = micro_batch(rows, torch.device("cpu"), row_weights=[1.0, 0.0])
    assert batch.tokens.tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert batch.labels.tolist() == [[1, 2, 3, 4], [11, 12, 13, 14]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3]] * 2
    assert batch.loss_mask.tolist() == [[1.0] * 4, [0.0] * 4]
    assert batch.tokens.dtype == batch.labels.dtype == torch.int64
