"""What the rounds say, beside the targets."""

import statistics
from collections.abc import Mapping, Sequence

from bench.compare import Timing, ratio, table
from bench.step.race import REFERENCE, Turns
from bench.step.task import Shape

PRODUCTS = "products"
TARGETS = {
    "fp32": {"megatron": 1.25, "plain": 1.0, "compiled": 1.0, "hf": 1.0},
    "bf16": {"megatron": 1.4, "plain": 1.2, "compiled": 1.0},
}
"""Least CPU time of a contestant in units of Fanal's, by precision."""
MOST_PRODUCTS = {"fp32": 1.25, "bf16": 1.5}
"""Most CPU time of Fanal's step in units of its matrix products'."""
NAMES = {
    "fanal": "Fanal",
    "megatron": "megatron-core, local spec",
    "plain": "plain PyTorch",
    "compiled": "plain PyTorch, compiled",
    "hf": "Hugging Face",
    PRODUCTS: "the matrix products alone",
}
"""Every contestant, and what a table calls it."""


def report(turns: Mapping[str, Turns], loads: Sequence[float], precision: str, shape: Shape) -> str:
    """Return the table of one race, and what stands below it."""
    ours = turns[REFERENCE].cpu
    rows = []
    for name, turn in turns.items():
        median, low, high = ratio(turn.cpu, ours)
        target = 1 / MOST_PRODUCTS[precision] if name == PRODUCTS else TARGETS[precision].get(name)
        reached = "" if target is None else "yes" if median >= target else "no"
        wanted = "" if target is None else f"at least {target:.2f}"
        times = [_spread(turn.cpu), _spread(turn.wall), f"{median:.2f} [{low:.2f} to {high:.2f}]"]
        rows.append([NAMES[name], *times, wanted, reached])
    header = ["contestant", "CPU, s per step", "wall, s per step", "its CPU time / Fanal's", "target", "reached"]
    speed = f"Fanal trains {shape.tokens / ours.median_s:,.0f} tokens per CPU second."
    if PRODUCTS in turns:
        median, low, high = ratio(ours, turns[PRODUCTS].cpu)
        speed += f" Its step takes {median:.2f} [{low:.2f} to {high:.2f}] times the CPU time of its matrix products "
        speed += f"(target: at most {MOST_PRODUCTS[precision]})."
    load = f"Load average at the beginning of a round: {statistics.median(loads):.1f} [{min(loads):.1f} to {max(loads):.1f}]."
    return f"{table(header, rows)}\n\n{speed}\n{load}"


def _spread(timing: Timing) -> str:
    low, high = timing.range_s
    return f"{timing.median_s:.2f} [{low:.2f} to {high:.2f}]"
