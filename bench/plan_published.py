"""What a plan says of published runs, beside what they published: ``python -m bench.plan_published``.

Facts lie in bench/published, one file for each family, with sources. The parts of a step are planned without a figure fitted to
them. Then each family is planned with one factor for all times, fitted to the other families; the factor of all families is the
``step_factor`` of the machines that are shipped. The table is bench/results/plan_published.md; tests/unit/plan recomputes it.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

from bench.compare import table
from pretrain.config.derive import data_parallel_size
from pretrain.config.load import load_run, typed
from pretrain.config.schema import RunConfig
from pretrain.model.flops import flops_per_token
from pretrain.plan.estimate import StepEstimate, estimate_step, usable_bytes
from pretrain.plan.machine import FigureConfig, MachineConfig, load_machine
from pretrain.plan.search import RECOMPUTE, layout_name

FACTS = Path(__file__).parent / "published"
LEFT_OUT = "left-out.yaml"
RESULTS = Path(__file__).parent / "results" / "plan_published.md"
MICRO_BATCHES = (1, 2, 4, 8)
VIRTUAL_SIZES = (1, 2, 3, 4, 6, 8)
TARGET = 0.15
KINDS = {
    "benchmark": "steps",
    "whole": "whole runs",
    "planned": "not a measurement",
    "unclear": "count unclear",
}
"""What a rate is: of steps, the mean of a whole run, or what does not count in the medians."""
COUNTED = ("benchmark", "whole")
Estimate = Callable[[RunConfig, MachineConfig, int], StepEstimate]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A published run; what is None is as in its config."""

    name: str = MISSING
    model: str | None = None
    """Of the family's models; the name, if that is one."""
    config: str | None = None
    machine: str | None = None
    gpus: int = MISSING
    node: int | None = None
    """GPUs of a node, where they are not those of the machine."""
    seq: int | None = None
    batch: int | None = None
    """Sequences of a step."""
    micro: int | None = None
    tensor: int | None = None
    pipeline: int | None = None
    virtual: int | None = None
    context: int | None = None
    sequence_parallel: bool = True
    """Beside tensor parallelism."""
    recompute: str = "none"
    recompute_layers: int | None = None
    """Of recompute=full."""
    rate: float = MISSING
    """Of a GPU, in the unit of the run or of the family."""
    unit: str | None = None
    """tokens a second, or model TFLOP/s with attention counted tflops_full or tflops_causal."""
    kind: str | None = None
    unknown: list[str] | None = None
    """What is not published and therefore searched: micro, virtual, recompute."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """Published runs of one source."""

    family: str = MISSING
    source: str = MISSING
    machine: str = MISSING
    machine_figures: dict[str, float] = field(default_factory=dict)
    """Of the machine, where the source says other ones."""
    config: str = ""
    attention: str = "sdpa"
    assumed: str = ""
    common: list[str] = field(default_factory=list)
    """Overrides of every model."""
    models: dict[str, list[str]] = field(default_factory=dict)
    unit: str = MISSING
    kind: str = "benchmark"
    unknown: list[str] = field(default_factory=list)
    runs: list[RunFacts] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A published run beside its plan."""

    family: FamilyFacts
    facts: RunFacts
    estimate: StepEstimate
    published: float
    """Tokens a second and GPU."""

    @property
    def ratio(self) -> float:
        """Planned over published speed, the plan without its factor."""
        return self.estimate.tokens_per_second_per_gpu / self.published

    @property
    def error(self) -> float:
        """How far the plan without its factor is off, without its sign."""
        return abs(self.ratio - 1)

    def error_with(self, factor: float) -> float:
        """Return how far the plan is off where steps take so many times as long."""
        return abs(self.ratio / factor - 1)

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return self.facts.kind or self.family.kind


def families() -> list[FamilyFacts]:
    """Return the published runs, by family."""
    files = sorted(path for path in FACTS.glob("*.yaml") if path.name != LEFT_OUT)
    read = [(path, yaml.safe_load(path.read_text())) for path in files]
    return [typed([tree], FamilyFacts, where=str(path), variable="${}") for path, tree in read]


def rows(
    *,
    only: str = "",
    estimate: Estimate = estimate_step,
    changed: Callable[[MachineConfig], MachineConfig] = lambda machine: machine,
) -> list[Row]:
    """Return every published run with its plan.

    Args: only: of families whose names begin so; estimate, changed: for faults that a test plants.
    """
    some = [family for family in families() if family.family.startswith(only)]
    return [_row(family, facts, estimate, changed) for family in some for facts in family.runs]


