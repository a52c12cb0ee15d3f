"""Checkpoints: how long they took and held training up, what failed, what is on the disk."""

from collections.abc import Iterator

from pretrain.report.chart import Chart, chart_figure, details, table
from pretrain.report.markup import Markup, element, name
from pretrain.report.quantities import figure, finite, size
from pretrain.report.sections.curves import line
from pretrain.report.view import RunView

MAX_NAMES = 20


def checkpoint_parts(view: RunView) -> Iterator[Markup]:
    """Yield the chart of the saves and what is to be said of checkpoints."""
    log = view.log
    if log.checkpoint_rows.count:
        kept = log.checkpoint_rows.rows()
        rows = [
            [
                f"{row['step']:,}",
                size(finite(row.get("num_bytes")) or 0.0),
                figure(finite(row.get("stall_s")), 3),
                figure(finite(row.get("save_s")), 3),
                name(row.get("warning") or "–"),
            ]
            for row in kept
        ]
        chart = Chart(
            title="Seconds of a save",
            x_label="step",
            y_label="seconds",
            lines=[
                line("until complete", log.saves, lambda point: float(point.step), 0, dots=len(kept) <= 60),
                line("training paused", log.stalls, lambda point: float(point.step), 1, dots=len(kept) <= 60),
            ],
            from_zero=True,
        )
        numbers = table(["step", "size", "paused, s", "complete after, s", "warning"], rows)
        yield chart_figure(chart, numbers)
    yield _on_disk(view)
    if log.num_failed_saves:
        rows = [[f"{row['step']:,}", name(row["failure"])] for row in log.failed_saves]
        yield element("p", f"{log.num_failed_saves:,} saves failed; training went on.", class_="alert")
        yield details("Saves that failed", table(["step", "reason"], rows))


def _on_disk(view: RunView) -> Markup:
    there = view.checkpoints
    said = f"{len(there):,} checkpoints are on the disk" + (f": {', '.join(there[:MAX_NAMES])}" if there else "")
    more = f" and {len(there) - MAX_NAMES:,} older ones" if len(there) > MAX_NAMES else ""
    aside = f" {len(view.set_aside):,} were set aside as damaged." if view.set_aside else ""
    return element("p", f"{said}{more}.{aside}")
