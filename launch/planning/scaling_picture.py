"""The picture of a scaling table: an SVG file that stands alone, drawn as the report draws its curves."""

from pathlib import Path

from fanal.errors import UserError, user_path
from fanal.files import write_whole
from pretrain.plan.scaling import KINDS, Point
from pretrain.report.chart import HEIGHT, Chart, Line, look_class, picture
from pretrain.report.markup import Markup, element, joined
from pretrain.report.style import style_sheet

ROW = 16
"""Height of a line of the legend."""


def check_picture(target: Path) -> None:
    """Raises: UserError if the file is no SVG, or its folder is not there."""
    with user_path(target):
        if target.suffix != ".svg":
            raise UserError(f"--scaling ({target}) must name an SVG file; --scaling {target}.svg works")
        if target.is_dir() or not target.absolute().parent.is_dir():
            raise UserError(
                f"--scaling ({target}) must name a file in a folder that exists; --scaling scaling.svg works"
            )


def draw(target: Path, points: list[Point], title: str) -> None:
    """Write the curves of tokens a second and GPU over the number of GPUs."""
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
