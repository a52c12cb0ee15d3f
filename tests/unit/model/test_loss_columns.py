"""The loss is that of the tokenizer's tokens: no other row of the vocabulary takes part, whatever the config counts."""

import torch

from pretrain.config.derive import num_tokens
from pretrain.model.gpt import build_model, unwrap
from pretrain.parallel.world import World
from tests.unit.model.test_families import MODEL, run_of

TOKENS = 100


def loss_and_gradient(world: World, tokens: int | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The losses of one row of labels, the gradient of the logits, and the logits as they were: [1, s], [s, 1, v] twice."""
    (chunk,) = unwrap(build_model(run_of(MODEL), world, tokenizer_vocab_size=tokens))
    values = torch.randn(8, 1, 256, generator=torch.Generator().manual_seed(0))
    logits = values.clone().requires_grad_()
    labels = torch.arange(8)[None] * 10
    losses, _ = chunk.compute_language_model_loss(labels, logits * 1.0)
    losses.sum().backward()
    assert logits.grad is not None
    return losses.detach(), logits.grad, values


def test_the_loss_is_the_softmax_over_the_tokenizer_s_tokens_alone(world: World) -> None:
    losses, gradient, values = loss_and_gradient(world, TOKENS)
    expected = torch.nn.functional.cross_entropy(values[:, 0, :TOKENS], torch.arange(8) * 10, reduction="none")
    torch.testing.assert_close(losses[0], expected)
    assert not gradient[..., TOKENS:].any() and gradient[..., :TOKENS].all()


def test_rows_that_take_part_would_be_noticed(world: World) -> None:
    right, _, _ = loss_and_gradient(world, TOKENS)
    wrong, gradient, _ = loss_and_gradient(world, None)
    assert (wrong - right).min() > 1e-3 and gradient[..., TOKENS:130].all() and not gradient[..., 130:].any()


def test_the_tokens_are_those_of_the_tokenizer_as_far_as_the_model_has_rows() -> None:
    assert num_tokens(MODEL, tokenizer_vocab_size=TOKENS) == TOKENS
    assert num_tokens(MODEL, tokenizer_vocab_size=1000) == MODEL.vocab_size == 130
