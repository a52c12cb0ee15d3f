"""A shard that megatron-core wrote trains here once it is adopted, and to the same losses as ours of the same text."""

from pathlib import Path

import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

from tests.dist.harness import assert_same_training, make_run, run_and_trace
from tests.runs.cases import DP2
from tokenizer.shards.adopt import adopt
from tokenizer.shards.labels import Labels
from tokenizer.shards.shard import open_shard


def test_an_adopted_shard_trains_like_the_one_encoded_here(small_run: Path, data_folder: Path, tmp_path: Path) -> None:
    ours = open_shard(data_folder / "shards" / "train-code")
    theirs = tmp_path / "megatron"
    builder = IndexedDatasetBuilder(f"{theirs}.bin", dtype=DType.optimal_dtype(2000))
    for number in range(ours.num_documents):
        document = ours.document(number)
        builder.add_document(torch.from_numpy(document.astype("int64")), [len(document)])
    builder.finalize(f"{theirs}.idx")
    steps = ("train.train_steps=3", "data.validation=[]")
    refused = run_and_trace(make_run(small_run, tmp_path / "refused", *steps, f"data.train=[{{prefix: {theirs}}}]"))
    assert refused.exit_code == 2
    adopt(theirs, data_folder / "tokenizer", Labels(domain="code"))
    traces = [
        run_and_trace(make_run(small_run, tmp_path / name, *steps, *DP2, f"data.train=[{{prefix: {prefix}}}]"))
        for name, prefix in (("adopted", theirs), ("encoded", data_folder / "shards" / "train-code"))
    ]
    assert_same_training(*traces, loss=0.0, grad_norm=0.0)
