"""Where the ranks of a world meet: a store on rank 0's node, or torchrun's. Waits in Python, and says for whom.

PyTorch's own rendezvous waits inside C++, where no signal is acted on and nothing is said, for parallel.timeout_s; and its store
listens on every network of the node. Nothing that is read from the store is a pickle: who can connect to it can write to it.
"""

import datetime
import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from fanal.errors import PassingError, UserError
from fanal.listener import MEETING_ID, listen_at
from pretrain.parallel.environment import least_ranks_on_node

SAY_AFTER_S = 3.0
SAY_EVERY_S = 60.0
LOOK_EVERY_S = 0.02
LOOK_EVERY_AT_MOST_S = 1.0
"""Seconds between looks at who is there, at first and at most: thousands of ranks ask one store."""
HERE = "ranks that are here"


def meet(*, rank: int, size: int, timeout_s: int, speaks: bool) -> Any:
    """Return the store of this world once all of its ranks are there.

    Args: speaks: whether this rank says for whom it waits, on standard error.
    Raises: UserError for an address that cannot be; PassingError if the port is taken, or ranks do not come within timeout_s.
    """
    host, port = os.environ["MASTER_ADDR"], _port()
    is_master = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
    wait = _Wait(timeout_s=timeout_s, speaks=speaks)
    if not is_master:
        for _ in wait.looks(f"waiting for rank 0 at {host}:{port}{_advice()}"):
            if _listens(host, port):
                break
    try:
        store = _open(host, port, size, timeout_s, is_master=is_master, speaks=speaks)
        # An id, since another job may meet at the same port. torchrun keeps its store when it starts the ranks again.
        meeting, start = os.environ.get(MEETING_ID, ""), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"{meeting} start {start}".lstrip(), store)
        here = store.add(HERE, 1)
        for _ in wait.looks(""):
            here = store.add(HERE, 0)
            if here >= size:
                break
            wait.what = f"waiting for {size} ranks at {host}:{port} ({here} here){_advice()}"
    except dist.DistError as error:  # rank 0 may end while others wait, and its store with it
        raise PassingError(f"no meeting of ranks at {host}:{port}: {str(error).splitlines()[0]}") from error
    return PrefixStore("default_pg", store)


def _open(host: str, port: int, size: int, timeout_s: int, *, is_master: bool, speaks: bool) -> Any:
    """Return the bare store. Raises: PassingError if the port is taken; DistError if the store does not answer."""
    descriptor = None
    if is_master:
        try:
            listener, why_everywhere = listen_at(host, port, alone=least_ranks_on_node() >= size)
        except OSError as error:
            raise _port_is_taken(port) if error.errno == errno.EADDRINUSE else error from None
        if why_everywhere and speaks:
            print(
                f"ranks meet at port {port} of every network of this node: {why_everywhere}",
                file=sys.stderr,
                flush=True,
            )
        descriptor = listener.detach()
    return TCPStore(
        host, port, size, is_master, datetime.timedelta(seconds=timeout_s), wait_for_workers=False, master_listen_fd=descriptor
    )  # fmt: skip


class _Wait:
    """A wait in short looks, so that signal handlers run, and a watch on the process sees its main thread in Python."""

    def __init__(self, *, timeout_s: int, speaks: bool) -> None:
        now = time.monotonic()
        self._timeout_s, self._give_up_at = timeout_s, now + timeout_s
        self._speak_at = now + SAY_AFTER_S if speaks else self._give_up_at
        self.what = ""

    def looks(self, what: str) -> Iterator[None]:
        """Yield for each look. Raises: PassingError when the time is over."""
        self.what, pause = what, LOOK_EVERY_S
        while True:
            yield
            now = time.monotonic()
            if now >= self._give_up_at:
                raise PassingError(
                    f"{self.what}: given up after parallel.timeout_s ({self._timeout_s}); look at the ranks that did not come, or "
                    "start again"
                )
            if now >= self._speak_at:
                self._speak_at = now + SAY_EVERY_S
                print(self.what, file=sys.stderr, flush=True)
            time.sleep(pause)
            pause = min(LOOK_EVERY_AT_MOST_S, pause * 1.2)


def _port() -> int:
    """Return the port at which the ranks meet. Raises: UserError."""
    value = os.environ["MASTER_PORT"]
    if not (value.isascii() and value.isdigit() and 0 < int(value) < 65_536):
        raise UserError(f"MASTER_PORT ({value!r}) must be a whole number from 1 to 65535; MASTER_PORT=29500 works")
    return int(value)


def _listens(host: str, port: int) -> bool:
    """Whether somebody listens there. A name that is not known may be known in a moment: a node that boots is not."""
    try:
        with socket.create_connection((host, port), timeout=LOOK_EVERY_AT_MOST_S):
            return True
    except OSError:
        return False


def _port_is_taken(port: int) -> PassingError:
    with socket.socket() as free:
        free.bind(("", 0))
        other = free.getsockname()[1]
    return PassingError(
        f"MASTER_PORT ({port}) must be free on {socket.gethostname()}, where ranks meet, and another process listens there; "
        f"MASTER_PORT={other} works"
    )


def _advice() -> str:
    """What to do where nobody started the others: variables that an earlier torchrun, or a test, left in the shell."""
    if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ:
        return ""
    return "; where nobody starts the others, `unset RANK WORLD_SIZE` works"
