"""Optimizers in plain PyTorch, written from the papers, for tests to compare ours with. Nothing of this repository is imported but
the model beside this file.

Each is told one tensor at a time, in megatron-core's fused layout (tests/reference/llama.py), and keeps its states under the names
of a checkpoint.

Sources: AdamW (arXiv:1711.05101), AdamC (arXiv:2506.02285), AdEMAMix (arXiv:2409.03137), StableAdamW
(arXiv:2304.13013), Lion (arXiv:2302.06675).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.reference.llama import LlamaShape, ReferenceLlama, gradients_by_megatron_name

EMBEDDING = "embedding.word_embeddings.weight"


@dataclass(kw_only=True)
class ReferenceOptimizer:
    """What all have in common: the weight decay of a tensor, and states that begin at zero."""

    peak_rate: float
    weight_decay: float
    embeddings_decay: bool = True
    vectors_decay: bool = False
    decay_follows_the_rate: bool = False
    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """By name of the tensor, then of the state."""

    def updated(self, name: str, weight: Tensor, gradient: Tensor, *, number: int, rate: float) -> Tensor:
        """The weight after update ``number``, from 1 on."""
        states = self.states.setdefault(name, {})
        return weight - rate * (self.direction(states, gradient, number) + self.decay_of(name, weight, rate) * weight)

    def direction(self, states: dict[str, Tensor], gradient: Tensor, number: int) -> Tensor:
        raise NotImplementedError

    def decay_of(self, name: str, weight: Tensor, rate: float) -> float:
        if (weight.dim() == 1 and not self.vectors_decay) or (name == EMBEDDING and not self.embeddings_decay):
            return 0.0
        return self.weight_decay * (rate / self.peak_rate if self.decay_follows_the_rate else 1.0)


def average(states: dict[str, Tensor], name: str, value: Tensor, beta: float) -> Tensor:
    """The exponential moving average of what was given under this name so far."""
    states[name] = beta * states.get(name, torch.zeros_like(value)) + (1 - beta) * value
    return states[name]


@dataclass(kw_only=True)
class ReferenceAdamW(ReferenceOptimizer):
    beta1: float
    beta2: float
    eps: float

    def direction(self, states: dict[str, Tensor], gradient: Tensor, number: int) -> Tensor:
        first = average(states, "exp_avg", gradient, self.beta1) / (1 - self.beta1**number)
        second = average(states, "exp_avg_sq", gradient**2, self.beta2) / (1 - self.beta2**number)
        return first / (second.sqrt() + self.eps)


class ReferenceStableAdamW(ReferenceAdamW):
    """Algorithm 2, where a debiased decay stands for the bias correction; the tensor's rate scales its decay too."""

    def updated(self, name: str, weight: Tensor, gradient: Tensor, *, number: int, rate: float) -> Tensor:
        states = self.states.setdefault(name, {})
        direction = self.direction(states, gradient, number)
        second = states["exp_avg_sq"] / (1 - self.beta2**number)
        ratio = (gradient**2 / second.clamp(min=self.eps**2)).mean().sqrt()
        self.clipped += int(ratio > 1)
        return weight - rate / max(1.0, float(ratio)) * (direction + self.decay_of(name, weight, rate) * weight)

    clipped: int = 0
    """How many updates of a tensor were clipped."""


@dataclass(kw_only=True)
class ReferenceAdEMAMix(ReferenceOptimizer):
    """Algorithm 1 with the two schedules of section 3, as formulas (2) and (3) give them."""

    beta1: float
    beta2: float
    beta3: float
    eps: float
    alpha: float
    alpha_warmup: int
    beta3_warmup: int

    def direction(self, states: dict[str, Tensor], gradient: Tensor, number: int) -> Tensor:
        alpha = min(number * self.alpha / self.alpha_warmup, self.alpha)
        share = number / self.beta3_warmup
        first, last = math.log(self.beta1), math.log(self.beta3)
        beta3 = (
            min(math.exp(first * last / ((1 - share) * last + share * first)), self.beta3) if share < 1 else self.beta3
        )
        fast = average(states, "exp_avg", gradient, self.beta1) / (1 - self.beta1**number)
        slow = average(states, "exp_avg_slow", gradient, beta3)
        second = average(states, "exp_avg_sq", gradient**2, self.beta2) / (1 - self.beta2**number)
        return (fast + alpha * slow) / (second.sqrt() + self.eps)


@dataclass(kw_only=True)
class ReferenceLion(ReferenceOptimizer):
    beta1: float
    beta2: float

    def direction(self, states: dict[str, Tensor], gradient: Tensor, number: int) -> Tensor:
        before = states.get("exp_avg", torch.zeros_like(gradient))
        average(states, "exp_avg", gradient, self.beta2)
        return torch.sign(self.beta1 * before + (1 - self.beta1) * gradient)


def trained_weights(
    shape: LlamaShape,
    weights: Mapping[str, Tensor],
    batches: Sequence[tuple[Tensor, Tensor, Tensor]],
    rates: Sequence[float],
    optimizer: ReferenceOptimizer,
    *,
    clip_grad: float,
) -> dict[str, Tensor]:
    """The weights after one update a batch, in double precision, without padding rows; the optimizer has its states afterwards.

    Args: weights, initial ones under megatron-core's names; clip_grad, the largest global gradient norm.
    """
    current = {name: weight.double() for name, weight in weights.items()}
    for number, ((tokens, labels, mask), rate) in enumerate(zip(batches, rates, strict=True), start=1):
        model = ReferenceLlama(shape, current, torch.float64)
        total, count = model.loss(tokens, labels, mask.double())
        (total / count).backward()
        gradients = gradients_by_megatron_name(model)
        norm = torch.stack([(gradient**2).sum() for gradient in gradients.values()]).sum().sqrt()
        factor = min(1.0, clip_grad / (float(norm) + 1e-6))
        current = {
            name: optimizer.updated(name, current[name][: len(gradient)], gradient * factor, number=number, rate=rate)
            for name, gradient in gradients.items()
        }
    return current
