"""Several runs as a table for users: a line each, 80 columns where the terminal has no more."""

from collections.abc import Sequence
from typing import Any

from fanal.shown import on_one_line
from launch.status.several import Look

COLUMNS = (
    ("state", -9), ("step/of", 11), ("tokens", 6), ("loss", 6), ("t/s/GPU", 7),
    ("x plan", 6), ("seen", 4), ("job", 8), ("to go", 5),
)  # fmt: skip
"""Title and width of each column after the name of the run; below zero it begins at the left."""
OTHERS = sum(abs(width) + 1 for _, width in COLUMNS)
FEWEST = 9
"""Characters of a run's name that are shown at least."""
UNITS = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def lines(looks: Sequence[Look], width: int | None) -> list[str]:
    """Return the table. Args: width: columns of the terminal; None for a file or a pipe, where nothing is cut."""
    names = _names(looks)
    longest = max(map(len, [*names, "run"]))
    room = longest if width is None else min(longest, max(FEWEST, width - OTHERS))
    rows = [_row("run", [title for title, _ in COLUMNS], room)]
    for name, look in zip(names, looks, strict=True):
        if look.found is None:
            reason = look.problem.replace(f"{look.run_dir.absolute()}/", "")
            rows.append(_fitted(f"{_end_of(name, room):<{room}} {reason}", width))
        else:
            rows.append(_row(name, _cells(look.found), room))
    return rows


def _row(name: str, cells: Sequence[str], room: int) -> str:
    fitted = [
        f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}"
        for cell, (_, width) in zip(cells, COLUMNS, strict=True)
    ]
    return " ".join([f"{_end_of(name, room):<{room}}", *fitted]).rstrip()


def _names(looks: Sequence[Look]) -> list[str]:
    """Return the last parts of the folders' paths, as many as tell them apart."""
    parts = [look.run_dir.absolute().parts for look in looks]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            break
    return [on_one_line(name) for name in names]


def _end_of(name: str, room: int) -> str:
    return name if len(name) <= room else "…" + name[len(name) - room + 1 :]


def _fitted(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


def _cells(found: dict[str, Any]) -> list[str]:
    pace, plan, of = found["pace"], found["plan"], found["train_steps"]
    age, hours = found["metrics_age_s"], found["eta_hours"]
    loss = found["loss_nats"]
    return [
        found["state"].replace("not started", "unstarted"),
        short(found["step"]) + ("" if of is None else f"/{short(of)}"),
        "-" if found["consumed_tokens"] is None else short(found["consumed_tokens"]),
        "-" if loss is None else f"{loss:.4g}"[:6],
        "-" if pace is None else short(pace["tokens_per_second_per_gpu"]),
        "-" if plan is None else f"{plan['times_as_long']:.2f}" if plan["times_as_long"] < 1000 else ">999",
        "-" if age is None else _span(age / 3600),
        _job(found),
        "-" if hours is None or found["state"] == "finished" else _span(hours),
    ]


def _job(found: dict[str, Any]) -> str:
    """Return the job that runs, or the last one that did."""
    running, attempts = found["jobs_running"] or found["jobs_waiting"], found["attempts"]
    return str(running[0]["job"]) if running else attempts[-1]["job"] if attempts else "-"


def short(value: float) -> str:
    """Return a count or a rate in five characters: 999, 12.3k, 1.23T."""
    for size, unit in UNITS:
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _span(hours: float) -> str:
    """Return a time in at most four characters: 12s, 34m, 5.6h, 78h, 9.1d, 123d."""
    if hours >= 72:
        return _two(hours / 24, "d")
    if hours >= 1:
        return _two(hours, "h")
    return f"{hours * 60:.0f}m" if hours * 60 >= 1 else f"{hours * 3600:.0f}s"


def _two(value: float, unit: str) -> str:
    return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}" if value < 9999 else f">9k{unit}"
