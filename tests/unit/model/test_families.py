"""A family's table: what follows from it, and that what trains is what it says."""

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.config.schema import DataConfig, ModelConfig, OptimConfig, ParallelConfig, RunConfig, TrainConfig
from pretrain.convert.ours.model import OurModel
from pretrain.convert.ours.names import hf_tensors, our_shapes
from pretrain.model import families
from pretrain.model.families import FAMILIES, family_of, tensors_of
from pretrain.model.families.family import Family
from pretrain.model.families.llama import LLAMA
from pretrain.model.families.mistral import MISTRAL
from pretrain.model.families.sizes import checkpoint_bytes, num_parameters, product_weights
from pretrain.model.families.table import GATE_AND_UP, INPUT_NORM, KEY_NORM, QUERY_NORM, Table, norm
from pretrain.model.gpt import build_model, unwrap
from pretrain.model.inference import InferenceDecoder
from pretrain.model.initialize import global_named_parameters
from pretrain.model.placement import place_parameters
from pretrain.optim.optimizer import build_optimizer
from pretrain.parallel.world import World

MODEL = ModelConfig(
    num_layers=2, hidden_size=8, ffn_hidden_size=16, num_attention_heads=4, num_query_groups=2, vocab_size=130
)
TIED = replace(MODEL, share_embeddings_and_output_weights=True)
LAYER = 64 + 64 + 64 + 3 * 128 + 16
"""query 8x8, key and value 4x8 each, projection 8x8; gate, up, down 16x8; two norms of 8."""


def head_normed(model: ModelConfig) -> Table:
    """Llama's table with a norm over each query head and each key head."""
    llama = LLAMA.table(model)
    added = (
        norm(QUERY_NORM, 2, hf="self_attn.q_norm.weight"),
        norm(KEY_NORM, 2, hf="self_attn.k_norm.weight"),
    )
    return replace(llama, layer=(*llama.layer, *added))


@pytest.fixture
def normed(monkeypatch: pytest.MonkeyPatch) -> Family:
    """A family that nobody wrote code for: a table alone."""
    family = replace(LLAMA, title="Normed", table=head_normed)
    monkeypatch.setattr(families, "FAMILIES", (family,))
    return family


def run_of(model: ModelConfig) -> RunConfig:
    return RunConfig(
        run_dir="", model=model, data=DataConfig(tokenizer="", seq_length=8),
        parallel=ParallelConfig(device="cpu", use_distributed_optimizer=False), optim=OptimConfig(lr=0.1),
        train=TrainConfig(train_steps=1, global_batch_size=1, micro_batch_size=1, precision="fp32"),
    )  # fmt: skip


def test_parameters_are_counted_by_hand() -> None:
    assert num_parameters(MODEL) == 2 * LAYER + 8 + 2 * 130 * 8
    assert num_parameters(TIED) == 2 * LAYER + 8 + 130 * 8


def test_a_checkpoint_holds_three_numbers_for_each_and_for_the_padding() -> None:
    assert checkpoint_bytes(MODEL, num_states=3) == 12 * (2 * LAYER + 8 + 2 * 256 * 8)
    assert checkpoint_bytes(TIED, num_states=3) == 12 * (2 * LAYER + 8 + 256 * 8)


def test_products_are_made_with_matrices_and_with_the_embedding_as_output_alone() -> None:
    assert product_weights(MODEL) == product_weights(TIED) == 2 * (LAYER - 16) + 130 * 8


@pytest.mark.parametrize("model", [MODEL, TIED], ids=["untied", "tied"])
def test_the_tensors_of_an_export_hold_every_number_of_ours_once(model: ModelConfig) -> None:
    seen = {name: np.zeros(shape, int) for name, shape in our_shapes(model).items()}
    for tensor in hf_tensors(model, vocab_size=130):
        for box in tensor.boxes:
            seen[tensor.tensor][tuple(slice(a, a + n) for a, n in zip(box.offset, box.size, strict=True))] += 1
    for name, times in seen.items():
        padding = tensors_of(model)[name].padding_rows
        assert (times[: len(times) - padding] == 1).all() and not times[len(times) - padding :].any(), name


def test_every_field_of_a_model_is_used_by_a_family() -> None:
    used = frozenset[str]().union(*(family.fields for family in FAMILIES))
    assert {field.name for field in fields(ModelConfig)} == used


def test_a_model_that_no_family_computes_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", (replace(LLAMA, fields=LLAMA.fields - {"kv_channels"}),))
    assert family_of(MODEL).title == "Llama"
    with pytest.raises(ValueError, match=r"no family of models uses model\.kv_channels \(4\)"):
        family_of(replace(MODEL, kv_channels=4))


def test_what_is_imported_as_mistral_is_exported_as_llama() -> None:
    assert MISTRAL in FAMILIES and family_of(MODEL) is LLAMA


