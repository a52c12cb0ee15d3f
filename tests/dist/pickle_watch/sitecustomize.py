"""Watches for pickles in every process that Python starts with this folder on its path: each one that is read becomes a line of a
file of the process's own, in the folder that PICKLE_WATCH names. A process that is forked later writes into its own as well.

The interpreter raises an event for each class that a pickle names; a pickle of plain values names none, so its readers are wrapped.
"""

import _pickle
import json
import os
import pickle
import sys
from typing import Any

FOLDER = os.environ.get("PICKLE_WATCH", "")
OURS = (__file__, pickle.__file__)


def note(what: str) -> None:
    """Write down what was read, and the places in code that asked for it, the nearest first."""
    places = []
    frame = sys._getframe(1)
    while frame is not None and len(places) < 8:
        if frame.f_code.co_filename not in OURS:
            places.append(f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    line = json.dumps({"what": what, "places": places, "command": sys.orig_argv})
    file = os.open(f"{FOLDER}/{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


def hear(event: str, arguments: tuple[Any, ...]) -> None:
    """Note classes that a pickle names."""
    if event == "pickle.find_class":
        note(f"find_class {arguments[0]}.{arguments[1]}")


def noting(read: Any) -> Any:
    """A reader of pickles that notes each."""

    def noted(*arguments: Any, **options: Any) -> Any:
        note(read.__name__)
        return read(*arguments, **options)

    return noted


class Unpickler(_pickle.Unpickler):
    """The reader that others derive theirs from."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        note(f"{type(self).__module__}.{type(self).__qualname__}")
        super().__init__(*arguments, **options)


class PurePythonUnpickler(pickle._Unpickler):
    """The same, written in Python."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        note(f"{type(self).__module__}.{type(self).__qualname__}")
        super().__init__(*arguments, **options)


if FOLDER:
    sys.addaudithook(hear)
    readers = {"load": noting(_pickle.load), "loads": noting(_pickle.loads), "Unpickler": Unpickler}
    for module in (pickle, _pickle):
        vars(module).update(readers)
    pickle._Unpickler = PurePythonUnpickler
