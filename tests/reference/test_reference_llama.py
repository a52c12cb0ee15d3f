"""The reference Llama against values derived by hand, its own definition of causality, and finite differences.

Shapes: b batch, s sequence, h hidden, n heads, g query groups, d head size, v vocabulary.
"""

import dataclasses
import functools
import math

import pytest
import torch
from torch import Tensor

from fanal.kernels.reference import causal_grouped_attention, rotary_embedding
from tests.reference.llama import (
    DecoderLayer,
    LlamaShape,
    ReferenceLlama,
    gradients_by_megatron_name,
    rotate,
    train_reference,
    weights_by_megatron_name,
)

SHAPE = LlamaShape(
    num_layers=2,
    hidden_size=24,
    ffn_hidden_size=20,
    num_attention_heads=4,
    num_query_groups=2,
    kv_channels=8,  # n * d = 32, which is not h: a mix-up of the two cannot pass
    vocab_size=13,
    rotary_base=100.0,
    layernorm_epsilon=1e-5,
    tied=False,
)

train = functools.partial(train_reference, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, clip_grad=1.0)


def random_weights(shape: LlamaShape, padded_vocab_size: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Full weights under megatron-core's names, each with its own values; norms near one."""
    generator = torch.Generator().manual_seed(1)
    hidden, heads = shape.hidden_size, shape.num_attention_heads * shape.kv_channels
    qkv_rows = heads + 2 * shape.num_query_groups * shape.kv_channels
    sizes = {
        "embedding.word_embeddings.weight": (padded_vocab_size, hidden),
        "decoder.final_layernorm.weight": (hidden,),
    }
    for i in range(shape.num_layers):
        sizes[f"decoder.layers.{i}.input_layernorm.weight"] = (hidden,)
        sizes[f"decoder.layers.{i}.self_attention.linear_qkv.weight"] = (qkv_rows, hidden)
        sizes[f"decoder.layers.{i}.self_attention.linear_proj.weight"] = (hidden, heads)
        sizes[f"decoder.layers.{i}.pre_mlp_layernorm.weight"] = (hidden,)
        sizes[f"decoder.layers.{i}.mlp.linear_fc1.weight"] = (2 * shape.ffn_hidden_size, hidden)
        sizes[f"decoder.layers.{i}.mlp.linear_fc2.weight"] = (hidden, shape.ffn_hidden_size)
    if not shape.tied:
        sizes["output_layer.weight"] = (padded_vocab_size, hidden)
    return {
        name: (0.3 * torch.randn(size, generator=generator) + (1.0 if len(size) == 1 else 0.0)).to(dtype)
        for name, size in sizes.items()
    }


def layer(model: ReferenceLlama, index: int) -> DecoderLayer:
    found = model.layers[index]
    assert isinstance(found, DecoderLayer), f"layer {index} is a {type(found).__name__}"
    return found


def random_batch(seed: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens, labels = torch.randint(SHAPE.vocab_size, (2, 3, 7), generator=generator)  # each [b, s] = [3, 7]
    loss_mask = torch.ones(3, 7)
    loss_mask[1, 4:] = 0.0
    return tokens, labels, loss_mask


@pytest.mark.parametrize("tied", [False, True])
def test_weights_survive_loading_and_padding_rows_are_dropped(tied: bool) -> None:
    shape = dataclasses.replace(SHAPE, tied=tied)
    weights = random_weights(shape, padded_vocab_size=16)
    model = ReferenceLlama(shape, weights)
    assert model(random_batch()[0]).shape == (3, 7, 13)
    reread = weights_by_megatron_name(model)
    assert reread.keys() == weights.keys()
    for name, weight in reread.items():
        assert torch.equal(weight, weights[name][: weight.shape[0]]), name


def test_fused_rows_go_to_the_projection_that_megatron_means() -> None:
    weights = random_weights(SHAPE, padded_vocab_size=13)
    loaded = layer(ReferenceLlama(SHAPE, weights), 1)
    attention, mlp = loaded.self_attn, loaded.mlp
    qkv = weights["decoder.layers.1.self_attention.linear_qkv.weight"]  # (2 q heads, k, v) of group 0, then of group 1
    assert torch.equal(attention.q_proj.weight, torch.cat([qkv[0:16], qkv[32:48]]))
    assert torch.equal(attention.k_proj.weight, torch.cat([qkv[16:24], qkv[48:56]]))
    assert torch.equal(attention.v_proj.weight, torch.cat([qkv[24:32], qkv[56:64]]))
    assert torch.equal(mlp.gate_proj.weight, weights["decoder.layers.1.mlp.linear_fc1.weight"][:20])
    assert torch.equal(mlp.up_proj.weight, weights["decoder.layers.1.mlp.linear_fc1.weight"][20:])


def test_weights_that_do_not_fit_are_refused_with_their_names() -> None:
    weights = random_weights(SHAPE, padded_vocab_size=13)
    with pytest.raises(ValueError, match=r"missing \[\], unknown \['output_layer.weight'\]"):
        ReferenceLlama(dataclasses.replace(SHAPE, tied=True), weights)
    with pytest.raises(ValueError, match=r"embedding.word_embeddings.weight is \(12, 24\).*must be \(13, 24\)"):
        ReferenceLlama(SHAPE, weights | {"embedding.word_embeddings.weight": torch.zeros(12, 24)})


def test_a_token_changes_the_logits_at_and_after_its_place_only() -> None:
    model = ReferenceLlama(SHAPE, random_weights(SHAPE, padded_vocab_size=13))
    tokens = random_batch()[0]
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % SHAPE.vocab_size
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert all((before[:, t] - after[:, t]).abs().max() > 1e-3 for t in range(4, 7))


def test_one_head_of_two_channels_gives_the_numbers_worked_out_on_paper() -> None:
    # h = d = 2, one head, no MLP contribution. Embeddings (1, 0) and (0, 1) have rms sqrt(1/2), so the norm gives
    # (sqrt 2, 0) and (0, sqrt 2). q, k, v and the projection are the identity. One pair of channels turns by p radians.
    # Position 1 (token 1) against position 0 (token 0): q = sqrt2 * (-sin 1, cos 1), k = sqrt2 * (1, 0): score -2 sin 1
    # / sqrt 2; against itself: 2 / sqrt 2. With p = softmax, the residual at position 1 is (sqrt2 p0, 1 + sqrt2 p1).
    shape = LlamaShape(
        num_layers=1,
        hidden_size=2,
        ffn_hidden_size=1,
        num_attention_heads=1,
        num_query_groups=1,
        kv_channels=2,
        vocab_size=2,
        rotary_base=10_000.0,
        layernorm_epsilon=0.0,
        tied=False,
    )
    eye, one = torch.eye(2), torch.ones(2)
    weights = {
        "embedding.word_embeddings.weight": eye,
        "decoder.layers.0.input_layernorm.weight": one,
        "decoder.layers.0.self_attention.linear_qkv.weight": torch.cat([eye, eye, eye]),
        "decoder.layers.0.self_attention.linear_proj.weight": eye,
        "decoder.layers.0.pre_mlp_layernorm.weight": one,
        "decoder.layers.0.mlp.linear_fc1.weight": torch.ones(2, 2),
        "decoder.layers.0.mlp.linear_fc2.weight": torch.zeros(2, 1),
        "decoder.final_layernorm.weight": one,
        "output_layer.weight": eye,
    }
    logits = ReferenceLlama(shape, weights)(torch.tensor([[0, 1]]))
    root = math.sqrt(2.0)
    p1 = 1 / (1 + math.exp(-root * math.sin(1.0) - root))
    x = (root * (1 - p1), 1 + root * p1)
    rms = math.sqrt((x[0] ** 2 + x[1] ** 2) / 2)
    expected = torch.tensor([[[root, 0.0], [x[0] / rms, x[1] / rms]]])
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


def test_attention_equals_the_kernels_definition_and_interleaved_groups_would_not() -> None:
    weights = random_weights(SHAPE, padded_vocab_size=13)
    x = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(5))  # [b, s, h]
    ours = layer(ReferenceLlama(SHAPE, weights), 0).self_attn(x)

    fused = x.transpose(0, 1) @ weights["decoder.layers.0.self_attention.linear_qkv.weight"].T  # [s, b, (n + 2g) * d]
    query, key, value = fused.view(7, 3, 2, 4, 8).split([2, 1, 1], dim=3)  # [s, b, g, heads of the group, d]
    query, key = rotary_embedding(query.reshape(7, 3, 4, 8), 100.0), rotary_embedding(key[:, :, :, 0], 100.0)

    def projected(key: Tensor, value: Tensor) -> Tensor:
        context = causal_grouped_attention(query, key, value).transpose(0, 1)  # [b, s, n * d]
        return context @ weights["decoder.layers.0.self_attention.linear_proj.weight"].T

    torch.testing.assert_close(ours, projected(key, value[:, :, :, 0]), rtol=1e-5, atol=1e-5)
    interleaved = [tensor.repeat(1, 1, 2, 1) for tensor in (key, value[:, :, :, 0])]  # head j reads group j % g
    assert (ours - projected(*interleaved)).abs().max() > 0.1


def test_swiglu_gates_the_first_half_of_fc1() -> None:
    mlp = layer(ReferenceLlama(SHAPE, random_weights(SHAPE, padded_vocab_size=13)), 0).mlp
    with torch.no_grad():
        mlp.gate_proj.weight.zero_()
    assert torch.count_nonzero(mlp(torch.ones(1, 1, 24))) == 0  # silu(0) = 0 closes the gate whatever "up" says


def test_rotated_scores_depend_on_the_distance_alone() -> None:
    query, key = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(3)).expand(2, 1, 1, 6, 8)
    scores = (rotate(query, 100.0) @ rotate(key, 100.0).transpose(-1, -2))[0, 0]  # the same q and k at 6 positions
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1], rtol=1e-5, atol=1e-5)
    assert (scores[1:, 0] - scores[:-1, 0]).abs().min() > 1e-3


