"""The layouts of a run on a number of GPUs: all of these sizes that its rules accept, estimated, the fastest that fit first."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from fanal.errors import UserError
from pretrain.config.layout_words import layout_in_words
from pretrain.config.rules import check, check_ranks
from pretrain.config.schema import ParallelConfig, RunConfig, SourceConfig, TrainConfig
from pretrain.config.stages import balanced_sizes, unequal_text
from pretrain.plan.estimate import MARGIN, StepEstimate, estimate_step, usable_bytes
from pretrain.plan.machine import MachineConfig

MICRO_BATCHES = (1, 2, 4, 8, 16)
CONTEXT_SIZES = (1, 2, 4, 8)
VIRTUAL_SIZES = (1, 2, 4, 8)
RECOMPUTE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("none", ("core_attn",)),
    ("selective", ("core_attn",)),
    ("selective", ("layernorm", "activation")),
    ("selective", ("core_attn", "layernorm", "mlp")),
    ("full", ("core_attn",)),
)
"""Choices of train.recompute and train.recompute_modules, from what is held most to what is held least."""
MEMORY = "memory"
"""The reason of a layout that does not fit."""
SCHEDULE = "train.batch_ramp and train.batch_stages"
"""The reason of a layout that would take the full batch, and not those before it or behind it."""
MORE = (2, 4, 8)
"""Times as many GPUs, of which the first is named with which a run fits that fits nowhere."""


@dataclass(kw_only=True)
class LeftOut:
    """Layouts that were left out for one reason."""

    reason: str
    """The key that its rule speaks of, or MEMORY."""
    count: int = 0
    example: str = ""
    """One of these layouts, and what the rule says of it."""


@dataclass(kw_only=True)
class Found:
    """What a search found."""

    document_tokens: int | None = None
    """Tokens that every document was taken to have."""
    tried: int = 0
    fitting: list[StepEstimate] = field(default_factory=list)
    """Layouts that the config accepts and that fit, the fastest first."""
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    nearest: StepEstimate | None = None
    """Of those that do not fit, the one that takes least memory."""
    held_back: StepEstimate | None = None
    """The fastest that would fit, and that only the schedule of the batch forbids, without that schedule. One in larger steps,
    of ``samples_at_a_time``, would allow it."""

    def leave_out(self, reason: str, example: str) -> None:
        """Count a layout that is left out."""
        group = self.left_out.setdefault(reason, LeftOut(reason=reason, example=example))
        group.count += 1


def search(run: RunConfig, machine: MachineConfig, num_gpus: int, *, document_tokens: int | None = None) -> Found:
    """Estimate every layout of a run on so many GPUs.

    Args: document_tokens: of every document, for a run whose masks keep them apart.
    Raises: UserError if there are no GPUs, or no layout that the config accepts fits, with what the least takes.
    """
    if num_gpus < 1:
        raise UserError(f"--gpus ({num_gpus}) must be at least 1; --gpus 8 works")
    found = _all(run, machine, num_gpus, document_tokens)
    if not found.fitting:
        more = (num_gpus * factor for factor in MORE)
        works = next((count for count in more if _all(run, machine, count, document_tokens).fitting), None)
        raise UserError(_nothing_fits(found, machine, num_gpus, works))
    return found


def _all(run: RunConfig, machine: MachineConfig, num_gpus: int, document_tokens: int | None) -> Found:
    found, usable = Found(document_tokens=document_tokens), usable_bytes(machine)
    light = _without_sources(run)
    for parallel, micro_batch in shapes(light, machine, num_gpus):
        _look(found, light, machine, num_gpus, usable, parallel, micro_batch)
    found.fitting.sort(key=lambda one: (one.step_s, one.peak_bytes))
    found.fitting = [replace(one, run=_with_data_of(run, one.run)) for one in found.fitting]
    if found.held_back is not None:
        found.held_back = replace(found.held_back, run=_with_data_of(run, found.held_back.run))
    return found


def shapes(run: RunConfig, machine: MachineConfig, num_gpus: int) -> Iterator[tuple[ParallelConfig, int]]:
    """Yield layouts of a run on so many GPUs with their micro batches, recomputation aside; rules may forbid them."""
    node = int(machine.gpus_per_node.value)
    micro_batches = sorted({*MICRO_BATCHES, run.train.micro_batch_size})
    for tensor in (size for size in range(1, node + 1) if num_gpus % size == 0 and _is_power_of_two(size)):
        for pipeline in (size for size in range(1, run.model.num_layers + 1) if (num_gpus // tensor) % size == 0):
            for context in (size for size in CONTEXT_SIZES if (num_gpus // tensor // pipeline) % size == 0):
                for virtual in VIRTUAL_SIZES[: len(VIRTUAL_SIZES) if pipeline > 1 else 1]:
                    for sequence in (False, True)[: 1 + (tensor > 1)]:
                        parallel = _layout(run, tensor, pipeline, virtual, context, num_gpus, sequence)
                        if parallel is not None:
                            yield from ((parallel, micro_batch) for micro_batch in micro_batches)


def samples_at_a_time(run: RunConfig) -> int:
    """Return the samples of which every batch of a layout is a multiple."""
    parallel = run.parallel
    groups = parallel.pipeline_model_parallel_size if parallel.virtual_pipeline_model_parallel_size > 1 else 1
    return run.train.micro_batch_size * (parallel.data_parallel_size or 1) * groups


def layout_name(run: RunConfig, num_gpus: int) -> str:
    """Return a layout with its micro batch and what it computes again, in a few words."""
    parallel, train = run.parallel, run.train
    per_replica = (
        parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size * parallel.context_parallel_size
    )
    words = layout_in_words(
        parallel, replicas=num_gpus // per_replica, with_choices=True, layers=unequal_text(run.model, parallel)
    )
    again = ",".join(train.recompute_modules) if train.recompute == "selective" else train.recompute
    return f"{words}, micro batch {train.micro_batch_size}" + ("" if again == "none" else f", recompute {again}")


def _look(
    found: Found,
    run: RunConfig,
    machine: MachineConfig,
    num_gpus: int,
    usable: int,
    parallel: ParallelConfig,
    micro_batch: int,
) -> None:
    """Estimate one layout with every choice of recomputation, or count why not."""
    laid = replace(run, parallel=parallel, train=_train(run.train, micro_batch, RECOMPUTE[0]))
    reason = _broken_rule(laid, num_gpus)
    has_schedule = run.train.batch_ramp is not None or bool(run.train.batch_stages)
    only_batches = False
    if reason is not None and has_schedule:
        steady = replace(laid, train=replace(laid.train, batch_ramp=None, batch_stages=[]))
        only_batches = _broken_rule(steady, num_gpus) is None
        laid = steady if only_batches else laid
    for choice in RECOMPUTE:
        found.tried += 1
        if reason is not None:
            found.leave_out(
                SCHEDULE if only_batches else reason.split(" (")[0], f"{layout_name(laid, num_gpus)}: {reason}"
            )
            if not only_batches:
                continue
        chosen = replace(laid, train=_train(laid.train, micro_batch, choice))
        estimate = estimate_step(chosen, machine, num_gpus, document_tokens=found.document_tokens)
        if estimate.peak_bytes > usable:
            if reason is None:
                _too_large(found, estimate, usable)
        elif reason is None:
            found.fitting.append(estimate)
        elif 2 * samples_at_a_time(laid) <= laid.train.global_batch_size and (
            found.held_back is None or estimate.step_s < found.held_back.step_s
        ):
            found.held_back = estimate


def _too_large(found: Found, estimate: StepEstimate, usable: int) -> None:
    name = layout_name(estimate.run, estimate.num_gpus)
    found.leave_out(MEMORY, f"{name}: {estimate.peak_bytes / 2**30:,.1f} GiB of {usable / 2**30:,.1f}")
    if found.nearest is None or estimate.peak_bytes < found.nearest.peak_bytes:
        found.nearest = estimate


def _broken_rule(run: RunConfig, num_gpus: int) -> str | None:
    """Return what the config's rules say against a layout; None if they accept it."""
    try:
        check(run)
        check_ranks(run, num_gpus)
    except UserError as error:
        return str(error)
    return None


