"""Files by which a colleague asks a run for something: STOP, SAVE and DECAY, in RUN_DIR/requests or in the run folder. Rank 0 looks
for them: at names and times alone, never into a file or through a link."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

from fanal.run_folder import DECAY, REQUESTS, REQUESTS_SINCE_S, SAVE, STOP

logger = logging.getLogger(__name__)

NAMES = (STOP, SAVE, DECAY)
LASTING = (DECAY,)
"""Those that are asked of the run and not of a process: they count when they were there before the start, and stay until a
checkpoint holds what came of them."""
PLACES = ("", f"{REQUESTS}/")
"""Folders in which they count, from the run folder on."""
LOOK_EVERY_S = 1.0
LAST_LOOK_S = 5.0
"""Seconds that the end of a run waits for the files to be removed: a file system that hangs must not block it."""

Answer = TypeVar("Answer")
Identity = tuple[int, int]
"""Inode and time of change: a file is acted on once, even where it cannot be removed."""


class RequestFiles:
    """A thread that looks for the files each second, so that a file system that hangs holds up nothing else.

    A file that is there when the run starts was meant for an earlier process, one that crashed perhaps: it is removed with a
    warning, unless it came after REQUESTS_SINCE_S, while nodes were looked at and ranks were started, or is LASTING. One that is
    taken away again before it was acted on is forgotten.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {name: [f"{place}{name}" for place in PLACES] for name in NAMES}
        self._asked: dict[str, Identity] = {}
        self._taken: dict[str, Identity] = {}
        self._acted_on: dict[str, Identity] = {}
        self._wake, self._closed = threading.Event(), False
        self._warned_of: int | None = None
        self._thread = threading.Thread(target=self._run, name="request files", daemon=True)
        self._thread.start()

    def asks(self, name: str) -> bool:
        """Return whether the file is known to exist and was not acted on yet. Costs nothing."""
        return any(
            self._asked.get(file) not in (None, self._taken.get(file), self._acted_on.get(file))
            for file in self._files[name]
        )

    def take(self, name: str) -> None:
        """Note that the file is being acted on: it asks no more, and stays where it is until it is ``released``."""
        for file in self._files[name]:
            identity = self._asked.get(file)
            if identity is not None:
                self._taken[file] = identity

    def release(self, name: str) -> None:
        """Note that what was taken has come to its end: the thread removes the file."""
        for file in self._files[name]:
            if file in self._taken:
                self._acted_on[file] = self._taken.pop(file)
                self._wake.set()

    def done(self, name: str) -> None:
        """Note that the file was acted on: it counts no more, and the thread removes it."""
        for file in self._files[name]:
            identity = self._asked.get(file)
            if identity is not None:
                self._acted_on[file] = identity
                self._wake.set()

    def close(self) -> None:
        """End the thread once it has removed what was acted on."""
        self._closed = True
        self._wake.set()
        self._thread.join(LAST_LOOK_S)

    def _run(self) -> None:
        self._for_each(self._discard_old, but=LASTING)
        while not self._closed:
            self._wake.wait(LOOK_EVERY_S)
            self._wake.clear()
            self._for_each(self._look)
        self._for_each(self._look)  # what was acted on while the last look was under way

    def _for_each(self, act: Callable[[str], None], but: Collection[str] = ()) -> None:
        for name, files in self._files.items():
            for file in files if name not in but else ():
                self._guarded(act, file)

    def _guarded(self, act: Callable[[str], None], file: str) -> None:
        try:
            act(file)
        except OSError as error:
            # Once a second would be too often for a file system that is ill for an hour.
            if self._warned_of != error.errno:
                self._warned_of = error.errno
                logger.warning("cannot look for %s or remove it: %s", self._folder / file, error)

    def _discard_old(self, file: str) -> None:
        found = self._identity(file)
        since = os.environ.get(REQUESTS_SINCE_S, "")
        if found is not None and not (since.isdigit() and found[1] >= int(since) * 10**9):
            self._acted_on[file] = found
            written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found[1] / 1e9))
            logger.warning(
                "%s (written %s) was there before this start, so it was meant for an earlier one: removed without effect",
                self._folder / file, written,
            )  # fmt: skip

    def _look(self, file: str) -> None:
        found = self._identity(file)
        if found is None:
            self._asked.pop(file, None)
        elif found == self._acted_on.get(file):
            self._in_its_folder(file, os.unlink)
        else:
            self._asked[file] = found

    def _identity(self, file: str) -> Identity | None:
        status = self._in_its_folder(file, lambda name, dir_fd: os.lstat(name, dir_fd=dir_fd))
        return None if status is None else (status.st_ino, status.st_mtime_ns)

    def _in_its_folder(self, file: str, act: Callable[..., Answer]) -> Answer | None:
        """Do something to a file, through its folder: what is a link in the place of the folder might be another folder's STOP."""
        place, _, name = file.rpartition("/")
        follow = os.O_NOFOLLOW if place else 0  # the run folder itself may be a link
        try:
            folder = os.open(self._folder / place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | follow)
        except FileNotFoundError:
            return None
        try:
            return act(name, dir_fd=folder)
        except FileNotFoundError:
            return None
        finally:
            os.close(folder)


@contextlib.contextmanager
def open_request_files(run_dir: str | Path, *, rank: int) -> Iterator[RequestFiles | None]:
    """Look for the files while the block runs; None on the ranks that do not look. No collective.

    When the block ends well all requests are fulfilled: the run has stopped, or is complete, and its last checkpoint is there.
    Of those that last, one that nobody has taken waits for the next start.
    """
    if rank != 0:
        yield None
        return
    files = RequestFiles(Path(run_dir))
    yield files
    for name in NAMES:
        if name in LASTING:
            files.release(name)
        else:
            files.done(name)
    files.close()
