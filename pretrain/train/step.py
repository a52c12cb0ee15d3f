"""One optimizer step: forward and backward over all micro batches, then the update."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func

from pretrain.config.derive import num_microbatches
from pretrain.config.schema import DataConfig, RunConfig, TrainConfig
from pretrain.data.batch import MicroBatch
from pretrain.data.documents import Boundaries
from pretrain.model.loss import masked_loss
from pretrain.optim.optimizer import apply_gradients, gradient_norm
from pretrain.optim.spikes import Verdict, judge
from pretrain.parallel.reduce import rank_0s, sum_over_ranks, sum_over_replicas_and_share
from pretrain.parallel.world import World
from pretrain.state import Skip, TrainState


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The result of a step, on every rank."""

    loss: float
    """Mean cross entropy per token of the whole batch before the update, in nats; nan if no token counts."""
    loss_by_domain: dict[str, float]
    """Loss by domain; a domain without a token is left out."""
    z_loss: float
    """Mean z-loss per token, not weighted, apart from the loss; nan if no token counts."""
    loss_tokens: int
    """Tokens of the whole batch that the means are of: those whose prediction counts."""
    grad_norm: float
    """Global gradient norm before gradient clipping."""
    verdict: Verdict
    answers: tuple[bool, ...]
    """Whether any rank said yes, for each question that the step was given."""

    @property
    def skipped(self) -> Skip | None:
        """Why there was no update; None if there was one."""
        return self.verdict.skip


def train_step(
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    micro_batches: Iterator[MicroBatch | Boundaries | None],
    run: RunConfig,
    world: World,
    *,
    state: TrainState,
    global_batch_size: int,
    domains: Sequence[str],
    questions: Callable[[], Sequence[bool]] = tuple,
) -> StepResult:
    """Train one global batch of these domains, the one after ``state``; skip the update if it would do harm.

    Collective: every rank calls it. One device sync, in the gradient norm; a second one with train.spikes.skip.
    Args: questions: what this rank says to questions of which all ranks are to hear, asked when the backward pass is on its way:
        they travel with the losses, and cost no wait and no message of their own.
    """
    for chunk in model:
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    losses = run_micro_batches(
        model,
        micro_batches,
        run.data,
        run.train,
        world,
        num_samples=global_batch_size,
        num_domains=len(domains),
        forward_only=False,
    )
    # Sent off before the norm is: when the host has waited for the norm, the losses are there, and reading them is a copy.
    sent = sum_over_ranks(losses, questions(), world)
    grad_norm = gradient_norm(optimizer, world.device)
    numbers = sent.tolist()
    found = means(numbers[: losses.numel()], domains)
    answers = tuple(count > 0 for count in numbers[losses.numel() :])
    loss = found.loss
    if run.train.spikes is not None and run.train.spikes.skip:
        # Groups that sum in another order may differ in the last bit, and a rank that skips alone leaves the others waiting.
        loss, grad_norm = rank_0s([loss, grad_norm], world)
    verdict = judge(loss=loss, grad_norm=grad_norm, state=state, config=run.train.spikes)
    if verdict.skip is None:
        apply_gradients(optimizer, grad_norm)
    return StepResult(
        loss=loss,
        loss_by_domain=found.by_domain,
        z_loss=found.z_loss,
        loss_tokens=found.num_tokens,
        grad_norm=grad_norm,
        verdict=verdict,
        answers=answers,
    )


def run_micro_batches(
    model: list[DistributedDataParallel],
    micro_batches: Iterator[MicroBatch | Boundaries | None],
    data: DataConfig,
    train: TrainConfig,
    world: World,
    *,
    num_samples: int,
    num_domains: int,
    forward_only: bool,
) -> torch.Tensor:
    """Run megatron's schedule over ``num_samples`` samples of the global batch, backward pass included or not.

    Returns: float64 [num_domains, 3], this replica's (loss sum, tokens, z-loss sum) by domain; zeros but on the last stage.
    """
    count = num_microbatches(
        global_batch_size=num_samples,
        micro_batch_size=train.micro_batch_size,
        data_parallel_size=world.data_parallel_size,
    )
    reports = get_forward_backward_func()(
        forward_step_func=partial(_forward, num_domains, train.z_loss_weight),
        data_iterator=_one_iterator_per_chunk(micro_batches, len(model)),
        model=list(model) if len(model) > 1 else model[0],
        num_microbatches=count,
        seq_length=data.seq_length,
        micro_batch_size=train.micro_batch_size,
        forward_only=forward_only,
    )
    if not world.is_pipeline_last:
        return torch.zeros(num_domains, 3, dtype=torch.float64, device=world.device)
    return torch.stack(reports).sum(dim=0)


@dataclass(frozen=True, kw_only=True)
class Means:
    """Means per token of a batch."""

    loss: float
    """Mean of all tokens; nan if there are none."""
    by_domain: dict[str, float]
    """Means by domain; a domain without a token is left out."""
    z_loss: float
    """Mean of all tokens; nan if there are none."""
    num_tokens: int
    """Tokens that count."""


def mean_losses(sums: torch.Tensor, domains: Sequence[str], world: World) -> Means:
    """Return the mean losses of the whole batch, on every rank.

    Collective, as many whatever the number of domains: the whole is the sum of the parts. One device sync.
    Args: sums, float64 [num_domains, 3], as run_micro_batches gives it; domains, their names.
    """
    return means(sum_over_replicas_and_share(sums.clone(), world).flatten().tolist(), domains)


def means(sums: Sequence[float], domains: Sequence[str]) -> Means:
    """Return the means of sums of the whole batch: loss sum, tokens and z-loss sum of each domain, one domain after the other."""
    parts = list(zip(sums[0::3], sums[1::3], sums[2::3], strict=True))
    by_domain = {name: total / tokens for name, (total, tokens, _) in zip(domains, parts, strict=True) if tokens}
    total, tokens, z_total = (sum(column) for column in zip(*parts, strict=True))
    if not tokens:
        return Means(loss=float("nan"), by_domain=by_domain, z_loss=float("nan"), num_tokens=0)
    return Means(loss=total / tokens, by_domain=by_domain, z_loss=z_total / tokens, num_tokens=_whole(tokens))


def _whole(tokens: float) -> int:
    """A count of tokens; 0 where a weight in it is not finite, and the step is skipped."""
    return int(tokens) if math.isfinite(tokens) else 0


def _forward(
    num_domains: int, z_loss_weight: float, micro_batches: Iterator[MicroBatch | Boundaries | None], chunk: Any
) -> tuple[torch.Tensor, Any]:
    """Run a chunk, as megatron's forward_step_func: return its output, and the function of the loss on the last stage.

    The argument after the positions is megatron's attention_mask, which carries the boundaries of documents (layer_spec.py).
    """
    batch = next(micro_batches)
    if batch is None or isinstance(batch, Boundaries):  # a stage in the middle: the input comes from its neighbour
        return chunk(None, None, None if batch is None else batch.document_starts), None
    output = chunk(batch.tokens, batch.position_ids, batch.document_starts, labels=batch.labels)
    return output, partial(masked_loss, batch.loss_mask, batch.domain_ids, num_domains, z_loss_weight)


def _one_iterator_per_chunk(micro_batches: Iterator[MicroBatch | Boundaries | None], chunks: int) -> Any:
    """Return an iterator for each chunk: the interleaved schedule walks each through the same micro batches."""
    if chunks == 1:
        return micro_batches
    batches = list(micro_batches)
    return [iter(batches) for _ in range(chunks)]