def _layout(
    run: RunConfig, tensor: int, pipeline: int, virtual: int, context: int, num_gpus: int, sequence: bool
) -> ParallelConfig | None:
    """Return a layout; None where its virtual stages would not be equal, which nobody needs to hear of."""
    layers, replicas = run.model.num_layers, num_gpus // (tensor * pipeline * context)
    uneven = layers % (pipeline * virtual) != 0
    if uneven and virtual > 1:
        return None
    alone = replicas * context == 1
    return replace(
        run.parallel,
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=pipeline,
        virtual_pipeline_model_parallel_size=virtual,
        pipeline_layers=balanced_sizes(run.model, pipeline) if uneven else None,
        num_layers_in_first_pipeline_stage=None,
        num_layers_in_last_pipeline_stage=None,
        context_parallel_size=context,
        data_parallel_size=replicas,
        sequence_parallel=sequence,
        use_distributed_optimizer=True,
        overlap_grad_reduce=not alone,
        overlap_param_gather=not alone,
    )


def _train(train: TrainConfig, micro_batch: int, choice: tuple[str, tuple[str, ...]]) -> TrainConfig:
    recompute, modules = choice
    return replace(
        train,
        micro_batch_size=micro_batch,
        recompute=recompute,  # pyright: ignore[reportArgumentType]
        recompute_modules=list(modules),
        recompute_num_layers=None,
        offload_activations=False,
    )


def _without_sources(run: RunConfig) -> RunConfig:
    """Return the run with one source, so that its rules are quick to check: no layout depends on them."""
    data = replace(run.data, train=[SourceConfig(prefix="any")], phases=[], validation=[])
    return replace(run, data=data)


def _with_data_of(run: RunConfig, laid: RunConfig) -> RunConfig:
    return replace(laid, data=run.data)


def _is_power_of_two(size: int) -> bool:
    return size & (size - 1) == 0


def _nothing_fits(found: Found, machine: MachineConfig, num_gpus: int, works: int | None) -> str:
    """Args: works: a number of GPUs that some layout fits; None if none was found."""
    memory, more = machine.memory_gib.value, "" if works is None else f"{works:,} GPUs work"
    if found.nearest is None:
        why = "; ".join(group.example for group in list(found.left_out.values())[:3])
        return f"no layout of {num_gpus:,} GPUs passes the rules of the config: {why}{more and f'; {more}'}"
    takes = found.nearest.peak_bytes / 2**30
    return (
        f"no layout of {num_gpus:,} GPUs fits {memory:g} GiB, of which a tenth is left for what is not counted; the nearest, "
        f"{layout_name(found.nearest.run, num_gpus)}, takes {takes:,.1f} GiB: {more and f'{more}, or '}GPUs of "
        f"{math.ceil(takes / (1 - MARGIN)):,} GiB and more"
    )
