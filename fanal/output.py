"""Standard output and standard error of a command, whoever reads them and whether or not anybody does.

A command that prints ends quietly when its reader goes away (``| head``), as Unix tools do, and with one line when the disk
below standard output is full. A trainer outlives both. Nothing depends on whether standard error takes a line.

What is printed is shown and not obeyed: the name of a file, a label or a reason may hold orders for the reader's terminal, and
no command must remember that. Colours and bars of our own go around it, through ``fanal.console``.
"""

import contextlib
import errno
import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fanal.errors import OutputClosedError, OutputError
from fanal.new_files import open_to_append
from fanal.shown import escaped

GONE = frozenset({errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET, errno.ESHUTDOWN})
"""Errors of an output that nobody will ever read: a pipe without a reader, a terminal that was closed."""


class _Output(io.FileIO):
    """Standard output whose errors have a type of their own: what a library would make of a broken pipe says nothing."""

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            kind = OutputClosedError if _is_gone(error, self) else OutputError
            raise kind(
                f"standard output cannot be written: {error.strerror}; a file where there is room works"
            ) from None


class _Errors(io.FileIO):
    """Standard error that takes everything: what it cannot show is nobody's loss but the reader's."""

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError:
            return len(data)


class _OutliveOutput(io.FileIO):
    """Standard output of a process that goes on without it: a line in its log says so, once. One that is full is tried again."""

    log: Path | None = None
    is_named = False

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            if _is_gone(error, self):
                _lead_nowhere(self.fileno())
                self._name(f"standard output is gone ({error.strerror}), and the run continues without it")
            elif not self.is_named:
                self._name(f"standard output cannot be written ({error.strerror}), and the run continues without it")
                print("standard output cannot be written, and the run continues:", error.strerror, file=sys.stderr)
            return len(data)

    def _name(self, what: str) -> None:
        self.is_named = True
        if self.log is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            append_to_log(self.log, f"{stamp} {what}; a file requests/STOP in the run folder stops it\n")


class _Text(io.TextIOWrapper):
    """A stream of text whose acting characters are written out."""

    def write(self, text: str) -> int:
        super().write(escaped(text))
        return len(text)


class _AsItIs:
    """The same stream for who has escaped what came from elsewhere, and gives the terminal orders of his own."""

    def __init__(self, stream: _Text) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return io.TextIOWrapper.write(self._stream, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def as_it_is(stream: Any) -> Any:
    """Return a stream that writes text as it is given: for our own orders to a terminal, and for data in a pipe or a file."""
    return _AsItIs(stream) if isinstance(stream, _Text) else stream


def result_output() -> Any:
    """Standard output for a text that is a command's result: byte for byte in a pipe or a file, shown on a terminal."""
    return sys.stdout if sys.stdout.isatty() else as_it_is(sys.stdout)


def guard_output() -> None:
    """Give standard output and error of this process their errors' types, and let them show what they are given; one that is
    closed leads nowhere from now on.

    Streams that are in their place, as in a test, stay there.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(sys.stdout, _Output(1, "wb", closefd=False))
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(sys.stderr, _Errors(2, "wb", closefd=False))


def outlive_output(log: Path | None = None) -> None:
    """Let this process go on when nobody reads its standard output any more.

    Args: log: file that gets a line then.
    """
    guard_output()
    raw = _raw(sys.stdout)
    if isinstance(raw, _Output):
        raw = _OutliveOutput(1, "wb", closefd=False)
        sys.stdout = _stream(sys.stdout, raw)
    if isinstance(raw, _OutliveOutput):
        raw.log = log


@contextlib.contextmanager
def whole_output() -> Iterator[None]:
    """Guard the output while a command runs, up to its last byte. A failure ends the process with the error's code."""
    guard_output()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputError as error:
        let_go_of_output()
        if not isinstance(error, OutputClosedError):
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def let_go_of_output() -> None:
    """Flush standard output and error before the process ends. What a full disk does not take is given up: at its end the
    interpreter would try once more, and answer 120 in place of the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, OutputError):
            _lead_nowhere(stream.fileno())


def append_to_log(log: Path, text: str) -> None:
    """Append to a log of a run, if its run folder is there. What cannot be written is given up: it is for people."""
    with contextlib.suppress(OSError):
        if log.parent.parent.is_dir():
            log.parent.mkdir(exist_ok=True)
            with open_to_append(log) as stream:
                stream.write(escaped(text).encode("utf-8", errors="backslashreplace"))


def _is_gone(error: OSError, stream: io.FileIO) -> bool:
    """Whether nobody will read what is written there. A file's EIO may pass, and a terminal's does not."""
    return error.errno in GONE and not (error.errno == errno.EIO and Path(f"/proc/self/fd/{stream.fileno()}").is_file())


def _lead_nowhere(descriptor: int) -> None:
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), descriptor)


def _raw(stream: Any) -> Any:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _stream(old: Any, raw: io.FileIO) -> io.TextIOWrapper:
    """Return a text stream over ``raw`` with the settings of an old one; without one, where Python found none at its start."""
    if old is None:
        return _Text(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)
    with contextlib.suppress(OSError, OutputError):
        old.flush()
    buffer: Any = raw if old.write_through else io.BufferedWriter(raw)
    return _Text(
        buffer, encoding=old.encoding, errors=old.errors, line_buffering=old.line_buffering, write_through=old.write_through
    )  # fmt: skip
