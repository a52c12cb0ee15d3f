"""An evaluation for people: a table of its figures."""

from rich.table import Table

from fanal.console import Console
from fanal.shown import on_one_line
from pretrain.log.evaluation_file import EvaluationFile, Figure, figure_text

COLUMNS = ("task", "metric", ">value", ">± stderr", ">samples", ">few-shot")


def show(found: EvaluationFile, console: Console | None = None) -> None:
    """Print the figures of an evaluation, and where they come from."""
    console = console or Console()
    by = found.question.get("by")
    console.print(
        f"{found.checkpoint}, {found.consumed_tokens:,} tokens" + ("" if by is None else f"; held-out text by {by}"),
        soft_wrap=True,
    )
    console.print(figures_table(found.figures))


def figures_table(figures: tuple[Figure, ...]) -> Table:
    """The figures, a row each."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in COLUMNS:
        table.add_column(name.removeprefix(">"), justify="right" if name[0] == ">" else "left", overflow="fold")
    for figure in figures:
        name, metric = map(on_one_line, figure.name.rsplit("/", 1))
        table.add_row(
            name, metric, figure_text(figure.value), figure_text(figure.stderr), f"{figure.num_samples:,}",
            "-" if figure.num_fewshot is None else str(figure.num_fewshot),
        )  # fmt: skip
    return table
