"""A plan as a person reads it, in 100 columns, and as a program does."""

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from typing import Any

from fanal.console import Console
from pretrain.plan.documents import document_lines
from pretrain.plan.estimate import GIB, StepEstimate, usable_bytes
from pretrain.plan.layout_file import layout_tree
from pretrain.plan.machine import MachineConfig, assumed_figures
from pretrain.plan.reasons import SHORT, reason_lines
from pretrain.plan.search import MEMORY, Found, layout_name, samples_at_a_time
from pretrain.plan.whole_run import WholeRun
from pretrain.plan.whole_run_table import whole_run_lines, whole_run_tree

WIDTH = 100
"""Columns."""
SMALL = 0.005
"""GiB; parts of the memory that would be shown as 0.00 are one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """All that ``fanal plan`` says."""

    config: str
    machine_name: str
    machine: MachineConfig
    found: Found
    own: StepEstimate | None
    """The config's own layout; None where it does not fit the GPUs."""
    best: Sequence[StepEstimate]
    """The fastest layouts, as many as were asked for."""
    rehearsed: Sequence[int | None]
    """Bytes at the peak of each of the best, as a rehearsal counts them; None where none was made."""
    whole_run: WholeRun | None = None
    """The whole run in the fastest layout, or in the config's own."""
    calibration: str = ""
    """What the machine's figures were multiplied by, and from which runs; empty where they are as their file has them."""
    fitted: Sequence[str] = ()
    """The runs that factors were fitted to just now, as lines."""


def to_json(plan: Plan) -> str:
    """Return the plan as one JSON object."""
    tree: dict[str, Any] = {
        "config": plan.config,
        "machine": plan.machine_name,
        "figures": dataclasses.asdict(plan.machine),
        "calibration": plan.calibration,
        "tried": plan.found.tried,
        "fitting": len(plan.found.fitting),
        "own": None if plan.own is None else _as_tree(plan.own, None),
        "layouts": [_as_tree(one, peak) for one, peak in zip(plan.best, plan.rehearsed, strict=True)],
        "left_out": [dataclasses.asdict(one) for one in plan.found.left_out.values()],
        "held_back": None if plan.found.held_back is None else _as_tree(plan.found.held_back, None),
        "whole_run": None if plan.whole_run is None else whole_run_tree(plan.whole_run),
    }
    return json.dumps(tree, indent=1)


def show(plan: Plan, console: Console) -> None:
    """Print the plan."""
    for line in lines(plan):
        console.print(line, soft_wrap=True)


def lines(plan: Plan) -> list[str]:
    """Return the lines of the plan."""
    first = plan.best[0]
    train, data = first.run.train, first.run.data
    said = [
        *plan.fitted,
        f"{plan.config} on {first.num_gpus:,} x {plan.machine.description}: {first.tokens:,} tokens a step, "
        f"{data.seq_length:,} a sample, {train.precision}",
        f"{plan.found.tried:,} layouts tried, {len(plan.found.fitting):,} pass the config's rules and fit",
        "",
    ]
    named = [*(("own", plan.own, None) for _ in range(plan.own is not None))]
    named += [
        (str(number + 1), one, peak) for number, (one, peak) in enumerate(zip(plan.best, plan.rehearsed, strict=True))
    ]
    usable = usable_bytes(plan.machine)
    said += [
        f"{name:>3}  {layout_name(one.run, one.num_gpus)}" + (": does not fit" if one.peak_bytes > usable else "")
        for name, one, _ in named
        if one is not None
    ]
    said += ["", *_speed_table(named), "", *_time_table(named), "", *_memory_table(first)]
    guesses = assumed_figures(plan.machine)
    words = [
        *reason_lines(plan.found),
        *document_lines(first, plan.machine),
        *_left_out(plan),
        f"Arithmetic with the figures of --gpu {plan.machine_name}"
        + (f", of which {', '.join(guesses)} are assumed." if guesses else ", each measured or published."),
        *([plan.calibration] if plan.calibration else []),
        "A tenth of each GPU's memory is left for what is not counted: CUDA context, NCCL buffers, workspaces, fragmentation.",
    ]
    wrapped = [
        part for line in words for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    ]
    whole = ["", *whole_run_lines(plan.whole_run)] if plan.whole_run is not None else []
    return [*said, "", *wrapped, *whole]


