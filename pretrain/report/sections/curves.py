"""What the charts of a run have in common: their axes, the moments of its starts, the tables behind them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pretrain.log.summary import duration
from pretrain.report.chart import Line, Mark, table
from pretrain.report.markup import Markup, name
from pretrain.report.quantities import count, figure, finite, loss, percent
from pretrain.report.read_log import RunLog
from pretrain.report.thinning import Curve, Point, Rows

TOKENS = "tokens trained"
TIME_UNITS = ((2 * 86400, 86400.0, "days"), (2 * 3600, 3600.0, "hours"), (120, 60.0, "minutes"), (0, 1.0, "seconds"))
"""Seconds from which on a unit is used, its own seconds, and its name."""
MAX_LABEL = 200
"""Characters of a name beside a curve."""
Across = Callable[[Point], float]


def tokens_of(point: Point) -> float:
    """Where a point lies on the axis of tokens."""
    return float(point.tokens)


def time_unit(seconds: float) -> tuple[float, str]:
    """Return the seconds of the unit in which so long a time is read, and its name."""
    return next((unit_s, name) for least_s, unit_s, name in TIME_UNITS if seconds >= least_s)


def time_axis(log: RunLog) -> tuple[str, Across]:
    """Return the label of the axis of time, and where a point lies on it: time of running, pauses between starts left out."""
    divisor, unit = time_unit(log.running_s)
    return f"{unit} of running", lambda point: (log.running_s + point.time_s) / divisor


def line(label: str, curve: Curve, across: Across, look: int, **settings: Any) -> Line:
    """Return the line of a curve."""
    return Line(
        label=label[:MAX_LABEL],
        points=[(across(point), point.value) for point in curve.points()],
        look=look,
        **settings,
    )


def start_marks(log: RunLog, across: Across) -> list[Mark]:
    """Return the moments at which the run was started again."""
    marks = []
    for place, start in enumerate(log.starts):
        if start.step:  # not the first, at step 0
            point = Point(start.step, tokens_at(log, start.step), start.begins_at_s - log.running_s, 0.0)
            number = start.number or log.num_starts - len(log.starts) + place + 1
            marks.append(Mark(x=across(point), words=f"start {number}, after step {start.step:,}"))
    return marks


def tokens_at(log: RunLog, step: int) -> int:
    """Return the tokens consumed up to a step: between records, by the straight line."""
    before = Point(0, 0, 0.0, 0.0)
    points = log.steps["learning_rate"].points() if "learning_rate" in log.steps else []
    for point in points:
        if point.step >= step:
            share = (step - before.step) / max(1, point.step - before.step)
            return round(before.tokens + share * (point.tokens - before.tokens))
        before = point
    return before.tokens


def step_table(log: RunLog, columns: Mapping[str, Callable[[Mapping[str, Any]], object]]) -> Markup:
    """Return a table of records of steps, evenly spread. Args: columns: what each shows of a record, by its title."""
    running = {"running": lambda row: duration(log.running_s + row["time_s"])}
    return record_table(log.step_rows, running | dict(columns), "records of steps")


def record_table(rows: Rows, columns: Mapping[str, Callable[[Mapping[str, Any]], object]], what: str) -> Markup:
    """Return a table of the records that are kept."""
    shown: Sequence[Mapping[str, Any]] = rows.rows()
    head = ["step", "tokens", *(name(title) for title in columns)]
    body = [
        [f"{row['step']:,}", count(finite(row.get("consumed_tokens")) or 0), *(cell(row) for cell in columns.values())]
        for row in shown
    ]
    caption = f"{len(shown):,} of {rows.count:,} {what}, evenly spread" if len(shown) < rows.count else None
    return table(head, body, caption=caption)


def number_cell(key: str) -> Callable[[Mapping[str, Any]], str]:
    """Return the cell of a number."""
    return lambda row: figure(finite(row.get(key)))


def loss_cell(field: str, key: str | None = None) -> Callable[[Mapping[str, Any]], str]:
    """Return the cell of a loss, or of one domain's in a field of several."""

    def cell(row: Mapping[str, Any]) -> str:
        value = row.get(field)
        if key is not None:
            value = value.get(key, "–") if isinstance(value, dict) else "–"
        return value if value == "–" else loss(value)

    return cell


def percent_cell(key: str) -> Callable[[Mapping[str, Any]], str]:
    """Return the cell of a share."""
    return lambda row: percent(finite(row.get(key)))
