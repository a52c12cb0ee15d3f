"""A layout is the fastest for reasons: for each choice in it, the fastest layout that chooses otherwise, and what differs."""

from collections.abc import Callable
from dataclasses import dataclass

from pretrain.config.schema import RunConfig
from pretrain.plan.estimate import StepEstimate
from pretrain.plan.search import Found, layout_name

CHOICES: dict[str, Callable[[RunConfig], object]] = {
    "tensor parallelism": lambda run: run.parallel.tensor_model_parallel_size,
    "sequence parallelism": lambda run: run.parallel.sequence_parallel,
    "pipeline": lambda run: run.parallel.pipeline_model_parallel_size,
    "virtual stages": lambda run: run.parallel.virtual_pipeline_model_parallel_size,
    "context parallelism": lambda run: run.parallel.context_parallel_size,
    "micro batch": lambda run: run.train.micro_batch_size,
    "recomputation": lambda run: (run.train.recompute, *run.train.recompute_modules),
}
"""What a layout chooses, each independent of the others but for the number of replicas that follows."""
SHORT = {
    "products": "prod.", "attention": "attn.", "memory": "memory", "communication": "comm.", "bubble": "bubble", "update": "update",
    "host": "host", "rest": "rest",
}  # fmt: skip
"""Parts of a step's time, as a table names them."""
SMALL_S = 0.0005
"""Seconds; a difference that would be shown as 0.000 is left out."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Choices of the fastest layout, beside the fastest that chooses otherwise."""

    choices: tuple[str, ...]
    """Those for which the other is the fastest."""
    other: StepEstimate
    more_s: float
    """Seconds of a step that the other takes more."""
    parts: dict[str, float]
    """Those seconds by the parts of a step; below zero where the other is faster in it."""


def reasons(found: Found) -> list[Reason]:
    """Return the reasons of the fastest layout, the closest first; a choice without another that fits has none."""
    best, rest = found.fitting[0], found.fitting[1:]
    fastest = {
        choice: next((number for number, one in enumerate(rest) if of(one.run) != of(best.run)), None)
        for choice, of in CHOICES.items()
    }
    compared = []
    for number in sorted({number for number in fastest.values() if number is not None}):
        other = rest[number]
        compared.append(
            Reason(
                choices=tuple(choice for choice in CHOICES if fastest[choice] == number),
                other=other,
                more_s=other.step_s - best.step_s,
                parts={name: getattr(other.times, name) - getattr(best.times, name) for name in SHORT},
            )
        )
    return compared


def reason_lines(found: Found) -> list[str]:
    """Return the reasons in words, one line each."""
    said = []
    for one in reasons(found):
        parts = sorted(one.parts.items(), key=lambda part: -abs(part[1]))
        shown = [f"{SHORT[name]} {seconds:+.3f}" for name, seconds in parts if abs(seconds) >= SMALL_S]
        *others, last = one.choices
        words = f"{', '.join(others)} or {last}" if others else last
        said.append(
            f"why layout 1: with another {words} the fastest is "
            f"{layout_name(one.other.run, one.other.num_gpus)}, {one.more_s:+.3f} s a step"
            + (f" ({', '.join(shown)})" if shown else "")
        )
    return said
