"""Gradient norm with the steps that went wrong, their samples and documents; the learning rate."""

from collections.abc import Iterator, Mapping
from typing import Any

from pretrain.report.chart import Chart, Mark, chart_figure, details, table
from pretrain.report.markup import Markup, element, joined, name
from pretrain.report.quantities import figure, finite, loss
from pretrain.report.sections.curves import TOKENS, line, number_cell, start_marks, step_table, tokens_at, tokens_of
from pretrain.report.spikes import Spike, columns_in_words, sample_in_words
from pretrain.report.view import RunView
from pretrain.trace.parts import Part


def gradient_charts(view: RunView) -> Iterator[Markup]:
    """Yield the charts of the gradient norm and of the learning rate."""
    log = view.log
    if not log.num_steps:
        return
    spikes = [
        Mark(
            x=float(tokens_at(log, point.step)),
            y=_at_most(point.value, log.steps["grad_norm"].points()),
            words=f"step {point.step:,}: gradient norm {figure(point.value or None)}",
        )
        for point in view.spikes.norms.points()
    ]
    yield chart_figure(
        Chart(
            title="Gradient norm",
            x_label=TOKENS,
            y_label="L2 norm before clipping",
            lines=[line("gradient norm", log.steps["grad_norm"], tokens_of, 0)],
            marks=[*start_marks(log, tokens_of), *spikes],
            may_be_log=True,
        ),
        step_table(log, {"gradient norm": number_cell("grad_norm"), "learning rate": number_cell("learning_rate")}),
        "A triangle is a step of the list below; one beyond the edge lies on it." if spikes else None,
    )
    yield chart_figure(
        Chart(
            title="Learning rate",
            x_label=TOKENS,
            y_label="learning rate",
            lines=[line("learning rate", log.steps["learning_rate"], tokens_of, 2)],
            marks=[
                Mark(
                    x=float(tokens_at(log, decay["step"])), words=f"the final decay begins after step {decay['step']:,}"
                )
                for decay in log.decays
            ],
            from_zero=True,
        )
    )


def spike_list(view: RunView) -> Markup:
    """Return the steps that went wrong, each with its samples behind a click; nothing if there were none."""
    spikes = view.spikes
    if not spikes.num_listed:
        return Markup("")
    shown = "all are" if len(spikes.shown) == spikes.num_listed else f"the newest {len(spikes.shown)} are"
    return joined(
        element("h3", "Steps that went wrong"),
        element(
            "p",
            f"{spikes.num_listed:,} steps were spikes, or had a gradient that is not finite; {spikes.num_skipped:,} of them were "
            f"skipped. Here {shown} listed; a click shows their samples and documents.",
        ),
        element("p", f"Their documents cannot be told: {spikes.untold}", class_="note") if spikes.untold else None,
        [_spike(spike) for spike in spikes.shown],
    )


def _spike(spike: Spike) -> Markup:
    record = spike.record
    scores = ", ".join(
        f"{words} {figure(score, 3)} deviations above the mean"
        for words, key in (("loss", "loss_z"), ("gradient norm", "grad_norm_z"))
        if (score := finite(record.get(key))) is not None
    )
    summary = (
        f"Step {record['step']:,}: {record.get('reason', 'unknown')}, {'skipped' if record.get('skipped') else 'trained on'}; loss "
        f"{loss(record.get('loss'))}, gradient norm {figure(finite(record.get('grad_norm')))}"
    )
    first, count = record["first_sample"], record["num_samples"]
    return details(
        summary,
        joined(
            element("p", f"Samples {first:,} to {first + count - 1:,}. {scores}", class_="note"),
            table(["sample", "where it lies", "documents"], list(_samples(spike))),
        ),
    )


def _samples(spike: Spike) -> Iterator[list[object]]:
    record = spike.record
    listed: dict[object, Mapping[str, Any]] = {sample.get("sample"): sample for sample in record["samples"]}
    for number in sorted({*spike.documents, *(key for key in listed if isinstance(key, int))}):
        parts = spike.documents.get(number)
        where = name(sample_in_words(listed[number])) if number in listed else "–"
        documents = (
            "–" if parts is None else element("ul", [element("li", _part(part)) for part in parts], class_="plain")
        )
        yield [f"{number:,}", where, documents]
    shown = len({*spike.documents, *listed})
    if record["num_samples"] > shown:
        yield [f"and {record['num_samples'] - shown:,} more", "", ""]


def _part(part: Part) -> Markup:
    known = columns_in_words(part)
    return joined(
        f"document {part.document:,}, tokens {part.offset:,} to {part.offset + part.num_tokens - 1:,} of "
        f"{part.document_tokens:,}",
        (": ", name(known)) if known else None,
    )


def _at_most(value: float, points: list[Any]) -> float:
    """Return the place of a spike within the drawn range: a step between two records may lie outside of it."""
    values = [point.value for point in points] or [value]
    return min(max(value, min(values)), max(values))
