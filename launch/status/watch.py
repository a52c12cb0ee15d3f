"""A status that is shown again and again until Ctrl-C: redrawn on a terminal, and lines with a time in a file or a pipe."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from fanal.console import Console, Group, RenderableType

LEAST_S = 1
"""Shortest time between two looks: each asks Slurm's controller, which all users share."""


def redraw(draw: Callable[[Console], RenderableType], *, every_s: float) -> None:
    """Show what ``draw`` returns on the terminal's other screen, every so many seconds; at Ctrl-C the last stays on its own."""
    console = Console()
    drawn: RenderableType = ""
    try:
        with console.screen() as screen:
            while True:
                drawn = Group(draw(console), f"\n{_now()}, every {every_s:g} s; Ctrl-C ends it")
                screen.update(drawn)
                time.sleep(every_s)
    except KeyboardInterrupt:
        console.print(drawn)


def write_lines(look: Callable[[], Iterator[str]], *, every_s: float) -> None:
    """Print the lines that ``look`` yields, every so many seconds, until Ctrl-C."""
    try:
        while True:
            for line in look():
                print(line, flush=True)
            time.sleep(every_s)
    except KeyboardInterrupt:
        return


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
