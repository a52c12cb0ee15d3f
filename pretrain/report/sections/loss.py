"""Training loss by domain, on tokens and on time; validation losses."""

from collections.abc import Iterator

from pretrain.report.chart import Chart, Line, chart_figure
from pretrain.report.markup import Markup
from pretrain.report.sections.curves import (
    TOKENS,
    Across,
    line,
    loss_cell,
    number_cell,
    record_table,
    start_marks,
    step_table,
    time_axis,
    tokens_of,
)
from pretrain.report.view import RunView

ALL = "all domains"
LOSS = "loss (nats per token)"


def loss_charts(view: RunView) -> Iterator[Markup]:
    """Yield the charts of the losses."""
    log = view.log
    if log.num_steps:
        label, at_time = time_axis(log)
        numbers = step_table(
            log,
            {
                "loss": loss_cell("loss"),
                **{domain: loss_cell("loss_by_domain", domain) for domain in log.domains},
                "learning rate": number_cell("learning_rate"),
            },
        )
        yield chart_figure(_training(view, TOKENS, tokens_of, "Training loss on tokens"), numbers, _notes(view))
        yield chart_figure(_training(view, label, at_time, "Training loss on time", with_lost=True))
    if log.validation_rows.count:
        yield _validation(view)


def _training(view: RunView, x_label: str, across: Across, title: str, *, with_lost: bool = False) -> Chart:
    log = view.log
    lines = [line(domain, curve, across, look) for look, (domain, curve) in enumerate(sorted(log.domains.items()))]
    if len(lines) != 1:
        lines.append(line(ALL, log.steps["loss"], across, 7, faint=bool(lines)))
    if with_lost:
        lines.append(line("lost steps", log.lost, across, 4, joins=False))
    return Chart(title=title, x_label=x_label, y_label=LOSS, lines=lines, marks=start_marks(log, across))


def _validation(view: RunView) -> Markup:
    log = view.log
    lines: list[Line] = []
    for look, (domain, curve) in enumerate(sorted(log.validation.items())):
        lines.append(line(domain, curve, tokens_of, look, dots=len(curve.points()) <= 60))
    for look, (domain, curve) in enumerate(sorted(log.ema_validation.items())):
        lines.append(line(f"{domain}, moving average of the weights", curve, tokens_of, look + 8))
    columns = {domain: loss_cell("validation_loss", domain) for domain in log.validation}
    columns |= {f"{domain} (average)": loss_cell("ema_validation_loss", domain) for domain in log.ema_validation}
    chart = Chart(title="Validation loss", x_label=TOKENS, y_label=LOSS, lines=lines, marks=start_marks(log, tokens_of))
    return chart_figure(chart, record_table(log.validation_rows, columns, "validations"))


def _notes(view: RunView) -> str | None:
    log = view.log
    said = []
    if log.not_finite:
        said.append(
            f"{log.not_finite:,} records have a loss or a gradient norm that is not finite; they are not drawn."
        )
    if log.domains_left_out:
        said.append(f"Only {len(log.domains)} domains are drawn; {log.domains_left_out:,} records have more.")
    if log.num_starts > 1:
        said.append("A dashed line is a start of the run.")
    return " ".join(said) or None
