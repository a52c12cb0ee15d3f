"""Integers that follow from a configuration."""

from dataclasses import replace

import pytest

from pretrain.config.derive import (
    data_parallel_size,
    kv_channels,
    mixture_weight,
    model_parallel_size,
    num_microbatches,
    padded_vocab_size,
    world_size,
)
from pretrain.config.schema import ModelConfig, ParallelConfig, SourceConfig
from pretrain.model.families.sizes import num_parameters

MODEL = ModelConfig(
    num_layers=2, hidden_size=8, ffn_hidden_size=16, num_attention_heads=4, num_query_groups=2, vocab_size=130
)


@pytest.mark.parametrize(
    ("vocab", "multiple", "padded"), [(130, 128, 256), (128, 128, 128), (1, 64, 64), (130, 1, 130)]
)
def test_the_vocabulary_is_padded_to_a_multiple_of_its_own(vocab: int, multiple: int, padded: int) -> None:
    assert padded_vocab_size(replace(MODEL, vocab_size=vocab, make_vocab_size_divisible_by=multiple)) == padded


def test_micro_batches_divide_the_global_batch() -> None:
    assert num_microbatches(global_batch_size=24, micro_batch_size=2, data_parallel_size=3) == 4
    with pytest.raises(
        ValueError, match=r"\(25\) must be a multiple of .*\(2\) \* data_parallel_size \(3\) = 6; the next one is 30"
    ):
        num_microbatches(global_batch_size=25, micro_batch_size=2, data_parallel_size=3)


def test_a_layout_counts_its_ranks_and_ranks_their_replicas() -> None:
    layout = ParallelConfig(tensor_model_parallel_size=4, pipeline_model_parallel_size=2)
    assert (model_parallel_size(layout), world_size(layout)) == (8, 8)
    assert world_size(replace(layout, data_parallel_size=3)) == 24
    assert data_parallel_size(layout, num_ranks=40) == 5
    with pytest.raises(ValueError, match=r"3 ranks cannot hold whole replicas of .* = 8 ranks; start 8 or 16 ranks"):
        data_parallel_size(layout, num_ranks=3)


def test_a_head_s_size_may_differ_from_its_share_of_the_hidden_size() -> None:
    assert kv_channels(MODEL) == 2
    wide = replace(MODEL, kv_channels=4)
    assert kv_channels(wide) == 4
    assert num_parameters(wide) - num_parameters(MODEL) == 2 * 8 * 2 * (2 * 4 + 2 * 2), "two more channels in 12 heads"


@pytest.mark.parametrize(("share", "weight"), [({}, 1.0), ({"weight": 0.25}, 0.25), ({"epochs": 1.5}, 701.7e9)])
def test_epochs_are_a_weight_of_tokens_times_passes(share: dict[str, float], weight: float) -> None:
    assert mixture_weight(SourceConfig(prefix="en--web", **share), train_tokens=467_800_000_000) == weight