def median_error(some: Sequence[Row], factors: Mapping[str, float] | None = None) -> float:
    """Return the median of the errors of those that count. Args: factors: by family; None: the plans without one."""
    counted = [row for row in some if row.kind in COUNTED]
    return statistics.median(row.error_with(1.0 if factors is None else factors[row.family.family]) for row in counted)


def step_factor(some: Sequence[Row], *, but: str = "") -> float:
    """Return the middle of the families' median ratios: how many times as long steps take as their parts say.

    Args: but: a family that is left out.
    """
    ratios: dict[str, list[float]] = {}
    for row in some:
        if row.kind in COUNTED and row.family.family != but:
            ratios.setdefault(row.family.family, []).append(row.ratio)
    return statistics.median(statistics.median(one) for one in ratios.values())


def factors_of_others(some: Sequence[Row]) -> dict[str, float]:
    """Return each family's factor, fitted to the other families alone (leave one out)."""
    return {name: step_factor(some, but=name) for name in {row.family.family for row in some}}


def _row(
    family: FamilyFacts, facts: RunFacts, estimate: Estimate, changed: Callable[[MachineConfig], MachineConfig]
) -> Row:
    machine = replace(changed(_machine(family, facts)), step_factor=None)
    unknown = family.unknown if facts.unknown is None else facts.unknown
    run = _run(family, facts)
    best = _fastest(run, machine, facts.gpus, unknown, estimate)
    model, seq_length = best.run.model, best.run.data.seq_length
    rate, unit = facts.rate, facts.unit or family.unit
    if unit != "tokens":
        rate *= 1e12 / flops_per_token(model, seq_length, causal=unit == "tflops_causal")
    return Row(family=family, facts=facts, estimate=best, published=rate)


def _machine(family: FamilyFacts, facts: RunFacts) -> MachineConfig:
    figures: dict[str, float] = dict(family.machine_figures)
    if facts.node is not None:
        figures["gpus_per_node"] = facts.node
    changes: dict[str, Any] = {name: FigureConfig(value=value, source=family.source) for name, value in figures.items()}
    return replace(load_machine(facts.machine or family.machine), **changes)


@lru_cache(maxsize=64)
def _base(config: str, overrides: tuple[str, ...]) -> RunConfig:
    return load_run(FACTS.parents[1] / config, [*overrides, "parallel.device=cuda"])


def _run(family: FamilyFacts, facts: RunFacts) -> RunConfig:
    """Return the run in its published layout."""
    if facts.config is not None:
        return _base(facts.config, ())
    run = _base(family.config, (*family.common, *family.models[facts.model or facts.name]))
    tensor, pipeline, virtual, context = (
        size or 1 for size in (facts.tensor, facts.pipeline, facts.virtual, facts.context)
    )
    replicas = facts.gpus // (tensor * pipeline * context)
    parallel = replace(
        run.parallel,
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=pipeline,
        virtual_pipeline_model_parallel_size=virtual,
        context_parallel_size=context,
        data_parallel_size=replicas,
        sequence_parallel=tensor > 1 and facts.sequence_parallel,
        use_distributed_optimizer=True,
        overlap_grad_reduce=replicas * context > 1,
        overlap_param_gather=replicas * context > 1,
    )
    train = replace(
        run.train,
        global_batch_size=facts.batch or run.train.global_batch_size,
        micro_batch_size=facts.micro or 1,
        recompute=facts.recompute,  # pyright: ignore[reportArgumentType]
        recompute_num_layers=facts.recompute_layers,
    )
    return replace(
        run,
        model=replace(run.model, attention_backend=family.attention),  # pyright: ignore[reportArgumentType]
        data=replace(run.data, seq_length=facts.seq or run.data.seq_length),
        parallel=parallel,
        train=train,
    )


def _fastest(
    run: RunConfig, machine: MachineConfig, gpus: int, unknown: Sequence[str], estimate: Estimate
) -> StepEstimate:
    """Return the estimate of the run; of what is not published, the fastest choice that fits, or that takes least memory."""
    found: list[StepEstimate] = []
    for choices in _choices(run, unknown, gpus):
        for one in choices:  # from what computes least again
            found.append(estimate(one, machine, gpus))
            if found[-1].peak_bytes <= usable_bytes(machine):
                break
    fitting = [one for one in found if one.peak_bytes <= usable_bytes(machine)]
    return min(fitting, key=lambda one: one.step_s) if fitting else min(found, key=lambda one: one.peak_bytes)


