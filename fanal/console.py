"""Tables, colours and bars on a terminal. What comes from a file is text there, never markup, a link or an order."""

import sys
from collections.abc import Iterable
from typing import IO, Any

import rich.console
import rich.progress
from rich.console import ConsoleOptions, Group, RenderableType
from rich.file_proxy import FileProxy
from rich.segment import Segment
from rich.table import Table

from fanal.output import as_it_is
from fanal.shown import escaped

__all__ = ["Bar", "Console", "Group", "RenderableType", "print_table"]


class Console(rich.console.Console):
    """rich's console without its markup: ``[red]`` in the name of a file is its name, and so is an escape sequence."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    @property
    def file(self) -> IO[str]:
        """The stream, which takes rich's own orders as they are: what they surround was escaped by ``render``."""
        return as_it_is(super().file)

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield rich's segments, all but its own orders escaped. Called by rich for whatever it prints."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escaped(segment.text), segment.style)


def print_table(table: Table, *, columns: int = 200) -> None:
    """Print a table on standard output. In a pipe or a log it gets ``columns``: a cut number or path would be of no use."""
    console = Console()
    (console if console.is_terminal else Console(width=columns)).print(table)


class Bar(rich.progress.Progress):
    """rich's progress bar; what is printed meanwhile is shown above it, escaped."""

    def start(self) -> None:
        """Begin to draw it."""
        super().start()
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, FileProxy):  # it would make links and colours of what it is given
                setattr(sys, name, _Escaping(stream))


class _Escaping:
    """A stream in front of rich's own."""

    def __init__(self, stream: FileProxy) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(escaped(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
