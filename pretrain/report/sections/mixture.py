"""What a run read: tokens by source over its steps, by arithmetic; and in all, by source, language, licence and host."""

from collections.abc import Iterator

import numpy as np

from pretrain.data.read import TrainData
from pretrain.ledger.ledger import Ledger
from pretrain.report.chart import details, table
from pretrain.report.markup import Markup, name
from pretrain.report.quantities import count, figure, percent
from pretrain.report.sections.curves import TOKENS
from pretrain.report.stacked import Area, areas_figure
from pretrain.report.view import RunView

STRETCHES = 40
SAMPLES_A_STRETCH = 32
"""Samples of a stretch, at least: of fewer the shares would jump."""
MAX_SOURCES = 12
"""Sources with an area of their own: those that were read most."""
MAX_ROWS = 15
"""Rows of a table of what was read: the largest."""
TITLES = {"source": "source", "language": "language", "licence": "licence", "host": "host"}


def mixture_parts(view: RunView) -> Iterator[Markup]:
    """Yield the chart of the mixture, and the tables of what was read."""
    if view.data is not None and view.trained_samples:
        yield _over_steps(view.data, view.trained_samples)
    if view.ledger is not None:
        yield from _in_all(view.ledger)


def _over_steps(data: TrainData, samples: int) -> Markup:
    seq_length = data.config.seq_length
    stretches = min(STRETCHES, max(1, samples // SAMPLES_A_STRETCH))
    bounds = np.linspace(0, samples, stretches + 1).astype(np.int64).tolist()
    drawn = np.diff(np.stack([data.mixture.drawn(bound) for bound in bounds]), axis=0)  # [stretches, sources]
    in_all = drawn.sum(axis=0)
    largest = sorted(range(len(in_all)), key=lambda source: (-in_all[source], source))[:MAX_SOURCES]
    sizes = np.diff(bounds)
    labels = _names([str(data.sources.train[source].shard.prefix) for source in largest])
    areas = [
        Area(label=label, shares=(drawn[:, source] / sizes).tolist(), look=look)
        for look, (source, label) in enumerate(zip(largest, labels, strict=True))
    ]
    if len(in_all) > len(largest):
        rest = 1 - np.sum([area.shares for area in areas], axis=0)
        areas.append(Area(label=f"{len(in_all) - len(largest):,} more", shares=np.maximum(rest, 0).tolist(), look=15))
    head = ["source", "domain", "tokens", "share", "passes"]
    rows = [
        [
            name(data.sources.train[source].shard.prefix),
            name(data.sources.train[source].domain),
            f"{int(in_all[source]) * seq_length:,}",
            percent(in_all[source] / samples),
            figure(in_all[source] / data.sources.train[source].order.chunks_per_epoch, 3),
        ]
        for source in largest
    ]
    marks = [phase.start_sample * seq_length for phase in data.sources.phases if 0 < phase.start_sample < samples]
    return areas_figure(
        "Mixture: tokens by source", TOKENS, [bound * seq_length for bound in bounds], areas, table(head, rows), marks
    )


def _in_all(ledger: Ledger) -> Iterator[Markup]:
    tokens = sum(part.tokens for part in ledger.data.parts)
    for dimension, amounts in ledger.data.in_all.items():
        if not any(label is not None for label in amounts):
            continue
        rows = [
            [
                name("not stated" if label is None else label),
                f"{amount.tokens:,}",
                percent(amount.tokens / tokens if tokens else None),
                f"{amount.documents:,}",
                figure(amount.passes, 3),
            ]
            for label, amount in list(amounts.items())[:MAX_ROWS]
        ]
        title = TITLES.get(dimension, dimension)
        more = f", the largest {MAX_ROWS} of {count(len(amounts))}" if len(amounts) > MAX_ROWS else ""
        runs = f", over {len(ledger.runs)} runs of the chain" if len(ledger.runs) > 1 else ""
        yield details(f"Read by {title}{more}{runs}", table([title, "tokens", "share", "documents", "passes"], rows))


def _names(prefixes: list[str]) -> list[str]:
    """Return the last parts of paths, or whole paths where these are not different."""
    short = [prefix.rstrip("/").rsplit("/", 1)[-1] for prefix in prefixes]
    return short if len(set(short)) == len(prefixes) else prefixes
