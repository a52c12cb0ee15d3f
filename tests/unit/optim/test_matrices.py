"""Which matrices Muon orthogonalizes, where a rank has its share of them, and who does which."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pretrain.config.schema import ModelConfig, OptimConfig
from pretrain.model.families.table import TensorSpec
from pretrain.model.families.tensors import tensors_of
from pretrain.optim.matrices import Matrix, matrices_of, rounds_of, scale_of
from pretrain.optim.registry import checkpoint_states_of, num_states

MODEL = ModelConfig(
    num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=8, num_query_groups=4, kv_channels=4,
    vocab_size=100, make_vocab_size_divisible_by=8, qk_layernorm=True, add_qkv_bias=True,
)  # fmt: skip
MUON = OptimConfig(name="muon", lr=0.1)


def all_of(model: ModelConfig, num_ranks: int = 1) -> dict[str, Matrix]:
    found = [matrix for spec in tensors_of(model).values() for matrix in matrices_of(spec, num_ranks=num_ranks)]
    assert len({matrix.name for matrix in found}) == len(found)
    return {matrix.name: matrix for matrix in found}


def test_queries_keys_values_gate_and_up_are_matrices_of_their_own_and_ends_norms_and_biases_are_none() -> None:
    shapes = {name.removeprefix("decoder.layers.1."): matrix.shape for name, matrix in all_of(MODEL).items()}
    assert {name: shape for name, shape in shapes.items() if "layers" not in name} == {
        "self_attention.linear_qkv.weight/query": (32, 32),
        "self_attention.linear_qkv.weight/key": (16, 32),
        "self_attention.linear_qkv.weight/value": (16, 32),
        "self_attention.linear_proj.weight": (32, 32),
        "mlp.linear_fc1.weight/gate": (48, 32),
        "mlp.linear_fc1.weight/up": (48, 32),
        "mlp.linear_fc2.weight": (32, 48),
    }
    assert len(shapes) == 14


@pytest.mark.parametrize("change", [{"activation": "squared_relu"}, {"activation": "xielu"}], ids=str)
def test_a_feed_forward_without_a_gate_has_one_matrix_at_its_input(change: dict[str, Any]) -> None:
    found = all_of(replace(MODEL, **change))
    assert found["decoder.layers.0.mlp.linear_fc1.weight/up"].shape == (48, 32)
    assert not any("gate" in name or "alpha" in name for name in found)


def share_of(spec: TensorSpec, whole: torch.Tensor, rank: int, num_ranks: int) -> torch.Tensor:
    """A rank's tensor: of every section its rows, or its columns."""
    if spec.split_dim != 0:
        return whole if spec.split_dim is None else whole.chunk(num_ranks, dim=1)[rank]
    if (
        num_ranks == 8 and "linear_qkv" in spec.name
    ):  # of each of four groups two query heads, a key and a value: [4, 4, 4, h]
        heads = whole.view(4, 4, 4, -1)[rank // 2]
        return torch.cat([heads[rank % 2], heads[2], heads[3]])
    return torch.cat([section.chunk(num_ranks)[rank] for section in whole.chunk(len(spec.seed_names))])


@pytest.mark.parametrize("num_ranks", [1, 2, 4, 8])
def test_the_rows_of_the_ranks_are_together_the_matrix(num_ranks: int) -> None:
    for spec in tensors_of(MODEL).values():
        for matrix, part in zip(matrices_of(spec, num_ranks=num_ranks), spec.parts, strict=False):
            whole = torch.arange(spec.shape[0] * spec.shape[1]).view(spec.shape)
            shares = [share_of(spec, whole, rank, num_ranks) for rank in range(num_ranks)]
            tiles = [torch.cat([share[rows.start : rows.stop] for rows in matrix.blocks]) for share in shares]
            expected = torch.cat([whole[rows.start : rows.stop] for rows in part.rows])
            assert matrix.shape == tuple(expected.shape)
            assert matrix.num_holders == (2 if num_ranks == 8 and matrix.name.endswith(("key", "value")) else 1)
            counted = tiles[:: matrix.num_holders]
            assert torch.equal(torch.cat(counted, dim=matrix.split_dim or 0), expected), matrix.name


def test_rows_that_ranks_would_put_together_in_another_order_are_an_error_of_ours() -> None:
    spec = tensors_of(MODEL)["decoder.layers.0.mlp.linear_fc1.weight"]
    with pytest.raises(AssertionError, match="not in its order"):
        matrices_of(replace(spec, parts=(replace(spec.parts[0], rows=(range(96),)),)), num_ranks=2)


def test_every_matrix_has_one_rank_and_no_rank_two_in_a_round() -> None:
    matrices = list(all_of(MODEL).values())
    rounds = rounds_of(reversed(matrices), num_ranks=4)
    assert [len(together) for together in rounds] == [4, 4, 4, 2]
    assert sorted(matrix.name for together in rounds for matrix in together) == sorted(m.name for m in matrices)
    assert rounds == rounds_of(matrices, num_ranks=4), "every rank comes to the same, whatever its order"
    costs = [matrix.flops(5) for together in rounds for matrix in together]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16)], ids=str)
def test_the_scale_rms_gives_every_shape_the_same_root_mean_square(shape: tuple[int, int]) -> None:
    orthogonal = torch.linalg.qr(torch.randn(max(shape), min(shape), generator=torch.Generator().manual_seed(1)))[0]
    update = (orthogonal if shape[0] >= shape[1] else orthogonal.mT) * scale_of(shape, "rms")
    assert float(update.square().mean().sqrt()) == pytest.approx(0.2, rel=1e-5)


def test_the_scale_spectral_is_that_of_its_authors() -> None:
    assert [scale_of(shape, "spectral") for shape in ((32, 32), (16, 64), (64, 16))] == [1.0, 1.0, 2.0]


def test_a_second_moment_is_kept_and_counted_where_adamw_updates_alone() -> None:
    specs = tensors_of(MODEL)
    kept = {name: checkpoint_states_of(MUON, spec) for name, spec in specs.items()}
    assert (
        kept["embedding.word_embeddings.weight"]
        == kept["decoder.final_layernorm.weight"]
        == ("param", "exp_avg", "exp_avg_sq")
    )
    assert kept["decoder.layers.0.mlp.linear_fc2.weight"] == ("param", "exp_avg")
    count = num_states(MUON)
    assert all(count(spec) == len(kept[name]) for name, spec in specs.items())
    assert all(num_states(replace(MUON, name="adamw"))(spec) == 3 for spec in specs.values())
