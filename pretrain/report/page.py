"""The page: one file that loads nothing, whose content security policy lets it load nothing and run no script."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pretrain.report.markup import Markup, element, joined, name
from pretrain.report.sections.certificate import certificate_parts
from pretrain.report.sections.checkpoints import checkpoint_parts
from pretrain.report.sections.comparison import comparison_parts
from pretrain.report.sections.configuration import configuration_parts
from pretrain.report.sections.cost import cost_parts
from pretrain.report.sections.evaluations import evaluation_parts
from pretrain.report.sections.gradients import gradient_charts, spike_list
from pretrain.report.sections.head import head_parts
from pretrain.report.sections.loss import loss_charts
from pretrain.report.sections.mixture import mixture_parts
from pretrain.report.sections.speed import speed_charts
from pretrain.report.sections.timeline import timeline_parts
from pretrain.report.style import style_sheet
from pretrain.report.view import RunView
from tokenizer.shards.manifest import fanal_version

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a title."""

    anchor: str
    title: str
    body: Markup


def page_of(
    view: RunView,
    *,
    beside: RunView | None = None,
    export: Path | None = None,
    refresh_s: float | None = None,
    now: datetime.datetime,
) -> str:
    """Return the page of a run.

    Args: beside: a run to compare it with; export: the folder whose certificate it shows; refresh_s: seconds after which a browser
        reads the file again; now: when it is made.
    Raises: as ``certificate_parts``.
    """
    sections = [section for section in _sections(view, beside, export) if section.body]
    style = style_sheet()
    assert not set("<>&") & set(style), "a style sheet stands in the page as it is"
    title = f"{view.name}: report of a training run"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="refresh", content=f"{refresh_s:.0f}") if refresh_s is not None else None,
        element("title", title),
        element("style", Markup(style)),
    )
    links = [element("li", element("a", section.title, href=f"#{section.anchor}")) for section in sections]
    body = element(
        "body",
        element("header", head_parts(view), element("nav", element("ul", links), aria_label="Sections")),
        element("main", [_drawn(section) for section in sections]),
        _foot(view, now),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _sections(view: RunView, beside: RunView | None, export: Path | None) -> Iterator[Section]:
    yield _section("loss", "Loss", _charts(loss_charts(view)))
    yield _section("speed", "Throughput", _charts(speed_charts(view)))
    yield _section("gradients", "Gradients and learning rate", _charts(gradient_charts(view)), spike_list(view))
    yield _section("data", "Mixture", joined(mixture_parts(view)))
    yield _section("starts", "Starts, jobs and nodes", joined(timeline_parts(view)))
    yield _section("evaluations", "Evaluations", joined(evaluation_parts(view)))
    yield _section("checkpoints", "Checkpoints", joined(checkpoint_parts(view)))
    yield _section("cost", "Goodput and energy", joined(cost_parts(view)))
    if export is not None:
        yield _section("certificate", "Certificate of the export", joined(certificate_parts(export)))
    if beside is not None:
        yield _section("beside", "Two runs", joined(comparison_parts(view, beside)))
    yield _section("configuration", "Configuration", joined(configuration_parts(view)))
    untold = [element("li", name(line)) for line in view.untold]
    yield _section("untold", "What could not be told", element("ul", untold, class_="plain") if untold else Markup(""))


def _section(anchor: str, title: str, *parts: Markup) -> Section:
    return Section(anchor=anchor, title=title, body=joined(parts))


def _charts(charts: Iterator[Markup]) -> Markup:
    drawn = [chart for chart in charts if chart]
    return element("div", drawn, class_="charts") if drawn else Markup("")


def _drawn(section: Section) -> Markup:
    return element("section", element("h2", section.title), section.body, id=section.anchor)


def _foot(view: RunView, now: datetime.datetime) -> Markup:
    return element(
        "footer",
        element(
            "p", f"Made by fanal report {fanal_version()} on {now:%Y-%m-%d %H:%M:%S UTC} from ", name(view.run_dir), "."
        ),
    )