def _choices(run: RunConfig, unknown: Sequence[str], gpus: int) -> Iterator[list[RunConfig]]:
    """Yield the choices of recomputation for every micro batch and number of virtual stages that the run may have."""
    train, parallel = run.train, run.parallel
    micros = MICRO_BATCHES if "micro" in unknown else (train.micro_batch_size,)
    virtuals = VIRTUAL_SIZES if "virtual" in unknown else (parallel.virtual_pipeline_model_parallel_size,)
    again = RECOMPUTE if "recompute" in unknown else ((train.recompute, tuple(train.recompute_modules)),)
    stages, replicas = parallel.pipeline_model_parallel_size, data_parallel_size(parallel, num_ranks=gpus)
    for micro, virtual in product(micros, virtuals):
        batches, rest = divmod(train.global_batch_size, micro * replicas)
        uneven = stages == 1 or run.model.num_layers % (stages * virtual) or batches % stages
        if ("micro" in unknown and rest) or (virtual > 1 and "virtual" in unknown and uneven):
            continue
        yield [
            replace(
                run,
                train=replace(
                    train,
                    micro_batch_size=micro,
                    recompute=recompute,  # pyright: ignore[reportArgumentType]
                    recompute_modules=list(modules),
                ),
                parallel=replace(parallel, virtual_pipeline_model_parallel_size=virtual),
            )
            for recompute, modules in again
        ]


def page(some: Sequence[Row]) -> str:
    """Return the whole page of results."""
    parts = [_head(some), _summary(some), *(_family(some, family) for family in families()), _left_out(), _lucie(some)]
    return "\n\n".join(parts) + "\n"


def _head(some: Sequence[Row]) -> str:
    count = sum(row.kind in COUNTED for row in some)
    return (
        "## Published runs beside their plans\n\n"
        "Written by `python -m bench.plan_published`, which computes it anew from `bench/published` and "
        "`pretrain/plan/machines` in seconds; no GPU. Planned speed is `fanal plan`'s arithmetic in the published layout, without "
        "the machine's `step_factor`; nothing is fitted to these runs. Ratio: planned over published tokens/s/GPU, so above 1 the "
        "plan is too fast. Error: the ratio's distance from 1. Last column: the same error where all times are multiplied by one "
        "factor, fitted to the other families and not to the one that it is tried on: the middle of the others' median ratios. So "
        "is a plan off that was made with `step_factor`, which is the middle of all families' "
        f"({step_factor(some):.2f}). {count} runs count."
    )


def _summary(some: Sequence[Row]) -> str:
    counted, factors = [row for row in some if row.kind in COUNTED], factors_of_others(some)
    lines = [("all", counted)]
    lines += [
        (f"all {name}", [row for row in counted if row.kind == kind]) for kind, name in KINDS.items() if kind in COUNTED
    ]
    lines += [(one.family, [row for row in counted if row.family.family == one.family]) for one in families()]
    head = ["runs", "count", "median error", "median ratio", "ratios", "within 15 %", "factor of the others",
            "median error with it", "within 15 %"]  # fmt: skip
    body = [
        [
            name,
            f"{len(rows)}",
            _percent(median_error(rows)),
            f"{statistics.median(row.ratio for row in rows):.2f}",
            f"{min(row.ratio for row in rows):.2f} to {max(row.ratio for row in rows):.2f}",
            f"{sum(row.error <= TARGET for row in rows)}",
            f"{factors[name]:.2f}" if name in factors else "",
            _percent(median_error(rows, factors)),
            f"{sum(row.error_with(factors[row.family.family]) <= TARGET for row in rows)}",
        ]
        for name, rows in lines
        if rows
    ]
    medians = [[median_error(rows, with_them) for _, rows in lines[3:]] for with_them in (None, factors)]
    return (
        f"{table(head, body)}\n\nMedian of the families' medians: {_percent(statistics.median(medians[0]))}, with the others' "
        f"factors {_percent(statistics.median(medians[1]))}."
    )