Named = Sequence[tuple[str, Any, int | None]]


def _speed_table(named: Named) -> list[str]:
    rows = [f"{'':>3} {'GiB':>7} {'rehearsed':>9} {'s a step':>9} {'tokens/s/GPU':>13} {'MFU full':>9} {'causal':>7}"]
    for name, one, peak in named:
        rehearsed = "-" if peak is None else f"{peak / GIB:.1f}"
        rows.append(
            f"{name:>3} {one.peak_bytes / GIB:>7.1f} {rehearsed:>9} {one.step_s:>9.3f} {one.tokens_per_second_per_gpu:>13,.0f} "
            f"{one.mfu_full:>9.1%} {one.mfu_causal:>7.1%}"
        )
    return rows


def _time_table(named: Named) -> list[str]:
    rows = [f"{'':>3} " + " ".join(f"{short:>8}" for short in SHORT.values()) + "   seconds of a step"]
    rows += [f"{name:>3} " + " ".join(f"{getattr(one.times, part):>8.3f}" for part in SHORT) for name, one, _ in named]
    return rows


def _memory_table(best: StepEstimate) -> list[str]:
    peaks, worst = best.stage_peaks, best.worst_stage
    stages = (
        f"stages {', '.join(f'{peak / GIB:.1f}' for peak in peaks[:8])}{' ...' * (len(peaks) > 8)}; "
        if len(peaks) > 1
        else ""
    )
    rows = [f"memory of layout 1 at the peak, GiB: {stages}of stage {worst}, which takes most:"]
    parts = sorted(best.stages[worst].items(), key=lambda one: -one[1])
    shown = [(kind, size) for kind, size in parts if size >= GIB * SMALL]
    rows += [f"  {kind:<34} {size / GIB:>7.2f}" for kind, size in shown]
    return rows


def _left_out(plan: Plan) -> list[str]:
    rows = []
    for group in sorted(plan.found.left_out.values(), key=lambda one: -one.count):
        what = "take more memory than a GPU has" if group.reason == MEMORY else f"break the rule of {group.reason}"
        rows += [f"{group.count:,} layouts {what}, such as {group.example}"]
    held = plan.found.held_back
    if held is not None and held.step_s < plan.best[0].step_s:
        samples = samples_at_a_time(held.run)
        rows.append(
            f"held back by the schedule of the batch alone: {layout_name(held.run, held.num_gpus)}, {held.step_s:.3f} s a step, "
            f"{plan.best[0].step_s / held.step_s:.2f} times as fast; {_larger_steps(plan, samples)} would allow it"
        )
    return rows


def _larger_steps(plan: Plan, samples: int) -> str:
    """Return a schedule of the batch whose sizes are multiples of so many samples."""
    train = plan.best[0].run.train
    said = [f"train.batch_ramp.start={samples} train.batch_ramp.increment={samples}"] if train.batch_ramp else []
    said += [f"train.batch_stages of multiples of {samples}"] if train.batch_stages else []
    return " and ".join(said)


def _as_tree(one: StepEstimate, rehearsed: int | None) -> dict[str, Any]:
    return {
        "layout": layout_name(one.run, one.num_gpus),
        "keys": layout_tree(one),
        "gpus": one.num_gpus,
        "peak_bytes": one.peak_bytes,
        "rehearsed_peak_bytes": rehearsed,
        "stages": list(one.stages),
        "step_s": one.step_s,
        "times": dataclasses.asdict(one.times),
        "tokens_per_second_per_gpu": one.tokens_per_second_per_gpu,
        "mfu_full": one.mfu_full,
        "mfu_causal": one.mfu_causal,
    }
