"""A chart as inline SVG, with its legend, its text alternative and the numbers behind it.

It is drawn small, and grows with the page: so its text can be read on a phone. Curves differ by colour and by dashes. Colours are
classes, of which style.py has one set for a light page, one for a dark one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pretrain.report.markup import Markup, element, joined, name
from pretrain.report.quantities import figure, labels, log_ticks, ticks

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 42
NUM_COLOURS = 8
DASHES = (None, "7 4", "2 3")
LOG_FROM = 50
"""Ratio of the largest to the smallest number of a curve from which on its axis is logarithmic, if all are above 0."""
XY = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve."""

    label: str
    points: Sequence[XY]
    look: int
    """Number of its colour and dashes."""
    dots: bool = False
    """Whether each point is marked, as where there are few."""
    joins: bool = True
    """Whether points are joined by a line."""
    faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A moment, as a line from top to bottom, or a point that stands out."""

    x: float
    words: str
    y: float | None = None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What a chart shows."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    may_be_log: bool = False
    from_zero: bool = False


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis: numbers to places."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Return the place of a number in the picture."""
        low, high, value = (math.log(number) if self.is_log else number for number in (self.low, self.high, value))
        return self.start + (self.end - self.start) * ((value - low) / (high - low) if high > low else 0.5)

    def ticks(self) -> list[float]:
        """Return the round numbers on it."""
        return log_ticks(self.low, self.high) if self.is_log else ticks(self.low, self.high)


def chart_figure(chart: Chart, numbers: Markup | None = None, note: object = None) -> Markup:
    """Return a figure: title, picture, legend, and the table of numbers, closed.

    Args: note: what else to say below it.
    """
    lines = [line for line in chart.lines if line.points]
    if not lines:
        return Markup("")
    return element(
        "figure",
        element("figcaption", chart.title),
        picture(chart),
        _legend(lines) if len(lines) > 1 else None,
        element("p", note, class_="note") if note is not None else None,
        details("Numbers", numbers) if numbers is not None else None,
    )


def details(summary: object, content: object, **attributes: object) -> Markup:
    """Return what opens at a click, and is printed open."""
    return element(
        "details", element("summary", summary), element("div", content, class_="scroll", tabindex="0"), **attributes
    )


def table(head: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str | None = None) -> Markup:
    """Return a table whose first column names its rows. Columns of names and lists are aligned to the left."""
    is_text = [index == 0 or any(_is_text(row[index]) for row in rows) for index in range(len(head))]
    classes = ["text" if text else None for text in is_text]
    return element(
        "table",
        element("caption", caption) if caption else None,
        element(
            "thead",
            element(
                "tr",
                [element("th", cell, scope="col", class_=look) for cell, look in zip(head, classes, strict=True)],
            ),
        ),
        element("tbody", [_row(row, classes) for row in rows]),
    )


def _row(row: Sequence[object], classes: Sequence[str | None]) -> Markup:
    cells = [element("td", cell, class_=look) for cell, look in zip(row[1:], classes[1:], strict=True)]
    return element("tr", element("th", row[0], scope="row"), cells)


def _is_text(cell: object) -> bool:
    return isinstance(cell, Markup) and cell.startswith(("<bdi", "<ul", "<code"))


def picture(chart: Chart) -> Markup:
    """Return the SVG of a chart that has a point."""
    lines = [line for line in chart.lines if line.points]
    x, y = _scales(chart, lines)
    return element(
        "svg",
        element("title", chart.title),
        element("desc", _in_words(chart, lines)),
        _axes(chart, x, y),
        _marks(chart.marks, x, y),
        [_curve(line, x, y) for line in lines],
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=chart.title,
        # The numbers at the edges of the plot: so a place in the picture can be read back.
        data_x=f"{x.low!r} {x.high!r}",
        data_y=f"{y.low!r} {y.high!r}{' log' if y.is_log else ''}",
    )


def look_class(look: int) -> str:
    """Return the class of a look's colour."""
    return f"c{look % NUM_COLOURS}"


