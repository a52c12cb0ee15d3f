"""A ladder: small runs of the family of a large one, whose losses say what the large one's will be.

A rung is a small twin (pretrain/config/scale.py): the same kind of model, data, vocabulary, optimizer and schedule. Its size is a
part of the layers' parameters. Its tokens are those parameters times a ratio, the large run's own if none is stated, or as many as
a budget of operations allows. The learning rate and the batch follow from the compute, by the laws of DeepSeek LLM (2024,
arXiv:2401.02954); nothing was tuned.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from fanal.errors import UserError
from pretrain.config.derive import kv_channels, layer_parameters
from pretrain.config.rules import check, check_ranks
from pretrain.config.scale import SMALLEST, scaled, scaled_model
from pretrain.config.schema import ModelConfig, RunConfig, TrainConfig
from pretrain.config.steps import consumed_samples_at, step_at, train_samples
from pretrain.model.flops import flops_per_token
from pretrain.plan.estimate import StepEstimate, estimate_step, on_device_of, usable_bytes
from pretrain.plan.law import Size
from pretrain.plan.machine import MachineConfig
from pretrain.plan.search import MICRO_BATCHES, search

PARTS = tuple(Fraction(1, 2**power) for power in (8, 7, 6, 5, 4))
"""Parts of the large model's parameters, if none are stated: together 0.5 % of its compute, at its tokens a parameter."""

WORTH_IT = 0.8
"""Least speed of a GPU, beside that on the number of GPUs where it is fastest, at which a rung takes more of them."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One small run."""

    name: str
    run: RunConfig
    size: Size
    estimate: StepEstimate | None
    """A step in its layout; None where no machine is stated."""

    @property
    def gpu_hours(self) -> float | None:
        """Hours of all its GPUs for its steps; validations and starts are not counted."""
        return None if self.estimate is None else self.size.tokens / self.estimate.tokens_per_second_per_gpu / 3600


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The rungs that are asked for: every part, or every budget, at every ratio."""

    parts: tuple[Fraction, ...] = PARTS
    ratios: tuple[float, ...] = ()
    """Tokens for each parameter of the layers; empty means the large run's own."""
    budgets: tuple[float, ...] = ()
    """Operations of a run, in place of parts; empty means none."""


def size_of(run: RunConfig) -> Size:
    """Return what a law knows of a run: attention is counted in full (pretrain/model/flops.py)."""
    tokens = train_samples(run.optim, run.train) * run.data.seq_length
    return Size(
        parameters=_parameters(run.model),
        tokens=tokens,
        flops=flops_per_token(run.model, run.data.seq_length, causal=False) * tokens,
    )


def ladder(run: RunConfig, wish: Wish, folder_name: str, machine: MachineConfig | None, num_gpus: int) -> list[Rung]:
    """Return the rungs below a run, the cheapest first. Two that come out alike, of tiny models, are one.

    Args: folder_name: part of the names of their run folders; num_gpus: the most that a rung is planned on.
    Raises: UserError if the run has no ladder, or a rung cannot run.
    """
    if run.checkpoint.init_from is not None:
        raise UserError(
            f"--ladder takes a run that begins with initial weights, and checkpoint.init_from is {run.checkpoint.init_from}; "
            "checkpoint.init_from=null works"
        )
    made: list[tuple[RunConfig, Size]] = []
    for small in _twins(run, wish):
        check(small)
        made += [(small, size_of(small))] if all(small != other for other, _ in made) else []
    made.sort(key=lambda one: one[1].flops)
    return [_rung(run, number, *one, folder_name, machine, num_gpus) for number, one in enumerate(made, start=1)]


def _twins(run: RunConfig, wish: Wish) -> Iterator[RunConfig]:
    own = size_of(run)
    for ratio in wish.ratios or (own.tokens / own.parameters,):
        for wanted in wish.parts if not wish.budgets else ():
            part = well_shaped(run.model, wanted)
            yield _twin(run, own, part, _parameters(scaled_model(run.model, part)) * ratio)
        for budget in wish.budgets:
            yield _of_budget(run, own, budget, ratio)


def well_shaped(model: ModelConfig, wanted: Fraction) -> Fraction:
    """Return the part near the wanted one whose model is most like the large one: in layers for each width, and in a head's size.

    Layers and heads are whole numbers, so that the shape of a twin is off by up to two, and the law of a ladder would bend with it.
    """

    def off(part: Fraction) -> float:
        small = scaled_model(model, part)
        shape = small.num_layers / small.hidden_size / (model.num_layers / model.hidden_size)
        return abs(math.log(shape)) + abs(math.log(kv_channels(small) / kv_channels(model)))

    near = [wanted * Fraction(2 ** (step / 8)).limit_denominator(1000) for step in (0, -1, 1, -2, 2)]
    return min((part for part in near if part < 1), key=off)


def _parameters(model: ModelConfig) -> int:
    return model.num_layers * layer_parameters(model)


def _twin(run: RunConfig, own: Size, part: Fraction, tokens: float) -> RunConfig:
    model = scaled_model(run.model, part)
    found = Fraction(_parameters(model), _parameters(run.model))  # the rules go by the size that came out
    by_samples = replace(
        run, train=replace(run.train, micro_batch_size=1)
    )  # CONFIG's layout says nothing of a rung's batch
    small = scaled(by_samples, found, Fraction(tokens / own.tokens))
    train = _with_even_batches(small.train, run.train.micro_batch_size)
    return replace(small, run_dir=run.run_dir, model=model, train=train)


