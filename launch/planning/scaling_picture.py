"""The picture of a scaling table: an SVG file that stands alone, drawn as the report draws its curves."""

from pathlib import Path

from fanal.files import write_whole, writing
from pretrain.plan.scaling import KINDS, Point
from pretrain.report.chart import HEIGHT, Chart, Line, look_class, picture
from pretrain.report.markup import Markup, element, joined
from pretrain.report.style import style_sheet

ROW = 16
"""Height of a line of the legend."""


def draw(target: Path, points: list[Point], title: str) -> None:
    """Write the curves of tokens a second and GPU over the number of GPUs."""
    with writing(target):
        write_whole(target, str(svg(points, title)) + "\n")


def svg(points: list[Point], title: str) -> Markup:
    """Return the picture with its colours and its legend."""
    lines = [
        Line(label=f"{kind}: {what}", points=_places(points, kind), look=look, dots=True)
        for look, (kind, what) in enumerate(KINDS.items())
    ]
    chart = Chart(title=title, x_label="GPUs", y_label="tokens/s/GPU", lines=lines, from_zero=True)
    legend = [
        element("text", line.label, x=80, y=HEIGHT - 80 + ROW * row, class_=f"dot {look_class(line.look)}")
        for row, line in enumerate(lines)
    ]
    drawn = str(picture(chart))
    start = drawn.index(">") + 1
    inside = joined(element("style", Markup("svg { background: var(--page); }" + style_sheet())), legend)
    return Markup(drawn[:start] + str(inside) + drawn[start:])


def _places(points: list[Point], kind: str) -> list[tuple[float, float]]:
    return [
        (float(point.num_gpus), point.estimate.tokens_per_second_per_gpu)
        for point in points
        if point.kind == kind and point.estimate is not None
    ]
