"""The table of a model's tensors: what follows from it, and that what trains is what it says; families, which name them."""

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fanal.errors import UserError
from pretrain.config.model_rules import model_problem
from pretrain.config.schema import DataConfig, ModelConfig, OptimConfig, ParallelConfig, RunConfig, TrainConfig
from pretrain.convert.ours.model import OurModel
from pretrain.convert.ours.names import hf_tensors, our_shapes
from pretrain.model import families, inference
from pretrain.model.embedding import scaled_embedding
from pretrain.model.families import FAMILIES, family_of
from pretrain.model.families.family import ANY_FIELDS, Family
from pretrain.model.families.llama import LLAMA
from pretrain.model.families.mistral import MISTRAL
from pretrain.model.families.sizes import checkpoint_bytes, num_parameters, product_weights
from pretrain.model.families.table import FEED_FORWARD_INPUT, Part, Table, TensorSpec, part_name
from pretrain.model.families.tensors import table_of, tensors_of
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


FEATURES: dict[str, dict[str, Any]] = {
    "biases": {"add_qkv_bias": True},
    "norms of heads": {"qk_layernorm": True, "kv_channels": 4},
    "norms of all heads, after each part": {
        "qk_layernorm": True, "qk_layernorm_scope": "full", "norm_placement": "after", "sliding_window": 3,
        "full_attention_layer_interval": 2, "rotary_scaling": "yarn", "rotary_scaling_factor": 8.0,
        "rotary_scaling_original_length": 4,
    },
    "xielu": {"activation": "xielu"},
    "layer norm, squared relu, half of each head": {
        "activation": "squared_relu", "normalization": "LayerNorm", "layernorm_zero_centered_gamma": True, "kv_channels": 4,
        "rotary_percent": 0.5,
    },
    "layer norm after each part, no zero": {"normalization": "LayerNorm", "norm_placement": "after"},
    "four norms, caps, scales, a base of local layers": {
        "activation": "geglu", "kv_channels": 4, "embedding_scale": "sqrt_hidden_size", "layernorm_zero_centered_gamma": True,
        "norm_placement": "both", "qk_layernorm": True, "sliding_window": 2, "full_attention_layer_interval": 2,
        "local_rotary_base": 50.0, "query_pre_attention_scalar": 3.0, "attention_logit_softcap": 0.5, "final_logit_softcap": 1.0,
    },
    "a window in every layer": {"sliding_window": 2},
}  # fmt: skip
"""What a model may have, in combinations; some of them no class of transformers computes."""


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


def known(model: ModelConfig) -> bool:
    """Whether a class of transformers computes a model."""
    return any(not family.problems(model, families.off_default(model)) for family in FAMILIES)


MODELS = {"untied": MODEL, "tied": TIED, **{name: replace(MODEL, **changes) for name, changes in FEATURES.items()}}
EXPORTED = {name: model for name, model in MODELS.items() if known(model)}


def test_some_models_of_these_tests_have_a_class_and_some_have_none() -> None:
    assert 4 <= len(EXPORTED) < len(MODELS)


@pytest.mark.parametrize("model", EXPORTED.values(), ids=EXPORTED)
def test_the_tensors_of_an_export_hold_every_number_of_ours_once(model: ModelConfig) -> None:
    seen = {name: np.zeros(shape, int) for name, shape in our_shapes(model).items()}
    for tensor in hf_tensors(model, vocab_size=130):
        for box in tensor.boxes:
            seen[tensor.tensor][tuple(slice(a, a + n) for a, n in zip(box.offset, box.size, strict=True))] += 1
    for name, times in seen.items():
        padding = tensors_of(model)[name].padding_rows
        assert (times[: len(times) - padding] == 1).all() and not times[len(times) - padding :].any(), name


def test_every_field_of_a_model_is_used_by_a_family() -> None:
    used = ANY_FIELDS.union(*(family.fields | set(family.fixed) for family in FAMILIES))
    assert {field.name for field in fields(ModelConfig)} == used


def test_a_model_that_no_class_computes_is_refused_by_name_and_what_the_message_says_works() -> None:
    model = replace(MODEL, qk_layernorm=True, no_rope_layer_interval=2)
    with pytest.raises(
        UserError,
        match=r"no class of transformers .*: Qwen3ForCausalLM comes nearest.*no_rope_layer_interval \(2; there null\)",
    ):
        family_of(model)
    assert family_of(replace(model, no_rope_layer_interval=None)).title == "Qwen3"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.title)
def test_a_family_names_every_tensor_of_its_models(family: Family) -> None:
    model = replace(MODEL, **family.fixed)
    assert not family.problems(model, families.off_default(model))
    names = {part_name(spec.name, part) for spec in every_spec(model) for part in spec.parts}
    assert names <= set(family.names), names - set(family.names)


def every_spec(model: ModelConfig) -> tuple[TensorSpec, ...]:
    table = table_of(model)
    return (*table.first, *table.layer, *table.last)


