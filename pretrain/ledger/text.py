"""A ledger for people: tables of 80 columns. The JSON has everything."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from fanal.console import Console
from fanal.shown import on_one_line
from pretrain.ledger.data_read import DIMENSIONS, SOURCE, Amounts, DataRead
from pretrain.ledger.energy import Energy
from pretrain.ledger.hours import Hours
from pretrain.ledger.ledger import Ledger, RunAccount
from pretrain.ledger.starts import Attempt
from pretrain.log.evaluation_file import EvaluationFile, figure_text

WIDTH = 80
MOST_ROWS = 10
"""Rows of a table, at most; of more, the largest are shown."""
MOST_STARTS = 20
TITLES = {SOURCE: "source", "language": "language", "licence": "licence", "host": "host"}
UNSTATED = "not stated"


def show(ledger: Ledger, console: Console | None = None) -> None:
    """Print a ledger."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDTH)
    for part in _parts(ledger):
        if isinstance(part, str):
            console.print(on_one_line(part))
        else:
            console.print()
            console.print(part)


def _parts(ledger: Ledger) -> Iterator[Table | str]:
    run = ledger.runs[-1]
    tokens = sum(each.tokens for each in ledger.runs)
    earlier = f", and {len(ledger.runs) - 1} earlier run(s) that it came from" if len(ledger.runs) > 1 else ""
    saved = "" if run.saved_to == run.trained_to else f" (saved to step {run.saved_to:,})"
    yield f"{ledger.run_dir} to step {run.trained_to:,}{saved}{earlier}: {tokens:,} tokens"
    for dimension in (SOURCE, *DIMENSIONS):
        if (table := _amounts(dimension, ledger.data.in_all, tokens)) is not None:
            yield table
    if len(ledger.data.parts) > 1:
        yield _mixtures(ledger.data)
    if ledger.data.held_out:
        yield _held_out(ledger.data)
    for each in ledger.runs:
        yield _starts(each)
        yield from _changes(each)
        yield _steps(each)
        if each.evaluations:
            yield _evaluations(each.evaluations)
    yield ""
    yield _hours(ledger)
    yield _energy(ledger.energy)
    yield from (f"not known: {line}" for line in ledger.not_known())


def _amounts(dimension: str, amounts: Amounts, tokens: int) -> Table | None:
    """The largest rows of one dimension; None where nothing is said of any document."""
    rows = amounts[dimension]
    if not set(rows) - {None}:
        return None
    table = _table(TITLES[dimension], ">tokens", ">share", ">documents", ">passes", ">never read")
    for name, amount in list(rows.items())[:MOST_ROWS]:
        left = amount.available_tokens - amount.distinct_tokens
        table.add_row(
            UNSTATED if name is None else on_one_line(_tail(name, 28)),
            short(amount.tokens),
            f"{100 * amount.tokens / tokens:.1f}%" if tokens else "-",
            f"{short(amount.documents)}/{short(amount.available_documents)}",
            "-" if amount.passes is None else f"{amount.passes:.3g}",
            short(left),
        )
    _say_left_out(table, len(rows))
    return table


def _mixtures(data: DataRead) -> Table:
    table = _table("run", "mixture", ">samples", ">tokens", ">padding")
    for part in data.parts[:MOST_ROWS]:
        table.add_row(
            on_one_line(_tail(part.run_dir, 30)), part.mixture, f"{part.first_sample:,}-{part.end_sample - 1:,}",
            short(part.tokens), short(part.padding_tokens),
        )  # fmt: skip
    _say_left_out(table, len(data.parts))
    return table


def _held_out(data: DataRead) -> Table:
    table = _table("held out", "by", ">tokens", ">documents", "trained on by")
    for held in data.held_out[:MOST_ROWS]:
        runs = ", ".join(on_one_line(Path(run).name) for run in held.trained_by)
        by = held.by.removeprefix("data.")
        table.add_row(
            on_one_line(_tail(held.prefix, 24)), by, short(held.tokens), short(held.documents), runs or "no run"
        )
    _say_left_out(table, len(data.held_out))
    return table


def _starts(run: RunAccount) -> Table:
    table = _table(">start", "when (UTC)", "who, job", "code", ">ranks", ">steps", ">lost", "end")
    table.title, table.title_justify = on_one_line(_tail(run.run_dir, 70)), "left"
    for start in run.starts[-MOST_STARTS:]:
        table.add_row(
            "-" if start.number is None else str(start.number), _when(start), _who(start), _code(start),
            "-" if start.num_ranks is None else f"{start.num_ranks:,}", f"{start.step:,}-{start.last_step:,}",
            f"{start.lost_steps:,}", _end(start, run.decisions.get(id(start))),
        )  # fmt: skip
    left_out = len(run.starts) - MOST_STARTS
    table.caption = f"and {left_out:,} earlier starts" if left_out > 0 else None
    return table