def _family(some: Sequence[Row], family: FamilyFacts) -> str:
    mine = [row for row in some if row.family.family == family.family]
    factor = step_factor(some, but=family.family)
    head = ["run", "GPUs", "sequence", "batch", "layout planned", "published, tokens/s/GPU", "planned", "MFU full, published",
            "planned", "ratio", "error", "with the others' factor"]  # fmt: skip
    body = [_line(row, factor) for row in mine]
    notes = [f"{row.facts.name}, {row.facts.gpus:,} GPUs: {row.facts.note}." for row in mine if row.facts.note]
    said = [f"Source: {family.source}."] + ([f"Assumed: {family.assumed}."] if family.assumed else []) + notes
    return f"### {family.family}\n\n" + " ".join(" ".join(one.split()) for one in said) + "\n\n" + table(head, body)


def _line(row: Row, factor: float) -> list[str]:
    run, one = row.estimate.run, row.estimate
    published = row.published / one.tokens_per_second_per_gpu * one.mfu_full
    return [
        row.facts.name,
        f"{row.facts.gpus:,}",
        f"{run.data.seq_length:,}",
        f"{one.tokens // run.data.seq_length:,}",
        layout_name(run, row.facts.gpus),
        f"{row.published:,.0f}",
        f"{one.tokens_per_second_per_gpu:,.0f}",
        _percent(published),
        _percent(one.mfu_full),
        f"{row.ratio:.3f}",
        _percent(row.error) if row.kind in COUNTED else f"({KINDS[row.kind]})",
        _percent(row.error_with(factor)),
    ]


def _left_out() -> str:
    tree = yaml.safe_load((FACTS / LEFT_OUT).read_text())
    return "### Left out\n\n" + table(["what", "why"], [[one["what"], one["why"]] for one in tree["left_out"]])


def _lucie(some: Sequence[Row]) -> str:
    """Return where the plan sees Lucie's time go, and what it does not see."""
    row = next(row for row in some if row.facts.name == "Lucie-7B")
    times, one = row.estimate.times, row.estimate
    real = one.tokens / row.published / row.facts.gpus
    useful = one.step_s * one.mfu_full
    parts = [("model operations at the peak", useful)]
    parts += [("products and attention below the peak, and computed again", times.products + times.attention - useful)]
    parts += [(name, getattr(times, key)) for key, name in _PARTS.items()]
    parts += [
        ("the plan's step", one.step_s),
        ("not explained by the plan", real - one.step_s),
        ("published step", real),
    ]
    body = [[name, f"{seconds:.3f}", _percent(seconds / real)] for name, seconds in parts]
    return (
        "### Lucie-7B's 7.8 % of the peak\n\n"
        + table(["part", "seconds of a step", "of the published step"], body)
        + "\n\n"
        + _explained(row, real)
    )


_PARTS = {
    "memory": "elementwise kernels",
    "communication": "exposed communication",
    "bubble": "pipeline bubble",
    "update": "update",
    "host": "waiting for the host",
}


def _explained(row: Row, real: float) -> str:
    one, run = row.estimate, row.estimate.run
    machine = load_machine("h100")
    micro_batches = (
        one.tokens // run.data.seq_length // run.train.micro_batch_size // (run.parallel.data_parallel_size or 1)
    )
    layers = (
        run.model.num_layers / run.parallel.pipeline_model_parallel_size * 1.5
    )  # computed again: half more to start
    launches = layers * machine.host_ms_per_layer.value / 1e3 * micro_batches
    ramp = run.train.batch_ramp
    in_ramp = ramp.samples / ((run.train.train_steps or 0) * run.train.global_batch_size) if ramp is not None else 0.0
    left = real - one.step_s
    return (
        f"The plan explains a fall from the peak to {_percent(one.mfu_full)}: full recomputation, tensor parallelism of 4 "
        "without sequence parallelism or overlap, four stages without virtual ones, gradients summed in full and not beside "
        "the backward. The ramp of the batch is no part of "
        f"it: it holds {_percent(in_ramp)} of the samples, and the figure is the log's median. Left are {left:.1f} of "
        f"{real:.1f} seconds, a factor of {row.ratio:.1f}, which the plan does not explain. One cause is known: scripts of "
        "such runs on that machine set CUDA_LAUNCH_BLOCKING=1, so that nothing is started beside a running kernel. If all "
        f"host time stood beside the GPU's ({machine.host_ms_per_layer.value:g} ms a layer), it would be {launches:.2f} s a "
        f"step, {_percent(launches / left)} of what is missing. The others are not known: kernels that are not "
        "fused, waits for the host in every pipeline message, data. The machine is not the cause: Luciole-23B ran on it at "
        "33.6 % (attention counted causal) by its GPU hours."
    )


def _percent(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


if __name__ == "__main__":
    RESULTS.write_text(page(rows()))
    print(f"{RESULTS} is written")
