"""A rehearsal as a person reads it, and as a program does."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence

from rich.table import Table

from fanal.console import Console
from pretrain.config.schema import RunConfig
from pretrain.rehearse.record import Rehearsal

GIB = 2**30
MARGIN = 0.1
"""Share of a GPU's memory that is left to what a rehearsal does not count. A guess, which no GPU has confirmed."""
NOT_COUNTED = "CUDA context, NCCL buffers, cuBLAS workspace, fragmentation"
USUAL_GIB = (16, 32, 40, 80, 141)
SMALL_BYTES = GIB // 200
"""Parts of the peak that would be shown as 0.00 GiB are one row."""
WIDTH = 160
"""Columns of a pipe or a file."""

Row = tuple[str, list[str]]


def to_json(config: str, rehearsals: Sequence[Rehearsal]) -> str:
    """Return all that was found, as one JSON object."""
    return json.dumps({"config": config, "ranks": [dataclasses.asdict(one) for one in rehearsals]}, indent=1)


def show(config: str, run: RunConfig, rehearsals: Sequence[Rehearsal], memory_gib: float | None, console: Console) -> None:
    """Print a table with a column for each rank, then the lines that explain it."""
    wide = console if console.is_terminal else Console(file=console.file, width=WIDTH)
    train, first = run.train, rehearsals[0]
    device = "CPU" if run.parallel.device == "cpu" else "GPU"
    wide.print(
        f"{config} on {first.num_ranks:,} ranks, rehearsed for a {device}: steps of {first.micro_batches:,} micro batches of "
        f"{train.micro_batch_size:,} x {run.data.seq_length:,} tokens, {train.precision}, attention by {first.attention}",
        soft_wrap=True,
    )
    table = Table("", *(f"rank {one.rank:,}" for one in rehearsals), show_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for rows in (_place_rows(rehearsals), _memory_rows(rehearsals), _traffic_rows(rehearsals), _other_rows(rehearsals)):
        for name, cells in rows:
            table.add_row(name, *cells)
        table.add_section()
    wide.print(table)
    if device == "GPU":
        for line in _fits(rehearsals, memory_gib):
            wide.print(line, soft_wrap=True)


def _place_rows(rehearsals: Sequence[Rehearsal]) -> list[Row]:
    return [
        ("tensor, pipeline, data rank", [f"{one.tp_rank}, {one.pp_rank}, {one.dp_rank}" for one in rehearsals]),
        ("parameters", [f"{one.num_parameters:,}" for one in rehearsals]),
    ]


def _memory_rows(rehearsals: Sequence[Rehearsal]) -> list[Row]:
    def sizes(size_of: Callable[[Rehearsal], int]) -> list[str]:
        return [f"{size_of(one) / GIB:,.2f}" for one in rehearsals]

    parts = [{part.kind: part.num_bytes for part in one.peak_parts} for one in rehearsals]
    kinds = sorted(set().union(*parts), key=lambda kind: -max(of.get(kind, 0) for of in parts))
    shown = [kind for kind in kinds if max(of.get(kind, 0) for of in parts) >= SMALL_BYTES]
    rows = [
        ("memory after the model is built, GiB", sizes(lambda one: one.model_bytes)),
        ("  with the optimizer", sizes(lambda one: one.with_optimizer_bytes)),
        ("  after a step", sizes(lambda one: one.after_step_bytes)),
        ("memory at the peak, GiB", sizes(lambda one: one.peak_bytes)),
    ]
    rows += [(f"  {kind}", [f"{of.get(kind, 0) / GIB:,.2f}" for of in parts]) for kind in shown]
    rest = [sum(size for kind, size in of.items() if kind not in shown) for of in parts]
    return [*rows, ("  what is left", [f"{size / GIB:,.2f}" for size in rest])]


def _traffic_rows(rehearsals: Sequence[Rehearsal]) -> list[Row]:
    tables = [
        {(one.group, one.ranks, one.operation): f"{one.calls:,} calls, {one.num_bytes / 2**20:,.1f} MiB" for one in each.step.traffic}
        for each in rehearsals
    ]
    rows = _merged(tables, lambda key: f"  {key[0]} of {key[1]:,}: {key[2]}")
    return [("collectives in a step", [""] * len(rehearsals)), *rows] if rows else []


def _other_rows(rehearsals: Sequence[Rehearsal]) -> list[Row]:
    none = [""] * len(rehearsals)
    waits = _merged(
        [{(one.reason, one.place): f"{one.count:,}" for one in each.step.waits} for each in rehearsals],
        lambda key: f"  {key[0]}: {key[1]}",
    )
    copies = _merged(
        [{(one.way, one.place): f"{one.count:,}, {one.num_bytes / 2**20:,.2f} MiB" for one in each.step.copies} for each in rehearsals],
        lambda key: f"  {key[0]}: {key[1]}",
    )
    totals = [f"{sum(one.count for one in each.step.waits):,}" for each in rehearsals]
    return [
        ("times the host waits in a step", totals),
        *waits,
        ("copies between host and GPU in a step", none if copies else ["none"] * len(rehearsals)),
        *copies,
        ("FLOPs of products in a step", [f"{one.step.flops:.4g}" for one in rehearsals]),
    ]


def _merged(tables: Sequence[dict[tuple[str, ...], str]], name: Callable[[tuple[str, ...]], str]) -> list[Row]:
    """Return a row for every key of any rank's table."""
    keys: Iterable[tuple[str, ...]] = sorted(set().union(*tables), key=str)
    return [(name(key), [table.get(key, "-") for table in tables]) for key in keys]


def _fits(rehearsals: Sequence[Rehearsal], memory_gib: float | None) -> list[str]:
    peak = max(one.peak_bytes for one in rehearsals)
    sizes = USUAL_GIB if memory_gib is None else (memory_gib,)
    answers = ", ".join(f"{size:g} GiB {'yes' if peak <= size * GIB * (1 - MARGIN) else 'no'}" for size in sizes)
    return [
        f"fits a GPU of: {answers}",
        f"A tenth of the GPU is left for what is not counted: {NOT_COUNTED}. No GPU has confirmed that it is enough.",
    ]