@pytest.mark.parametrize("tied", [False, True])
def test_gradient_of_every_parameter_is_the_slope_of_the_loss(tied: bool) -> None:
    shape = dataclasses.replace(SHAPE, tied=tied)
    weights = random_weights(shape, padded_vocab_size=13, dtype=torch.float64)
    batch = random_batch()
    model = ReferenceLlama(shape, weights, dtype=torch.float64)
    model.loss(*batch)[0].backward()
    generator = torch.Generator().manual_seed(4)
    for name, gradient in gradients_by_megatron_name(model).items():
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        ends = [
            ReferenceLlama(shape, weights | {name: moved}, dtype=torch.float64).loss(*batch)[0]
            for moved in (weights[name] + 1e-5 * direction, weights[name] - 1e-5 * direction)
        ]
        slope = ((ends[0] - ends[1]) / 2e-5).item()
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-6, abs=1e-7), name


def test_loss_is_the_masked_sum_and_its_count() -> None:
    tokens, labels, loss_mask = random_batch()
    weights = random_weights(SHAPE, padded_vocab_size=13)
    uniform = ReferenceLlama(SHAPE, weights | {"output_layer.weight": torch.zeros(13, 24)})
    total, count = uniform.loss(tokens, labels, loss_mask)
    assert count.item() == 18
    assert total.item() == pytest.approx(18 * math.log(13), rel=1e-6)


