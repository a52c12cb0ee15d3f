"""Two runs side by side."""

from collections.abc import Iterator
from dataclasses import asdict

from pretrain.config.config_changes import config_changes
from pretrain.report.chart import Chart, Line, chart_figure, details, table
from pretrain.report.markup import Markup, element, name
from pretrain.report.sections.curves import TOKENS, line, time_unit, tokens_of
from pretrain.report.sections.head import facts
from pretrain.report.view import RunView

MAX_CHANGES = 200


def comparison_parts(first: RunView, second: RunView) -> Iterator[Markup]:
    """Yield charts with both runs in them, their figures side by side, and what differs in their configurations."""
    names = (f"{first.name} (this run)", second.name)
    runs = list(zip(names, (first, second), strict=True))
    yield element("p", "This run beside ", name(second.run_dir), ".")
    rows: dict[str, list[str]] = {}
    for place, (_, view) in enumerate(runs):
        for label, value, _ in facts(view):
            rows.setdefault(label, ["–", "–"])[place] = value
    yield element(
        "div", table(["", *map(name, names)], [[label, *pair] for label, pair in rows.items()]), class_="scroll"
    )
    if second.untold:
        yield element("ul", [element("li", name(line)) for line in second.untold], class_="plain note")
    charts = [
        _chart("Training loss of both", "loss (nats per token)", _lines(runs, "loss")),
        _chart("Validation loss of both", "loss (nats per token)", list(_validation_lines(runs))),
        _chart("Gradient norm of both", "L2 norm before clipping", _lines(runs, "grad_norm"), may_be_log=True),
        _throughput(runs),
    ]
    yield element("div", charts, class_="charts")
    if first.config is not None and second.config is not None:
        changes = config_changes(asdict(second.config), first.config)
        said = [element("li", name(line)) for line in changes[:MAX_CHANGES]]
        title = f"Configuration: {len(changes):,} differences, as {second.name} -> {first.name}"
        yield details(title, element("ul", said, class_="plain"))


def _chart(title: str, y_label: str, lines: list[Line], *, may_be_log: bool = False) -> Markup:
    return chart_figure(Chart(title=title, x_label=TOKENS, y_label=y_label, lines=lines, may_be_log=may_be_log))


def _lines(runs: list[tuple[str, RunView]], key: str) -> list[Line]:
    return [
        line(label, view.log.steps[key], tokens_of, look)
        for look, (label, view) in enumerate(runs)
        if key in view.log.steps
    ]


def _validation_lines(runs: list[tuple[str, RunView]]) -> Iterator[Line]:
    domains = sorted({domain for _, view in runs for domain in view.log.validation})
    for place, (label, view) in enumerate(runs):
        for look, domain in enumerate(domains):
            if domain in view.log.validation:
                curve = view.log.validation[domain]
                yield line(f"{domain}, {label}", curve, tokens_of, look % 8 + 8 * place)


def _throughput(runs: list[tuple[str, RunView]]) -> Markup:
    divisor, unit = time_unit(max(view.log.running_s for _, view in runs))
    lines = [
        Line(
            label=name_of,
            look=look,
            points=[
                ((view.log.running_s + point.time_s) / divisor, point.value)
                for point in view.log.steps["tokens_per_second"].points()
            ],
        )
        for look, (name_of, view) in enumerate(runs)
        if "tokens_per_second" in view.log.steps
    ]
    return chart_figure(
        Chart(
            title="Throughput of both",
            x_label=f"{unit} of running",
            y_label="tokens a second",
            lines=lines,
            from_zero=True,
        )
    )
