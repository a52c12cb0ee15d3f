"""Evaluations of checkpoints: a chart of each metric over the steps, and every figure with what it was computed with."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from pretrain.log.evaluation_file import TASKS, EvaluationFile, Figure
from pretrain.report.chart import Chart, Line, chart_figure, details, table
from pretrain.report.markup import Markup, element, name
from pretrain.report.quantities import figure
from pretrain.report.sections.curves import MAX_LABEL
from pretrain.report.view import RunView

MAX_CHARTS, MAX_LINES, MAX_ROWS = 8, 8, 200
Key = tuple[str, str]


def evaluation_parts(view: RunView) -> Iterator[Markup]:
    """Yield a chart of each metric that several steps have, and the table of all figures, the newest first."""
    if not view.evaluations:
        return
    charts = [chart_figure(chart) for chart in list(_charts(view.evaluations))[:MAX_CHARTS]]
    if charts:
        yield element("div", charts, class_="charts")
    rows = [_row(made, found) for made in reversed(view.evaluations) for found in made.figures]
    head = ["figure", "step", "value", "standard error", "samples", "few-shot", "version", "evaluated with"]
    yield details("Figures", table(head, rows[:MAX_ROWS]), open="")
    if len(rows) > MAX_ROWS:
        yield element("p", f"and {len(rows) - MAX_ROWS:,} older figures, in its folder evaluations.", class_="note")


def _charts(evaluations: Sequence[EvaluationFile]) -> Iterator[Chart]:
    """One chart for each metric; of two evaluations of one step with the same question the newer counts."""
    found: dict[Key, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for made in evaluations:
        for one in made.figures:
            if one.value is not None:
                found[(_kind(made), one.metric)][_label(made, one)][made.step] = one.value
    for (kind, metric), curves in found.items():
        lines = [
            Line(label=label[:MAX_LABEL], points=sorted(points.items()), look=look, dots=True)
            for look, (label, points) in enumerate(list(curves.items())[:MAX_LINES])
        ]
        if any(len(line.points) > 1 for line in lines):
            yield Chart(title=f"{kind}: {metric}", x_label="step", y_label=metric, lines=lines)


def _kind(made: EvaluationFile) -> str:
    return "lm-eval" if made.kind == TASKS else f"held-out text by {made.question.get('by')}"


def _label(made: EvaluationFile, found: Figure) -> str:
    """The task, with what sets it apart from the same task asked otherwise."""
    asked = [f"limit {limit}"] if (limit := made.question.get("limit")) is not None else []
    asked += [f"{found.num_fewshot}-shot"] if found.num_fewshot else []
    return found.name.rsplit("/", 1)[0] + (f" ({', '.join(asked)})" if asked else "")


def _row(made: EvaluationFile, found: Figure) -> list[object]:
    program = next((f"{one} {made.versions[one]}" for one in ("lm-eval", "fanal") if one in made.versions), "–")
    return [
        name(f"{_label(made, found)}/{found.metric}"), f"{made.step:,}", figure(found.value, 6), figure(found.stderr, 3),
        f"{found.num_samples:,}", "–" if found.num_fewshot is None else str(found.num_fewshot),
        name(found.task_version or "–"), name(program),
    ]  # fmt: skip