@pytest.mark.parametrize("model", [MODEL, TIED], ids=["untied", "tied"])
def test_the_trained_parameters_are_those_of_the_table(model: ModelConfig, world: World) -> None:
    replicas = build_model(run_of(model), world)
    found = {name: tuple(p.shape) for name, p in global_named_parameters(unwrap(replicas)[0])}
    assert found == our_shapes(model)
    optimizer = build_optimizer(run_of(model), replicas)
    decayed = {id(p): group["wd_mult"] == 1.0 for group in optimizer.param_groups for p in group["params"]}
    for placement in place_parameters(replicas, world):
        assert decayed[id(placement.parameter)] == tensors_of(model)[placement.name].is_matrix, placement.name


@pytest.mark.parametrize("changes", [{"split_dim": None}, {"shape": (16, 8)}], ids=["split", "shape"])
def test_a_table_that_says_otherwise_than_megatron_is_found(changes: dict[str, Any], world: World) -> None:
    replicas = build_model(run_of(MODEL), world)
    (chunk,) = unwrap(replicas)
    name = f"decoder.layers.1.{GATE_AND_UP}"
    chunk.specs = chunk.specs | {name: replace(chunk.specs[name], **changes)}
    with pytest.raises(AssertionError, match=f"{name} (is split otherwise|has shape)"):
        place_parameters(replicas, world)


def test_a_norm_is_one_more_row_and_everything_follows(normed: Family) -> None:
    assert num_parameters(MODEL) == 2 * (LAYER + 4) + 8 + 2 * 130 * 8
    assert product_weights(MODEL) == 2 * (LAYER - 16) + 130 * 8
    assert our_shapes(MODEL)["decoder.layers.1.self_attention.k_layernorm.weight"] == (2,)
    assert "model.layers.0.self_attn.q_norm.weight" in {tensor.name for tensor in hf_tensors(MODEL, vocab_size=130)}


class Weights:
    """A checkpoint's reader, of random values."""

    def __init__(self, model: ModelConfig) -> None:
        generator = np.random.default_rng(3)
        self.values = {
            name: generator.normal(len(shape) == 1, 0.4, shape).astype(np.float32)
            for name, shape in our_shapes(model).items()
        }

    def read(self, name: str, _state: str, box: Any, out: np.ndarray) -> None:
        out[...] = self.values[name][tuple(slice(a, a + n) for a, n in zip(box.offset, box.size, strict=True))]


def logits_of(model: ModelConfig, weights: Weights, ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The layers that train, and the decoder for looking at a model."""
    ours = OurModel(weights, model, vocab_size=130, dtype="float32")  # type: ignore[arg-type]
    for _ in ours.points([ids]):
        pass
    decoder = InferenceDecoder(
        model, weights.values.__getitem__, vocab_size=130, device=torch.device("cpu"), dtype=torch.float32
    )
    return ours.logits(0, slice(None)), decoder.logits(torch.from_numpy(ids)[None])[0]


def test_the_layers_that_train_and_the_decoder_compute_with_the_same_norms(normed: Family, world: World) -> None:
    ids, weights = np.arange(7) * 5, Weights(MODEL)
    trained, decoded = logits_of(MODEL, weights, ids)
    torch.testing.assert_close(trained, decoded, rtol=1e-5, atol=1e-5)
    weights.values[f"decoder.layers.1.{QUERY_NORM}"] *= -1
    for changed, before in zip(logits_of(MODEL, weights, ids), (trained, decoded), strict=True):
        assert (changed - before).abs().max() > 1e-3, "the norm must take part on both sides"


def test_a_place_without_a_norm_lets_its_input_through(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    def without(model: ModelConfig) -> Table:
        table = LLAMA.table(model)
        return replace(table, layer=tuple(spec for spec in table.layer if spec.name != INPUT_NORM))

    monkeypatch.setattr(families, "FAMILIES", (replace(LLAMA, table=without),))
    trained, decoded = logits_of(MODEL, Weights(MODEL), np.arange(7))
    torch.testing.assert_close(trained, decoded, rtol=1e-5, atol=1e-5)


def test_the_decoder_refuses_a_tensor_that_it_does_not_compute_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_bias(model: ModelConfig) -> Table:
        table = LLAMA.table(model)
        return replace(table, layer=(*table.layer, norm("mlp.linear_fc1.bias", 16, hf="b")))

    monkeypatch.setattr(families, "FAMILIES", (replace(LLAMA, table=with_a_bias),))
    with pytest.raises(AssertionError, match=r"linear_fc1\.bias"):
        InferenceDecoder(
            MODEL, lambda name: np.zeros((1, 1)), vocab_size=1, device=torch.device("cpu"), dtype=torch.float32
        )


def test_counting_parameters_takes_no_torch() -> None:
    code = "import sys, pretrain.model.families.sizes; print([m for m in ('torch', 'megatron') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout == "[]\n"