def _scales(chart: Chart, lines: Sequence[Line]) -> tuple[Scale, Scale]:
    xs = [point[0] for line in lines for point in line.points]
    ys = [point[1] for line in lines for point in line.points]
    low, high = min(ys), max(ys)
    is_log = chart.may_be_log and low > 0 and high / low > LOG_FROM
    if chart.from_zero:
        low = min(0.0, low)
    if not is_log:
        room = (high - low) * 0.04 or abs(high) * 0.05 or 1.0
        low, high = (low if chart.from_zero and low == 0 else low - room), high + room
    return (
        Scale(low=min(xs), high=max(xs), start=LEFT, end=WIDTH - RIGHT),
        Scale(low=low, high=high, start=HEIGHT - BOTTOM, end=TOP, is_log=is_log),
    )


def _axes(chart: Chart, x: Scale, y: Scale) -> Iterator[Markup]:
    y_ticks, x_ticks = y.ticks(), x.ticks()
    for tick, words in zip(y_ticks, _words(y_ticks, is_log=y.is_log), strict=True):
        down = y.place(tick)
        yield element("path", d=f"M{LEFT} {down:.1f}H{WIDTH - RIGHT}", class_="grid")
        yield element("text", words, x=LEFT - 6, y=f"{down + 4:.1f}", text_anchor="end")
    for tick, words in zip(x_ticks, labels(x_ticks), strict=True):
        across = x.place(tick)
        anchor = "end" if across > WIDTH - RIGHT - 20 else "middle"
        yield element("path", d=f"M{across:.1f} {HEIGHT - BOTTOM}v4", class_="axis")
        yield element("text", words, x=f"{across:.1f}", y=HEIGHT - BOTTOM + 17, text_anchor=anchor)
    yield element("path", d=f"M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}", class_="axis")
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield element("text", f"{chart.x_label} → {chart.y_label}", x=middle, y=HEIGHT - 6, text_anchor="middle")


def _words(numbers: Sequence[float], *, is_log: bool) -> list[str]:
    return [f"{number:g}" for number in numbers] if is_log else labels(numbers)


def _curve(line: Line, x: Scale, y: Scale) -> Iterator[Markup]:
    places = [(x.place(across), y.place(up)) for across, up in line.points]
    colour = look_class(line.look)
    if line.joins and len(places) > 1:
        path = "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places)
        yield element(
            "path",
            d=path,
            class_=f"curve {colour}{' faint' if line.faint else ''}",
            stroke_dasharray=DASHES[line.look // NUM_COLOURS % len(DASHES)],
            data_name=line.label,
        )
    if line.dots or not line.joins or len(places) == 1:
        for (across, down), (at, value) in zip(places, line.points, strict=True):
            said = element("title", f"{line.label}: {figure(value)} at {figure(at, 6)}")
            yield element("circle", said, cx=f"{across:.1f}", cy=f"{down:.1f}", r=3, class_=f"dot {colour}")


def _marks(marks: Sequence[Mark], x: Scale, y: Scale) -> Iterator[Markup]:
    for mark in marks:
        if not x.low <= mark.x <= x.high:
            continue
        across, said = x.place(mark.x), element("title", mark.words)
        if mark.y is None:
            yield element("path", said, d=f"M{across:.1f} {TOP}V{HEIGHT - BOTTOM}", class_="mark")
        elif y.low <= mark.y <= y.high:
            down = y.place(mark.y)
            yield element("path", said, d=f"M{across - 4:.1f} {down - 9:.1f}h8l-4 8z", class_="flag")


def _legend(lines: Sequence[Line]) -> Markup:
    return element("ul", [element("li", _swatch(line), name(line.label)) for line in lines], class_="legend")


def _swatch(line: Line) -> Markup:
    dash = DASHES[line.look // NUM_COLOURS % len(DASHES)]
    drawn = (
        element(
            "path",
            d="M0 5h24",
            class_=f"curve {look_class(line.look)}{' faint' if line.faint else ''}",
            stroke_dasharray=dash,
        )
        if line.joins
        else element("circle", cx=12, cy=5, r=3, class_=f"dot {look_class(line.look)}")
    )
    return element(
        "svg",
        drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox="0 0 24 10",
        width=24,
        height=10,
        aria_hidden="true",
    )


def _in_words(chart: Chart, lines: Sequence[Line]) -> Markup:
    """What the picture shows, for who does not see it."""
    return joined(
        [
            f"{line.label}: from {figure(line.points[0][1])} to {figure(line.points[-1][1])}, lowest "
            f"{figure(min(map(_up, line.points)))}, highest {figure(max(map(_up, line.points)))}. "
            for line in lines
        ],
        f"{len(chart.marks)} moments are marked." if chart.marks else None,
    )


def _up(point: XY) -> float:
    return point[1]
