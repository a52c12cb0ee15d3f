"""Which rows and columns of a tensor each tensor-parallel rank holds, for every kind of tensor and number of ranks."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest

from pretrain.config.derive import kv_channels
from pretrain.config.schema import ModelConfig
from pretrain.model.families.split import Block, blocks_of_rank, local_shape
from pretrain.model.families.table import QUERY_KEY_VALUE, QUERY_KEY_VALUE_BIAS, TensorSpec, layer_tensor
from pretrain.model.families.tensors import tensors_of

MODEL = ModelConfig(
    num_layers=1, hidden_size=32, ffn_hidden_size=48, num_attention_heads=8, num_query_groups=2, kv_channels=4,
    vocab_size=99, make_vocab_size_divisible_by=101, qk_layernorm=True, add_qkv_bias=True,
)  # fmt: skip
RANKS = (1, 2, 4, 8)
GROUPS = (1, 2, 4, 8)


def elements(spec: TensorSpec, block: Block) -> list[tuple[int, ...]]:
    columns = [] if len(spec.shape) == 1 else [block.columns or range(spec.shape[1])]
    return list(itertools.product(block.rows, *columns))


@pytest.mark.parametrize("num_ranks", RANKS)
@pytest.mark.parametrize("groups", GROUPS)
def test_every_number_has_one_rank_that_answers_for_it_and_as_many_holders_as_is_said(
    groups: int, num_ranks: int
) -> None:
    for spec in tensors_of(replace(MODEL, num_query_groups=groups)).values():
        answered, held, said = Counter[tuple[int, ...]](), Counter[tuple[int, ...]](), {}
        for rank in range(num_ranks):
            blocks = blocks_of_rank(spec, num_ranks=num_ranks, rank=rank)
            rows = sum(len(block.rows) for block in blocks)
            assert rows == local_shape(spec, num_ranks=num_ranks)[0] or spec.has_token_rows
            assert [block.is_copy for block in blocks] == sorted(block.is_copy for block in blocks), "copies come last"
            for block in blocks:
                for element in elements(spec, block):
                    held[element] += 1
                    answered[element] += not block.is_copy
                    said[element] = block.num_holders
        assert answered == dict.fromkeys(itertools.product(*map(range, spec.shape)), 1), spec.name
        assert held == said, spec.name


@pytest.mark.parametrize("name", [QUERY_KEY_VALUE, QUERY_KEY_VALUE_BIAS])
@pytest.mark.parametrize("num_ranks", RANKS)
@pytest.mark.parametrize("groups", GROUPS)
def test_a_rank_holds_its_own_queries_and_then_the_key_and_value_head_that_they_use(
    groups: int, num_ranks: int, name: str
) -> None:
    model = replace(MODEL, num_query_groups=groups)
    spec, size = tensors_of(model)[layer_tensor(0, name)], kv_channels(model)
    heads = [("query", head) for head in range(8)]
    # Of the whole tensor: group by group the group's queries, its key, its value.
    whole = [
        row
        for group in range(groups)
        for row in (*heads[group * 8 // groups : (group + 1) * 8 // groups], ("key", group), ("value", group))
    ]
    for rank in range(num_ranks):
        rows = [row for block in blocks_of_rank(spec, num_ranks=num_ranks, rank=rank) for row in block.rows]
        held = [whole[row // size] for row in rows[::size]]
        assert rows == [size * (row // size) + place for row in rows[::size] for place in range(size)], "whole heads"
        queries = [head for kind, head in held if kind == "query"]
        assert queries == list(range(rank * 8 // num_ranks, (rank + 1) * 8 // num_ranks))
        used = sorted({head * groups // 8 for head in queries})
        assert [head for kind, head in held if kind == "key"] == used
        assert [head for kind, head in held if kind == "value"] == used


@pytest.mark.parametrize(("padded", "num_ranks", "rows"), [
    (101, 2, [51, 50]), (101, 4, [26, 26, 26, 23]), (100, 4, [25] * 4), (5, 4, [2, 2, 1, 0]), (9, 8, [2, 2, 2, 2, 1, 0, 0, 0]),
])  # fmt: skip
def test_rows_of_tokens_are_cut_into_parts_of_one_height_and_the_last_have_fewer(
    padded: int, num_ranks: int, rows: list[int]
) -> None:
    model = replace(MODEL, vocab_size=min(99, padded), make_vocab_size_divisible_by=padded)
    for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        spec = tensors_of(model)[name]
        assert spec.shape == (padded, 32) and local_shape(spec, num_ranks=num_ranks) == (max(rows), 32)
        found = [blocks_of_rank(spec, num_ranks=num_ranks, rank=rank) for rank in range(num_ranks)]
        assert [sum(len(block.rows) for block in blocks) for blocks in found] == rows