def _with_even_batches(train: TrainConfig, most: int) -> TrainConfig:
    """Return the same samples in batches that divide among replicas: each within a sixteenth, and none of a ramp.

    Args: most: the micro batch, if it divides them all.
    """
    batch = _even(train.global_batch_size)
    stages = [replace(one, global_batch_size=_even(one.global_batch_size)) for one in train.batch_stages]
    micro_batch = math.gcd(most, batch, *(one.global_batch_size for one in stages))
    made = replace(train, global_batch_size=batch, micro_batch_size=micro_batch, batch_stages=stages, batch_ramp=None)
    return replace(made, train_steps=step_at(made, consumed_samples_at(train, train.train_steps)))


def _even(batch: int) -> int:
    """Return the batch in four binary digits: from 8 on a multiple of the power of two that is an eighth of it or less."""
    unit = 1 << max(0, batch.bit_length() - 4)
    return round(batch / unit) * unit


def _of_budget(run: RunConfig, own: Size, budget: float, ratio: float) -> RunConfig:
    """Return the rung that takes this many operations at about this ratio: the size by halving, then the tokens that are left."""

    def cost(part: Fraction) -> tuple[float, float]:
        model = scaled_model(run.model, part)
        per_token = flops_per_token(model, run.data.seq_length, causal=False)
        return per_token, per_token * ratio * _parameters(model)

    low, high = SMALLEST, Fraction(1)
    if not cost(low)[1] <= budget < cost(high)[1]:
        raise UserError(
            f"--rung-flops ({budget:g}) must be between {cost(low)[1]:.3g}, of the smallest model of the family, and "
            f"{cost(high)[1]:.3g}, of CONFIG's own at {ratio:,.4g} tokens a parameter; "
            f"--rung-flops {(cost(low)[1] * cost(high)[1]) ** 0.5:.3g} works"
        )
    for _ in range(60):
        middle = Fraction((float(low) * float(high)) ** 0.5)
        low, high = (middle, high) if cost(middle)[1] <= budget else (low, middle)
    return _twin(run, own, low, budget / cost(low)[0])


def _rung(
    run: RunConfig,
    number: int,
    small: RunConfig,
    size: Size,
    folder_name: str,
    machine: MachineConfig | None,
    num_gpus: int,
) -> Rung:
    name = f"{number:02}-{count(size.parameters)}-{count(size.tokens)}"
    small = replace(small, run_dir=f"{run.run_dir.rstrip('/')}-{folder_name}/{name}")
    if machine is None:
        return Rung(name=name, run=small, size=size, estimate=None)
    estimate = _laid_out(on_device_of(small, machine), machine, num_gpus)
    laid = replace(estimate.run, parallel=replace(estimate.run.parallel, device=run.parallel.device))
    return Rung(name=name, run=laid, size=size, estimate=estimate)


def _laid_out(run: RunConfig, machine: MachineConfig, num_gpus: int) -> StepEstimate:
    """Return the rung with every GPU a replica, on the most GPUs that are still worth it; where that does not fit, the fastest
    layout of a node, or of all GPUs.
    """
    best = [found for size in _counts(num_gpus) if (found := _replicas(run, machine, size)) is not None]
    if best:
        fastest = max(one.tokens_per_second_per_gpu for one in best)
        return next(one for one in best if one.tokens_per_second_per_gpu >= WORTH_IT * fastest)
    node = min(num_gpus, int(machine.gpus_per_node.value))
    try:
        return search(run, machine, node).fitting[0]
    except UserError:
        return search(run, machine, num_gpus).fitting[0]


def _counts(num_gpus: int) -> Iterator[int]:
    """Yield numbers of GPUs: all, and half of them, rounded down, to one."""
    while num_gpus > 0:
        yield num_gpus
        num_gpus //= 2


def _replicas(run: RunConfig, machine: MachineConfig, num_gpus: int) -> StepEstimate | None:
    """Return the fastest step of so many replicas, by their micro batch; None where the batch or the memory forbids them."""
    parallel = replace(
        run.parallel,
        data_parallel_size=num_gpus,
        use_distributed_optimizer=True,
        overlap_grad_reduce=num_gpus > 1,
        overlap_param_gather=num_gpus > 1,
    )
    found: list[StepEstimate] = []
    for micro_batch in MICRO_BATCHES:
        laid = replace(run, parallel=parallel, train=replace(run.train, micro_batch_size=micro_batch))
        try:
            check(laid)
            check_ranks(laid, num_gpus)
        except UserError:
            continue
        found.append(estimate_step(laid, machine, num_gpus))
    return min(
        (one for one in found if one.peak_bytes <= usable_bytes(machine)), key=lambda one: one.step_s, default=None
    )


def count(number: float) -> str:
    """Return a count in three digits with a letter, such as 19.8M."""
    for limit, unit, letter in ((1e12, 1e12, "T"), (1e9, 1e9, "B"), (1e6, 1e6, "M")):
        if number >= limit * 0.9995:
            return f"{number / unit:.3g}{letter}"
    return f"{number / 1e3:.3g}K"
