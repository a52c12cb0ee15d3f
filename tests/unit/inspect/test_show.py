"""What ``fanal show`` prints: a row of the table on one line, in a pipe and in a terminal of 80 columns."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from pretrain.config.load import load_run
from pretrain.inspect.show import consequences, show

CONFIGS = sorted((Path(__file__).parents[3] / "configs").rglob("*.yaml"))


def table_of(console: Console) -> list[str]:
    """The lines below the table's head."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().partition("━\n")[2].splitlines()


@pytest.mark.parametrize("config", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_what_follows_from_a_shipped_config_fits_into_80_columns(config: Path) -> None:
    run = load_run(config)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    show(run, console)
    lines = table_of(console)
    assert [name for name in consequences(run) if name != "begins with"] == [
        name for line in lines if (name := line.split("│")[0].strip()) and name != "begins with"
    ]
    assert all(len(line) <= 80 for line in lines)
    if run.checkpoint.init_from is None:
        assert len(lines) == len(consequences(run))


def test_nothing_is_wrapped_or_cut_in_a_pipe(small_run: Path) -> None:
    origin = "/a/very/long/path" * 20
    run = load_run(small_run, [f"checkpoint.init_from={origin}"])
    console = Console(file=io.StringIO(), width=80)
    show(run, console)
    assert len(table_of(console)) == len(consequences(run))
    assert f"the weights of {origin}, its optimizer kept" in console.file.getvalue()  # type: ignore[attr-defined]