def test_first_step_moves_by_the_learning_rate_and_decays_matrices_only() -> None:
    # Adam's first step, bias corrected, is g / (|g| + eps): with eps far below |g|, the sign of the gradient.
    weights = random_weights(SHAPE, padded_vocab_size=13, dtype=torch.float64)
    model = ReferenceLlama(SHAPE, weights, dtype=torch.float64)
    train(model, [random_batch()], [0.01], eps=1e-15, clip_grad=0.0)
    gradients = gradients_by_megatron_name(model)  # still those of the step, since nothing was clipped
    for name, weight in weights_by_megatron_name(model).items():
        decay = 0.1 if weight.dim() > 1 else 0.0
        expected = weights[name] - 0.01 * (decay * weights[name] + gradients[name].sign())
        touched = gradients[name].abs() > 1e-9  # an embedding row without a token has no gradient
        torch.testing.assert_close(weight[touched], expected[touched], rtol=1e-5, atol=1e-8, msg=name)


@pytest.mark.parametrize(("clip_grad", "clipped"), [(0.1, True), (1e6, False), (0.0, False)])
def test_gradients_are_scaled_to_the_bound_only_when_they_exceed_it(clip_grad: float, clipped: bool) -> None:
    model = ReferenceLlama(SHAPE, random_weights(SHAPE, padded_vocab_size=13))
    [(_, norm)] = train(model, [random_batch()], [0.01], clip_grad=clip_grad)
    left = math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients_by_megatron_name(model).values()))
    assert norm > 0.1
    assert left == pytest.approx(clip_grad * norm / (norm + 1e-6) if clipped else norm, rel=1e-5)


def test_training_lowers_the_loss_and_needs_a_learning_rate_per_batch() -> None:
    model = ReferenceLlama(SHAPE, random_weights(SHAPE, padded_vocab_size=13))
    history = train(model, [random_batch()] * 20, [0.01] * 20)
    assert history[-1][0] < 0.7 * history[0][0]
    with pytest.raises(ValueError, match="zip"):
        train(model, [random_batch()] * 2, [0.01])
