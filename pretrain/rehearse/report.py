"""A rehearsal as a person reads it, and as a program does."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from fanal.console import Console
from pretrain.config.schema import RunConfig
from pretrain.rehearse.record import TO_GPU, TO_HOST, Rehearsal

GIB, MIB = 2**30, 2**20
MARGIN = 0.1
"""Share of a GPU's memory that is left to what a rehearsal does not count. A guess, which no GPU has confirmed."""
NOT_COUNTED = "CUDA context, NCCL buffers, cuBLAS workspace, fragmentation"
USUAL_GIB = (16, 32, 40, 80, 141)
SMALL = 0.005
"""Parts of the peak that would be shown as 0.00 are one row."""
WIDTH = 160
"""Columns of a pipe or a file."""

Row = tuple[str, list[str]]


def to_json(config: str, rehearsals: Sequence[Rehearsal]) -> str:
    """Return all that was found, as one JSON object."""
    return json.dumps({"config": config, "ranks": [dataclasses.asdict(one) for one in rehearsals]}, indent=1)


def show(
    config: str, run: RunConfig, rehearsals: Sequence[Rehearsal], memory_gib: float | None, console: Console
) -> None:
    """Print a table with a column for each rank, then the lines that explain it."""
    wide = console if console.is_terminal else Console(file=console.file, width=WIDTH)
    train, first = run.train, rehearsals[0]
    device = "CPU" if run.parallel.device == "cpu" else "GPU"
    wide.print(
        f"{config} on {first.num_ranks:,} rank{'s' * (first.num_ranks != 1)}, rehearsed for a {device}: "
        f"steps of {first.micro_batches:,} micro batches of "
        f"{train.micro_batch_size:,} x {run.data.seq_length:,} tokens, {train.precision}, attention by {first.attention}",
        soft_wrap=True,
    )
    table = Table("", *(f"rank {one.rank:,}" for one in rehearsals), show_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    place = _place_rows(rehearsals, run.parallel.context_parallel_size)
    for rows in (place, *(rows(rehearsals) for rows in (_memory_rows, _traffic_rows, _wait_rows, _copy_rows))):
        for name, cells in rows:
            table.add_row(name, *cells)
        table.add_section()
    wide.print(table)
    if device == "GPU":
        for line in _fits(rehearsals, memory_gib):
            wide.print(line, soft_wrap=True)


def _place_rows(rehearsals: Sequence[Rehearsal], context_parallel_size: int) -> list[Row]:
    ranks = [("tensor", "tp_rank"), ("pipeline", "pp_rank"), ("data", "dp_rank")]
    if context_parallel_size > 1:
        ranks.insert(2, ("context", "cp_rank"))
    return [
        (
            f"{', '.join(axis for axis, _ in ranks)} rank",
            [", ".join(str(getattr(one, field)) for _, field in ranks) for one in rehearsals],
        ),
        ("layers", [f"{one.num_layers:,}" for one in rehearsals]),
        ("parameters", [f"{one.num_parameters:,}" for one in rehearsals]),
    ]


def _memory_rows(rehearsals: Sequence[Rehearsal]) -> list[Row]:
    unit, name = (GIB, "GiB") if max(one.peak_bytes for one in rehearsals) >= GIB else (MIB, "MiB")

    def sizes(size_of: Callable[[Rehearsal], int]) -> list[str]:
        return [f"{size_of(one) / unit:,.2f}" for one in rehearsals]

    parts = [{part.kind: part.num_bytes for part in one.peak_parts} for one in rehearsals]
    kinds = sorted(set().union(*parts), key=lambda kind: -max(of.get(kind, 0) for of in parts))
    shown = [kind for kind in kinds if max(of.get(kind, 0) for of in parts) >= unit * SMALL]
    rest = [sum(size for kind, size in of.items() if kind not in shown) for of in parts]
    return [
        (f"memory after the model is built, {name}", sizes(lambda one: one.model_bytes)),
        ("  with the optimizer", sizes(lambda one: one.with_optimizer_bytes)),
        ("  after a step", sizes(lambda one: one.after_step_bytes)),
        (f"memory at the peak, {name}", sizes(lambda one: one.peak_bytes)),
        *((f"  {kind}", [f"{of.get(kind, 0) / unit:,.2f}" for of in parts]) for kind in shown),
        ("  what is left", [f"{size / unit:,.2f}" for size in rest]),
    ]


def _traffic_rows(rehearsals: Sequence[Rehearsal]) -> list[Row]:
    tables = [
        {(one.group, one.ranks, one.operation): (one.calls, one.num_bytes) for one in each.step.traffic}
        for each in rehearsals
    ]
    rows = _merged(
        tables,
        lambda key: f"  {key[0]} of {key[1]:,}: {key[2]}",
        lambda cell: f"{cell[0]:,} call{'s' * (cell[0] != 1)}, {_size(cell[1])}",
    )
    return [("collectives in a step", [""] * len(rehearsals)), *rows] if rows else []


def _wait_rows(rehearsals: Sequence[Rehearsal]) -> list[Row]:
    rows: list[Row] = [
        ("times the host waits in a step", [f"{sum(one.count for one in each.step.waits):,}" for each in rehearsals])
    ]
    for reason in sorted({one.reason for each in rehearsals for one in each.step.waits}):
        tables = [{one.place: one.count for one in each.step.waits if one.reason == reason} for each in rehearsals]
        rows += [(f"{reason} at", [""] * len(rehearsals)), *_merged(tables, lambda place: f"  {place}", "{:,}".format)]
    return rows


def _copy_rows(rehearsals: Sequence[Rehearsal]) -> list[Row]:
    rows: list[Row] = []
    for way in (TO_GPU, TO_HOST):
        tables = [
            {one.place: (one.count, one.num_bytes) for one in each.step.copies if one.way == way} for each in rehearsals
        ]
        totals = [f"{sum(count for count, _ in table.values()):,}" for table in tables]
        rows += [(f"copies {way} in a step", totals)]
        rows += _merged(tables, lambda place: f"  {place}", lambda cell: f"{cell[0]:,}, {_size(cell[1])}")
    return [*rows, ("FLOPs of products in a step", [f"{one.step.flops:.4g}" for one in rehearsals])]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / MIB:,.1f} MiB" if num_bytes >= MIB / 10 else f"{num_bytes:,} bytes"


def _merged(tables: Sequence[dict[Any, Any]], name: Callable[[Any], str], cell: Callable[[Any], str]) -> list[Row]:
    """Return a row for every key of any rank's table."""
    keys = sorted(set().union(*tables), key=str)
    return [(name(key), [cell(table[key]) if key in table else "-" for table in tables]) for key in keys]


def _fits(rehearsals: Sequence[Rehearsal], memory_gib: float | None) -> list[str]:
    peak = max(one.peak_bytes for one in rehearsals)
    sizes = USUAL_GIB if memory_gib is None else (memory_gib,)
    answers = ", ".join(f"{size:g} GiB {'yes' if peak <= size * GIB * (1 - MARGIN) else 'no'}" for size in sizes)
    return [
        f"fits a GPU of: {answers}",
        f"A tenth of the GPU is left for what is not counted: {NOT_COUNTED}. No GPU has confirmed that it is enough.",
    ]
