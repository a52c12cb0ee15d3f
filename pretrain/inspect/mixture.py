"""What ``fanal show`` says of the mixture: how often the run reads each source, and what each phase reads of it."""

from rich.table import Table

from fanal.console import Console
from fanal.errors import FanalError
from fanal.run_progress import Standing
from fanal.shown import on_one_line
from pretrain.config.schema import RunConfig
from pretrain.data.packing.padding import padding_line
from pretrain.data.passes import most_read, passes_text, passes_warning, phase_passes, source_passes
from pretrain.data.sources import Sources, open_sources

MOST_SOURCES = 100
"""Rows of the table of sources, and of a phase: of more, those that are read most often."""
MOST_PHASES = 20
"""Phases that are shown, the first ones."""


def show_mixture(run: RunConfig, since: Standing, console: Console) -> None:
    """Print how often the run reads each of its sources, and in which phase, where these are on this machine."""
    try:
        sources = open_sources(run)
    except (FanalError, OSError) as error:
        console.print(f"passes over the sources: not known: {on_one_line(str(error))}", soft_wrap=True)
        return
    _show_sources(run, sources, since, console)
    if len(sources.phases) > 1:
        _show_phases(run, sources, since, console)
    if (padding := padding_line(sources)) is not None:
        console.print(on_one_line(padding), soft_wrap=True)
    if (warning := passes_warning(run, sources, since)) is not None:
        console.print(on_one_line(warning), soft_wrap=True)


def _show_sources(run: RunConfig, sources: Sources, since: Standing, console: Console) -> None:
    table = Table("source", "domain", "tokens", "passes", show_edge=False, header_style="bold")
    found = source_passes(run, sources, since)
    listed = most_read(found, MOST_SOURCES)
    for source in listed:
        table.add_row(
            on_one_line(source.prefix),
            on_one_line(source.domain),
            f"{source.train_tokens:,}",
            passes_text(source.passes),
        )
    console.print(table)
    if len(listed) < len(found):
        console.print(f"and {len(found) - len(listed):,} more sources, none read more often than these")


def _show_phases(run: RunConfig, sources: Sources, since: Standing, console: Console) -> None:
    """Print the share of each source in the samples of each phase, and the passes over it there."""
    phases = phase_passes(run, sources, since)
    table = Table("from sample", "source", "share", "passes", show_edge=False, header_style="bold")
    for phase in phases[:MOST_PHASES]:
        read = [number for number, count in enumerate(phase.samples) if count]
        most = sorted(read, key=lambda number, phase=phase: -phase.samples[number])[:MOST_SOURCES]
        for row, number in enumerate(sorted(most)):
            table.add_row(
                "" if row else f"{phase.start_sample:,}",
                on_one_line(str(sources.train[number].shard.prefix)),
                f"{phase.share(number):.1%}",
                passes_text(phase.passes[number]),
            )
        table.add_section()
        if len(most) < len(read):
            table.add_row("", f"and {len(read) - len(most):,} more, each less of it", "", "")
    console.print(table)
    not_shown = len(sources.phases) - min(len(phases), MOST_PHASES)
    if not_shown:
        console.print(f"and {not_shown:,} more phases, later or after the run's last step")