def test_mistral_without_a_window_is_exported_as_llama() -> None:
    assert MISTRAL in FAMILIES and family_of(MODEL) is LLAMA and family_of(replace(MODEL, sliding_window=8)) is MISTRAL


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_trained_parameters_are_those_of_the_table(model: ModelConfig, world: World) -> None:
    replicas = build_model(run_of(model), world)
    found = {name: tuple(p.shape) for name, p in global_named_parameters(unwrap(replicas)[0])}
    assert found == our_shapes(model) and list(found) == list(our_shapes(model))
    optimizer = build_optimizer(run_of(model), replicas)
    decayed = {id(p): group["wd_mult"] == 1.0 for group in optimizer.param_groups for p in group["params"]}
    for placement in place_parameters(replicas, world):
        assert decayed[id(placement.parameter)] == tensors_of(model)[placement.name].is_matrix, placement.name


@pytest.mark.parametrize("changes", [{"split_dim": None}, {"shape": (16, 8)}], ids=["split", "shape"])
def test_a_table_that_says_otherwise_than_megatron_is_found(changes: dict[str, Any], world: World) -> None:
    replicas = build_model(run_of(MODEL), world)
    (chunk,) = unwrap(replicas)
    name = f"decoder.layers.1.{FEED_FORWARD_INPUT}"
    chunk.specs = chunk.specs | {name: replace(chunk.specs[name], **changes)}
    with pytest.raises(AssertionError, match=f"{name} (is split otherwise|has shape)"):
        place_parameters(replicas, world)


def test_norms_of_heads_are_two_more_rows_and_everything_follows() -> None:
    model = replace(MODEL, qk_layernorm=True)
    assert num_parameters(model) == 2 * (LAYER + 4) + 8 + 2 * 130 * 8
    assert product_weights(model) == 2 * (LAYER - 16) + 130 * 8
    assert our_shapes(model)["decoder.layers.1.self_attention.k_layernorm.weight"] == (2,)
    assert "model.layers.0.self_attn.q_norm.weight" in {tensor.name for tensor in hf_tensors(model, vocab_size=130)}


def test_a_feed_forward_without_a_gate_has_one_matrix_less() -> None:
    model = replace(MODEL, activation="squared_relu")
    assert num_parameters(model) == 2 * (LAYER - 128) + 8 + 2 * 130 * 8
    assert num_parameters(replace(model, activation="xielu")) == num_parameters(model) + 2 * 2


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


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_layers_that_train_and_the_decoder_compute_the_same(model: ModelConfig, world: World) -> None:
    ids, weights = np.arange(7) * 5, Weights(model)
    trained, decoded = logits_of(model, weights, ids)
    torch.testing.assert_close(trained, decoded, rtol=1e-5, atol=1e-5)


def without(name: str, field: str) -> ModelConfig | None:
    """One of the models with a field at its default; None where another field needs it."""
    changed = replace(MODELS[name], **{field: getattr(MODEL, field)})
    return None if model_problem(changed) else changed


ONE_BY_ONE = [
    (name, field)
    for name, changes in FEATURES.items()
    for field in changes
    if field != "kv_channels" and without(name, field) is not None
]


@pytest.mark.parametrize(("name", "field"), ONE_BY_ONE, ids=[f"{name}: {field}" for name, field in ONE_BY_ONE])
def test_each_field_of_a_feature_changes_what_is_computed_on_both_sides(name: str, field: str, world: World) -> None:
    """Left at its default, it gives other logits: in the layers that train, and in the decoder."""
    model, plain = MODELS[name], without(name, field)
    assert plain is not None, "ONE_BY_ONE has no such case"
    ids, weights, others = np.arange(7) * 5, Weights(model), Weights(plain)
    others.values |= {
        name: values for name, values in weights.values.items() if our_shapes(plain).get(name) == values.shape
    }
    before, after = logits_of(model, weights, ids), logits_of(plain, others, ids)
    for one, other in zip(before, after, strict=True):
        assert (one - other).abs().max() > 1e-3, "it must take part on both sides"


def test_the_decoder_refuses_a_tensor_that_it_does_not_compute_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_bias(model: ModelConfig) -> Table:
        table = table_of(model)
        bias = TensorSpec(name="mlp.linear_fc1.bias", shape=(16,), parts=(Part(rows=(range(16),)),))
        return replace(table, layer=(*table.layer, bias))

    monkeypatch.setattr(inference, "table_of", with_a_bias)
    with pytest.raises(AssertionError, match=r"linear_fc1\.bias"):
        InferenceDecoder(
            MODEL, lambda name: np.zeros((1, 1)), vocab_size=1, device=torch.device("cpu"), dtype=torch.float32
        )


def test_an_embedding_is_scaled_by_the_factor_of_its_type_as_gemma_s_is() -> None:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2TextScaledWordEmbedding

    model = replace(MODEL, hidden_size=1152, embedding_scale="sqrt_hidden_size")
    theirs = Gemma2TextScaledWordEmbedding(130, 1152, 0, embed_scale=1152**0.5)
    for dtype in (torch.float32, torch.bfloat16):
        theirs = theirs.to(dtype)
        embedded = theirs.weight.detach()[:4]
        assert torch.equal(scaled_embedding(embedded, model), theirs(torch.arange(4)).detach()), dtype
    assert not torch.equal(scaled_embedding(embedded, model), embedded * 1152**0.5), "bf16 tells the two apart"


def test_counting_parameters_takes_no_torch() -> None:
    code = "import sys, pretrain.model.families.sizes; print([m for m in ('torch', 'megatron') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout == "[]\n"
