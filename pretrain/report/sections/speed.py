"""Throughput, utilization and memory, with the starts marked."""

from collections.abc import Iterator

from pretrain.report.chart import Chart, Line, chart_figure
from pretrain.report.markup import Markup
from pretrain.report.quantities import finite, size
from pretrain.report.sections.curves import line, number_cell, percent_cell, start_marks, step_table, time_axis
from pretrain.report.thinning import Curve
from pretrain.report.view import RunView

GIB = 2**30


def speed_charts(view: RunView) -> Iterator[Markup]:
    """Yield the charts of the pace."""
    log = view.log
    if not log.num_steps:
        return
    label, at_time = time_axis(log)
    marks = start_marks(log, at_time)
    yield chart_figure(
        Chart(
            title="Throughput",
            x_label=label,
            y_label="tokens a second, all ranks",
            lines=[line("tokens a second", log.steps["tokens_per_second"], at_time, 0)],
            marks=marks,
            from_zero=True,
        ),
        step_table(
            log,
            {
                "tokens/s": number_cell("tokens_per_second"),
                "a rank": number_cell("tokens_per_second_per_gpu"),
                "step, s": number_cell("step_time_s"),
                "MFU": percent_cell("mfu_full"),
                "MFU, causal": percent_cell("mfu_causal"),
            },
        ),
    )
    used = [
        (words, log.steps.get(key, Curve()))
        for words, key in (("full attention", "mfu_full"), ("causal", "mfu_causal"))
    ]
    lines = [line(words, curve, at_time, look) for look, (words, curve) in enumerate(used)]
    yield chart_figure(
        Chart(
            title="Model FLOPs utilization (MFU)",
            x_label=label,
            y_label="% of the devices' peak",
            lines=[_times(each, 100.0) for each in lines],
            marks=marks,
            from_zero=True,
        ),
        step_table(log, {"MFU": percent_cell("mfu_full"), "MFU, causal": percent_cell("mfu_causal")}),
    )
    memory = line("peak memory", log.steps["peak_memory_bytes"], at_time, 2)
    yield chart_figure(
        Chart(
            title="Peak memory of the fullest rank",
            x_label=label,
            y_label="GiB",
            lines=[_times(memory, 1 / GIB)],
            marks=marks,
            from_zero=True,
        ),
        step_table(log, {"peak memory": lambda row: size(finite(row.get("peak_memory_bytes")) or 0.0)}),
    )


def _times(drawn: Line, factor: float) -> Line:
    return Line(label=drawn.label, look=drawn.look, points=[(at, value * factor) for at, value in drawn.points])
