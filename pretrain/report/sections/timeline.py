"""The starts of a run on a time line: jobs, nodes, code, and how each ended."""

from collections.abc import Iterator

from pretrain.log.start_file import StartFile
from pretrain.report.chart import details, table
from pretrain.report.markup import Markup, element, name
from pretrain.report.quantities import finite, when
from pretrain.report.read_log import LoggedStart
from pretrain.report.sections.curves import time_unit
from pretrain.report.stacked import Bar, timeline_figure
from pretrain.report.view import RunView

MAX_BARS = 40
MAX_HOSTS = 8
SHORT_COMMIT = 10


def timeline_parts(view: RunView) -> Iterator[Markup]:
    """Yield the time line and the table of the starts."""
    log = view.log
    if not log.starts:
        return
    first = log.num_starts - len(log.starts) + 1
    numbered = [(start.number or first + at, start) for at, start in enumerate(log.starts)]
    if log.num_starts > MAX_BARS:
        yield element(
            "p", f"The newest {min(MAX_BARS, len(numbered))} of {log.num_starts:,} starts are drawn.", class_="note"
        )
    yield _drawn(view, numbered[-MAX_BARS:])
    head = [
        "start",
        "ready to train",
        "user",
        "job",
        "nodes",
        "ranks",
        "code",
        "after step",
        "last step",
        "lost steps",
        "end",
    ]
    yield details("Starts", table(head, [_row(view, number, start) for number, start in numbered]))


def _drawn(view: RunView, numbered: list[tuple[int, LoggedStart]]) -> Markup:
    by_clock = all(start.ended_unix_s is not None for _, start in numbered)
    begins = [_began_unix_s(view, start) if by_clock else start.begins_at_s for _, start in numbered]
    ends = [begin + start.running_s for begin, (_, start) in zip(begins, numbered, strict=True)]
    first = min(begins)
    divisor, unit = time_unit(max(ends) - first)
    looks: dict[object, int] = {}
    bars = []
    for (number, start), begin, end in zip(numbered, begins, ends, strict=True):
        file = view.starts.get(number)
        job = file.job if file is not None else None
        look = looks.setdefault(job if job is not None else ("start", number), len(looks) % 8)
        bars.append(
            Bar(
                label=f"{number}" + (f" · {job[:10]}" if job else ""),
                begin=(begin - first) / divisor,
                end=(end - first) / divisor,
                words=f"start {number}, from step {start.step or 0:,} to {start.last_step or start.step or 0:,}, {_end(start)}",
                look=look,
            )
        )
    since = f"{unit} since {when(first)}" if by_clock else f"{unit} of running"
    return timeline_figure("Starts of the run (number · job)", since, bars)


def _began_unix_s(view: RunView, start: LoggedStart) -> float:
    """Wall clock of a start's command."""
    file = view.starts.get(start.number or 0)
    if file is not None:
        return file.time_unix_s - file.startup_s
    return (start.ended_unix_s or 0.0) - start.running_s


def _row(view: RunView, number: int, start: LoggedStart) -> list[object]:
    file = view.starts.get(number)
    ranks = file.num_ranks if file is not None else finite(start.record.get("num_ranks"))
    return [
        number,
        when(file.time_unix_s if file is not None else start.began_unix_s),
        name(file.user) if file is not None else "–",
        name(file.job) if file is not None and file.job is not None else "–",
        name(_hosts(file)) if file is not None else "–",
        "–" if ranks is None else f"{ranks:,.0f}",
        name(_code(file)) if file is not None else "–",
        "–" if start.step is None else f"{start.step:,}",
        "–" if start.last_step is None else f"{start.last_step:,}",
        f"{start.lost_steps:,}",
        name(_end(start)),
    ]


def _hosts(file: StartFile) -> str:
    more = f" and {len(file.hosts) - MAX_HOSTS:,} more" if len(file.hosts) > MAX_HOSTS else ""
    return f"{', '.join(file.hosts[:MAX_HOSTS])}{more}"


def _code(file: StartFile) -> str:
    code = file.code
    commit = f", commit {code.commit[:SHORT_COMMIT]}" if code.commit else ""
    return f"{code.version}{commit}{', modified' if code.modified else ''}"


def _end(start: LoggedStart) -> str:
    if start.end is None:
        return "no end was written"
    asked = start.end.get("asked_by")
    return f"{start.end.get('outcome')}{f' ({asked})' if asked else ''}"
