"""Shares of a whole as stacked areas, or as one bar; and starts as bars on a time line. SVG as of chart.py."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pretrain.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, details, look_class
from pretrain.report.markup import Markup, element, name
from pretrain.report.quantities import labels, percent, ticks

ROW = 22
BAR_HEIGHT = 40


@dataclass(frozen=True, kw_only=True)
class Area:
    """One part of a whole, in each stretch."""

    label: str
    shares: Sequence[float]
    look: int


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A stretch of time."""

    label: str
    begin: float
    end: float
    words: str
    look: int


def areas_figure(
    title: str, x_label: str, bounds: Sequence[float], areas: Sequence[Area], numbers: Markup, marks: Sequence[float]
) -> Markup:
    """Return a figure of areas, one on the other, of stretches with these bounds. Each stretch's shares add up to 1."""
    x = Scale(low=bounds[0], high=bounds[-1], start=LEFT, end=WIDTH - RIGHT)
    y = Scale(low=0.0, high=1.0, start=HEIGHT - BOTTOM, end=TOP)
    words = ". ".join(f"{area.label}: {percent(area.shares[0])} to {percent(area.shares[-1])}" for area in areas)
    drawn = element(
        "svg",
        element("title", title),
        element("desc", words),
        list(_areas(areas, bounds, x, y)),
        [
            element("text", percent(share), x=LEFT - 6, y=f"{y.place(share) + 4:.1f}", text_anchor="end")
            for share in (0.0, 0.5, 1.0)
        ],
        list(_ticks(x, HEIGHT - BOTTOM)),
        [element("path", d=f"M{x.place(mark):.1f} {TOP}V{HEIGHT - BOTTOM}", class_="mark") for mark in marks],
        element("text", f"{x_label} → share", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, text_anchor="middle"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=title,
    )
    legend = element("ul", [element("li", _square(area.look), name(area.label)) for area in areas], class_="legend")
    return element("figure", element("figcaption", title), drawn, legend, details("Numbers", numbers))


def timeline_figure(title: str, x_label: str, bars: Sequence[Bar]) -> Markup:
    """Return a figure of bars, each in a row of its own with its words."""
    low, high = min(bar.begin for bar in bars), max(bar.end for bar in bars)
    height, width = ROW * len(bars) + 44, WIDTH
    x = Scale(low=low, high=high if high > low else low + 1, start=96, end=width - RIGHT)
    floor = height - 40
    drawn = element(
        "svg",
        element("title", title),
        element("desc", ". ".join(bar.words for bar in bars)),
        [_bar(bar, number, x) for number, bar in enumerate(bars)],
        list(_ticks(x, floor)),
        element("path", d=f"M96 2V{floor}H{width - RIGHT}", class_="axis"),
        element("text", x_label, x=(96 + width - RIGHT) / 2, y=height - 4, text_anchor="middle"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=title,
    )
    return element("figure", element("figcaption", title), drawn)


def bar_figure(title: str, areas: Sequence[Area]) -> Markup:
    """Return a figure of one bar. Each area has one share; together they are 1."""
    x = Scale(low=0.0, high=1.0, start=4, end=WIDTH - 4)
    before, drawn = 0.0, []
    for area in areas:
        begin, end = x.place(before), x.place(before + area.shares[0])
        said = element("title", f"{area.label}: {percent(area.shares[0])}")
        drawn.append(
            element("rect", said, x=f"{begin:.1f}", y=4, width=f"{end - begin:.1f}", height=24, class_=_area(area.look))
        )
        before += area.shares[0]
    words = [f"{area.label} {percent(area.shares[0])}" for area in areas]
    picture = element(
        "svg",
        element("title", title),
        element("desc", ". ".join(words)),
        drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {BAR_HEIGHT}",
        role="img",
        aria_label=title,
    )
    legend = [element("li", _square(area.look), said) for area, said in zip(areas, words, strict=True)]
    return element("figure", element("figcaption", title), picture, element("ul", legend, class_="legend"))


def _areas(areas: Sequence[Area], bounds: Sequence[float], x: Scale, y: Scale) -> Iterator[Markup]:
    below = [0.0] * (len(bounds) - 1)
    for area in areas:
        above = [low + share for low, share in zip(below, area.shares, strict=True)]
        forward = [
            f"{x.place(at):.1f} {y.place(share):.1f}"
            for share, ends in zip(above, itertools.pairwise(bounds), strict=True)
            for at in ends
        ]
        back = [
            f"{x.place(at):.1f} {y.place(share):.1f}"
            for share, ends in zip(below, itertools.pairwise(bounds), strict=True)
            for at in ends
        ][::-1]
        yield element("path", d=f"M{'L'.join([*forward, *back])}Z", class_=_area(area.look), data_name=area.label)
        below = above


def _bar(bar: Bar, number: int, x: Scale) -> Markup:
    top, begin, end = 4 + ROW * number, x.place(bar.begin), x.place(bar.end)
    return element(
        "g",
        element("text", bar.label, x=90, y=top + 13, text_anchor="end"),
        element(
            "rect",
            element("title", bar.words),
            x=f"{begin:.1f}",
            y=top,
            width=f"{max(2.0, end - begin):.1f}",
            height=ROW - 6,
            class_=_area(bar.look),
        ),
    )


def _ticks(x: Scale, floor: float) -> Iterator[Markup]:
    found = ticks(x.low, x.high, most=5)
    for tick, words in zip(found, labels(found), strict=True):
        across = x.place(tick)
        anchor = "end" if across > x.end - 20 else "middle"
        yield element("path", d=f"M{across:.1f} {floor}v4", class_="axis")
        yield element("text", words, x=f"{across:.1f}", y=floor + 17, text_anchor=anchor)


def _square(look: int) -> Markup:
    return element(
        "svg",
        element("rect", width=12, height=10, class_=_area(look)),
        xmlns="http://www.w3.org/2000/svg",
        viewBox="0 0 12 10",
        width=12,
        height=10,
        aria_hidden="true",
    )


def _area(look: int) -> str:
    return f"area {look_class(look)}{' second' if look >= 8 else ''}"
