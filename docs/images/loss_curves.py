"""Draws the loss curves of a run as an SVG: ``python -m docs.images.loss_curves RUN_DIR/metrics.jsonl OUT.svg``.

Needs the standard library only. The background is transparent and the colours read on white and on black, since a README is
shown on both.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 52, 118, 40, 44  # the right margin holds the names of the domains
COLOURS = ("#3b82f6", "#e07b00", "#0f9d76", "#b455d4", "#d64550")
GREY = "#808080"
LINE_HEIGHT = 16.0
Point = tuple[int, float]
Place = Callable[[Point], str]
"""Where a step and its loss lie in the picture, as "across,down"."""


def loss_curves(metrics: Path, *, title: str) -> str:
    """The SVG of a metrics.jsonl: training loss by domain as lines, validation loss by domain as points on a dashed line."""
    training, validation = read_curves(metrics)
    domains = sorted(training | validation)
    if not domains:
        raise ValueError(f"{metrics} holds no loss of a step or a validation; a run that has logged two steps does")
    points = [point for curves in (training, validation) for curve in curves.values() for point in curve]
    last_step = max(step for step, _ in points)
    lowest, highest = math.floor(min(loss for _, loss in points)), math.ceil(max(loss for _, loss in points))

    def place(point: Point) -> str:
        step, loss = point
        across = LEFT + (WIDTH - LEFT - RIGHT) * step / max(last_step, 1)
        down = TOP + (HEIGHT - TOP - BOTTOM) * (highest - loss) / max(highest - lowest, 1)
        return f"{across:.1f},{down:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="13" fill="{GREY}">',
        f"<title>{escape(title)}</title>",
        f'<text x="{LEFT}" y="20" font-size="15" font-weight="600">{escape(title)}</text>',
        *_axes(place, last_step, lowest, highest),
    ]
    for at, domain in enumerate(domains):
        parts += _curve(training.get(domain, []), validation.get(domain, []), COLOURS[at % len(COLOURS)], place)
    parts += _names({domain: (validation.get(domain) or training[domain])[-1] for domain in domains}, place)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def read_curves(metrics: Path) -> tuple[dict[str, list[Point]], dict[str, list[Point]]]:
    """Training and validation losses by domain, in order of steps. A step logged again after a resume counts once."""
    found: dict[str, dict[str, dict[int, float]]] = {"step": {}, "validation": {}}
    fields = {"step": "loss_by_domain", "validation": "validation_loss"}
    with metrics.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # a run that was killed may leave a torn line
            kind = record.get("kind")
            for domain, loss in record[fields[kind]].items() if kind in fields else ():
                if loss is not None:
                    found[kind].setdefault(domain, {})[record["step"]] = loss
    training, validation = (
        {domain: sorted(curve.items()) for domain, curve in found[kind].items()} for kind in ("step", "validation")
    )
    return training, validation


def _axes(place: Place, last_step: int, lowest: int, highest: int) -> Iterator[str]:
    for loss in range(lowest, highest + 1):
        across, down = place((0, loss)).split(",")
        yield f'<path d="M{across},{down} H{WIDTH - RIGHT}" stroke="{GREY}" stroke-opacity="0.3"/>'
        yield f'<text x="{LEFT - 8}" y="{float(down) + 4:.1f}" text-anchor="end">{loss}</text>'
    for quarter in range(5):
        step = round(last_step * quarter / 4)
        across = place((step, lowest)).split(",")[0]
        yield f'<text x="{across}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step:,}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">step (loss in nats per token)</text>'


def _curve(training: Sequence[Point], validation: Sequence[Point], colour: str, place: Place) -> Iterator[str]:
    """One domain: its training line and its validation points."""
    if training:
        path = " ".join(place(point) for point in training)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    if validation:
        path = " ".join(place(point) for point in validation)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-dasharray="4 4" stroke-opacity="0.8"/>'
        for point in validation:
            across, down = place(point).split(",")
            yield f'<circle cx="{across}" cy="{down}" r="4" fill="{colour}"/>'


def _names(ends: dict[str, Point], place: Place) -> Iterator[str]:
    """The name and the last loss of each domain, beside its end and a line of text apart from the one above."""
    above = -LINE_HEIGHT
    for domain in sorted(ends, key=lambda name: -ends[name][1]):
        across, down = (float(number) for number in place(ends[domain]).split(","))
        above = max(down + 4, above + LINE_HEIGHT)
        colour = COLOURS[sorted(ends).index(domain) % len(COLOURS)]
        yield f'<text x="{across + 10:.1f}" y="{above:.1f}" fill="{colour}">{escape(domain)} {ends[domain][1]:.2f}</text>'


def main(arguments: Sequence[str]) -> int:
    """Draw one file; returns the exit code."""
    if len(arguments) != 2:
        print("usage: python -m docs.images.loss_curves RUN_DIR/metrics.jsonl OUT.svg", file=sys.stderr)
        return 2
    metrics, out = map(Path, arguments)
    title = f"{metrics.parent.name}: training loss (lines) and validation loss (points)"
    try:
        out.write_text(loss_curves(metrics, title=title), encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{out}: drawn from {metrics}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