def _changes(run: RunAccount) -> Iterator[str]:
    for start in run.starts[-MOST_STARTS:]:
        if start.file is not None and start.file.changes:
            named, more = start.file.changes[:4], len(start.file.changes) - 4
            yield f"start {start.number} changed: {'; '.join(named)}" + (f"; and {more} more" if more > 0 else "")


def _steps(run: RunAccount) -> str:
    name = Path(run.run_dir).name
    return f"{name}: {run.trained_to:,} steps, {run.skipped_steps:,} of them skipped; {run.lost_steps:,} more were lost"


def _evaluations(evaluations: Sequence[EvaluationFile]) -> Table:
    """The figures of the newest evaluations, a row each."""
    table = _table(">step", "evaluated on", "metric", ">value", ">± stderr", ">samples")
    rows = [(evaluation, figure) for evaluation in reversed(evaluations) for figure in evaluation.figures]
    for evaluation, figure in rows[:MOST_ROWS]:
        task, metric = figure.name.rsplit("/", 1)
        what = task if (by := evaluation.question.get("by")) is None else f"held-out {by} {task}"
        table.add_row(
            f"{evaluation.step:,}", on_one_line(_tail(what, 30)), on_one_line(metric), figure_text(figure.value),
            figure_text(figure.stderr), f"{figure.num_samples:,}",
        )  # fmt: skip
    _say_left_out(table, len(rows))
    return table


def _hours(ledger: Ledger) -> str:
    hours = ledger.hours
    is_gpu = {start.file.device_type for run in ledger.runs for start in run.starts if start.file} == {"cuda"}
    name = "GPU hours" if is_gpu else "hours of ranks"
    named = {
        "useful": hours.useful, "start-up": hours.startup, "lost": hours.lost, "evaluation": hours.evaluation,
        "save": hours.save, "other": hours.other,
    }  # fmt: skip
    shares = ", ".join(f"{what} {_hour(value)}{_share(value, hours)}" for what, value in named.items())
    return f"{name}: {_hour(hours.total)} in all; {shares}"


def _energy(energy: Energy) -> str:
    if energy.kwh is None:
        return "energy: -, CO2: -"
    co2 = "-" if energy.co2_g is None else f"{energy.co2_g / 1000:.4g} kg at {energy.co2_g_per_kwh:g} g/kWh, as given"
    return f"energy: {energy.kwh:.4g} kWh by {' and '.join(energy.methods)}; CO2: {co2}"


def short(count: int) -> str:
    """A count with as many digits as a table has room for: 12,345, or 1.23B of more."""
    if count < 100_000:
        return f"{count:,}"
    value, unit = next(
        (count / 10**power, unit) for power, unit in ((12, "T"), (9, "B"), (6, "M"), (3, "K")) if count >= 10**power
    )
    return f"{value:.0f}{unit}" if value >= 100 else f"{value:.1f}{unit}" if value >= 10 else f"{value:.2f}{unit}"


def _table(*columns: str) -> Table:
    """A table with these headings; those that begin with > are of numbers."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name[0] == ">" else "left", overflow="fold")
    return table


def _say_left_out(table: Table, num_rows: int) -> None:
    if num_rows > MOST_ROWS:
        table.caption, table.caption_justify = f"and {num_rows - MOST_ROWS:,} more (--json has all)", "left"


def _tail(text: str, length: int) -> str:
    return text if len(text) <= length else f"…{text[1 - length :]}"


def _when(start: Attempt) -> str:
    if start.file is None:
        return "-"
    return datetime.fromtimestamp(start.file.time_unix_s, UTC).strftime("%Y-%m-%d %H:%M")


def _who(start: Attempt) -> str:
    if start.file is None:
        return "-"
    where = start.file.job or (start.file.hosts[0] if start.file.hosts else "-")
    return on_one_line(f"{start.file.user}, {where}")


def _code(start: Attempt) -> str:
    if start.file is None:
        return "-"
    code = start.file.code
    return (code.commit or code.version)[:8] + ("+" if code.modified else "")


def _end(start: Attempt, decision: str | None) -> str:
    if start.end is None:
        return on_one_line(decision or "no end noted")
    by = start.end["asked_by"]
    return on_one_line(start.end["outcome"] + (f" ({by})" if by else ""))


def _hour(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _share(value: float | None, hours: Hours) -> str:
    return f" ({100 * value / hours.total:.1f}%)" if value is not None and hours.total else ""
