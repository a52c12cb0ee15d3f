"""A layout in words and in letters: one without context parallelism as it has always been called."""

from typing import Any

import pytest

from pretrain.config.layout_words import layout_in_words, split_axes
from pretrain.config.schema import ParallelConfig


@pytest.mark.parametrize(
    ("sizes", "replicas", "words", "with_choices", "letters"),
    [
        ({}, 1, "TP1 x PP1 x DP1", "TP1 x PP1 x DP1", ""),
        ({"tensor_model_parallel_size": 4, "pipeline_model_parallel_size": 4}, None, "TP4 x PP4", "TP4 x PP4", "TP4 PP4"),
        (
            {"tensor_model_parallel_size": 2, "sequence_parallel": True, "pipeline_model_parallel_size": 2,
             "virtual_pipeline_model_parallel_size": 3, "context_parallel_size": 2, "data_parallel_size": 4},
            4, "TP2 x PP2 x CP2 x DP4", "TP2 + SP x PP2 (3 stages a rank) x CP2 x DP4", "TP2 PP2 VP3 CP2 DP4",
        ),
        ({"context_parallel_size": 8}, None, "TP1 x PP1 x CP8", "TP1 x PP1 x CP8", "CP8"),
    ],
)  # fmt: skip
def test_a_layout_is_named_by_its_sizes(
    sizes: dict[str, Any], replicas: int | None, words: str, with_choices: str, letters: str
) -> None:
    parallel = ParallelConfig(**sizes)
    assert layout_in_words(parallel, replicas=replicas) == words
    assert layout_in_words(parallel, replicas=replicas, with_choices=True) == with_choices
    assert " ".join(split_axes(parallel)) == letters
