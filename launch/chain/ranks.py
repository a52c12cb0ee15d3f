"""The ranks of one node of a job: started, their output kept, ended together. ``node.sh`` runs it, once a node.

No torchrun: its c10d rendezvous keeps its state as a pickle, in a store to which everybody on the network can write, and what it
unpickles runs as the job's owner; its static one opens that store on every network. Ranks meet by themselves
(pretrain/parallel/rendezvous.py).
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

from fanal.errors import UserError
from fanal.exit_codes import FINISHED, STOPPED
from fanal.run_folder import UNTIL_STEP
from launch.chain import until

GRACE_S = 30.0
"""Seconds that the other ranks of a node have to end, once one has failed."""
LOOK_EVERY_S = 0.1
FIRST_RANK = "first-rank"
"""File beside the logs of a node: the number of its first rank, so that an exit code is known to be of that node."""
PER_RANK = "FANAL_PER_RANK"
"""Environment variable: names of variables whose value is a folder in which each rank of a node takes one of its own."""


def main() -> None:
    """Run the ranks of this node, and exit with the largest of their codes, of which a signal's is 128 more than its number."""
    names = os.environ
    host, _, port = names["FANAL_MEET_AT"].rpartition(":")
    here = int(names["FANAL_RANKS_PER_NODE"])
    # Of this step: a job with spare nodes has more.
    num_nodes = int(names.get("SLURM_STEP_NUM_NODES") or names["SLURM_JOB_NUM_NODES"])
    common = {
        "MASTER_ADDR": host, "MASTER_PORT": port, "WORLD_SIZE": str(num_nodes * here),
        "LOCAL_WORLD_SIZE": str(here), **last_step(Path(names["FANAL_CONFIG"]).parent),
    }  # fmt: skip
    logs = Path(names["FANAL_LOGS"])
    first = int(names["SLURM_NODEID"]) * here
    logs.mkdir(parents=True, exist_ok=True)
    (logs / FIRST_RANK).write_text(str(first), encoding="utf-8")
    ranks: list[subprocess.Popen[bytes]] = []
    signal.signal(signal.SIGTERM, lambda number, _: tell(ranks, number))
    for local in range(here):
        mine = {"RANK": str(first + local), "LOCAL_RANK": str(local), **folders_of_rank(names, local)}
        ranks.append(start(logs / str(local), {**common, **mine}))
    ended = threading.Event()
    shown = ((logs / "0" / "stdout.log", sys.stdout), (logs / "0" / "stderr.log", sys.stderr))
    threads = [threading.Thread(target=show, args=(log, stream.buffer, ended)) for log, stream in shown]
    if first == 0:
        folder, ask = Path(names["FANAL_CONFIG"]).parent, partial(tell, ranks, signal.SIGTERM)
        threads.append(
            threading.Thread(target=until.watch, args=(folder, ask, ended, partial(print, file=sys.stderr, flush=True)))
        )
    for thread in threads:
        thread.start()
    code = wait_for_all(ranks)
    ended.set()
    for thread in threads:
        thread.join()
    sys.exit(code)


def folders_of_rank(names: Mapping[str, str], local: int) -> dict[str, str]:
    """Return the variables that name a folder of this rank alone, such as that of a cache whose files are locked."""
    return {name: f"{names[name]}/{local}" for name in names.get(PER_RANK, "").split() if names.get(name)}


def last_step(folder: Path) -> dict[str, str]:
    """Return the variable by which the trainer stops after the step that ends the chain; none without such a condition."""
    try:
        step = until.read_until(folder).step
    except UserError:  # ``until.watch`` says so
        return {}
    return {} if step is None else {UNTIL_STEP: str(step)}


def start(logs: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a rank, its output in two files of this folder. No restart: that is the job's to decide, which counts them."""
    logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pretrain", "train", os.environ["FANAL_CONFIG"]]
    with (logs / "stdout.log").open("ab") as out, (logs / "stderr.log").open("ab") as err:
        return subprocess.Popen(
            command, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )


def wait_for_all(ranks: list[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended. When one has not ended well, or was asked to stop, the others are asked to; those that wait for
    one that failed are killed."""
    kill_at, told = float("inf"), False
    while None in (codes := [rank.poll() for rank in ranks]):
        ended = {code for code in codes if code is not None}
        if not told and ended - {FINISHED}:
            told = True
            tell(ranks, signal.SIGTERM)
        if ended - {FINISHED, STOPPED}:
            kill_at = min(kill_at, time.monotonic() + GRACE_S)
        if time.monotonic() > kill_at:
            tell(ranks, signal.SIGKILL)
        time.sleep(LOOK_EVERY_S)
    return max(code if code >= 0 else 128 - code for code in codes if code is not None)


def tell(ranks: list[subprocess.Popen[bytes]], number: int) -> None:
    """Send a signal to every rank that still runs."""
    for rank in ranks:
        rank.send_signal(number)


def show(log: Path, stream: BinaryIO, ended: threading.Event) -> None:
    """Repeat a file as it grows, until the ranks have ended: an output that is slow, or gone, holds up no rank."""
    with log.open("rb") as lines, contextlib.suppress(OSError):
        last = False
        while not last:
            last = ended.wait(LOOK_EVERY_S)
            shutil.copyfileobj(lines, stream)
            stream.flush()


if __name__ == "__main__":
    main()
