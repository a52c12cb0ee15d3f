"""Starting the ranks of a run on this machine, and reporting the first one that fails, alone.

Under torchrun or srun this file is not used. On a CPU ranks are forked from a server that has imported megatron-core once
(and has no threads, which do not survive a fork); where CUDA is, they are spawned, since CUDA does not survive one either.
"""

import contextlib
import multiprocessing
import os
import pickle
import random
import secrets
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from fanal.errors import PassingError, exit_code_of
from fanal.exit_codes import FINISHED, INTERRUPTED, STOPPED
from fanal.listener import MEETING_ID
from fanal.new_files import open_to_append
from fanal.output import append_to_log, let_go_of_output, outlive_output
from pretrain.parallel.environment import STARTED_AT, started_at
from pretrain.parallel.signals import (
    STOP_SIGNALS,
    catch_stop_signals,
    hold_back_stop_signals,
    ignore_stop_signals,
    is_interrupted,
    note_for_ranks,
    stop_signal,
)

STORE_PORTS = range(10_000, 20_000)
"""Ports for the store of local ranks. Linux gives those from 32768 on to outgoing connections; srun's are from 20000 on."""
LOOPBACK_ALONE = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Variables with which local ranks listen where nobody from outside comes. With NCCL no machine with GPUs has confirmed it."""
GRACE_S = 0.5
"""Seconds to wait for further reports after the first failure, to find the earliest."""

_to_starter: Connection | None = None
"""A rank's end of the pipe to the process that started it; None elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The end of a rank that failed."""

    rank: int
    time_s: float
    error: BaseException | None
    """Error that the rank raised, without its traceback; None if it died silently."""
    text: str
    """The traceback, or how it died."""
    exit_code: int
    """Exit code of the rank, as it told before it ended; a rank that is slow to go is killed, which would look like another."""


def run_local_ranks(
    work: Callable[..., int],
    *args: Any,
    num_ranks: int,
    device_type: Literal["cuda", "cpu"],
    log_dir: Path,
    preload: Sequence[str] = (),
) -> tuple[int, Failure | None]:
    """Run ``work(*args)`` once per rank, with torchrun's environment variables, and wait for all.

    Rank 0 keeps the terminal, and has a log of its own for the traceback of its end and for that of the terminal; the other
    ranks' output goes to log_dir/rank-00001.log and so on. Stop signals are passed on to every rank; after one that came
    before, no rank is started. The server of a CPU's ranks imports the modules in ``preload`` once for all. When one rank
    fails, the others are killed: they may be waiting for it forever.

    Returns: (the largest exit code of the ranks, None), or (the failed rank's, the earliest failure). (INTERRUPTED, None) if
    a second Ctrl-C ended the ranks.
    """
    context: Any = multiprocessing.get_context("forkserver" if device_type == "cpu" else "spawn")
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(num_ranks)}
    environment |= {MEETING_ID: secrets.token_hex(16), STARTED_AT: str(started_at()), **LOOPBACK_ALONE}
    log_dir.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    asked = stop_signal()
    if asked is not None:
        print(f"stopped on request ({asked.name}) before any rank was started; nothing to save", flush=True)
        return STOPPED, None
    _start_servers(context, device_type, preload)
    processes, pipes = [], []
    for rank in range(num_ranks):
        ours, theirs = context.Pipe(duplex=False)
        log = log_dir / f"rank-{rank:05d}.log"
        variables = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = context.Process(target=_rank_main, args=(work, args, variables, log, theirs), name=f"rank {rank}")
        # A spawned rank is born with the signals held back, as those of the server are. The server's take as long to come as
        # its imports, and meanwhile this process wants to hear of a Ctrl-C.
        with hold_back_stop_signals() if device_type == "cuda" else contextlib.nullcontext():
            try:
                process.start()
            except (EOFError, ConnectionError):
                raise PassingError(
                    f"the process that ranks are forked from was killed before rank {rank} was there, often because memory ran "
                    "out: fewer ranks take less"
                ) from None
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    with _forward_signals(processes):
        failure = _wait_for_all(processes, pipes, log_dir)
    if failure is not None:
        for process in processes:
            if process.is_alive():
                process.kill()
    for process in processes:
        process.join()
    if failure is not None and is_interrupted() and failure.exit_code in (-signal.SIGINT, INTERRUPTED):
        return INTERRUPTED, None
    if failure is not None:
        return failure.exit_code, failure
    return max(process.exitcode or 0 for process in processes), None


def report_to_starter(text: str, exit_code: int) -> None:
    """Tell the process that started this rank why the rank is about to end, if there is one.

    With STOPPED the other ranks are asked to stop as well: this one was, and the others might wait for it.
    """
    if _to_starter is not None:
        with contextlib.suppress(Exception):
            _to_starter.send((time.monotonic(), None, text, exit_code))


def _start_servers(context: Any, device_type: Literal["cuda", "cpu"], preload: Sequence[str]) -> None:
    """Start multiprocessing's own processes, so that a stop signal to the whole process group ends neither of them."""
    with hold_back_stop_signals():
        resource_tracker.ensure_running()  # lets SIGTERM and SIGINT through again when it is done
    if device_type == "cpu":
        context.set_forkserver_preload(list(preload))
        with hold_back_stop_signals():
            forkserver.ensure_running()


def _rank_main(
    work: Callable[..., int], args: tuple[Any, ...], variables: dict[str, str], log: Path, pipe: Connection
) -> None:
    global _to_starter
    _to_starter = pipe
    threading.Thread(target=_end_with_starter, args=(pipe,), daemon=True).start()
    os.environ.update(variables)
    catch_stop_signals(restart_system_calls=True)
    has_log = variables["RANK"] != "0"
    try:
        if has_log:
            stream = open_to_append(log)
            os.dup2(stream.fileno(), sys.stdout.fileno())
            os.dup2(stream.fileno(), sys.stderr.fileno())
        outlive_output(log)
        code = work(*args)
        ignore_stop_signals()
        let_go_of_output()
    except BaseException as error:
        failed_at, exit_code = time.monotonic(), exit_code_of(error)
        text = "".join(traceback.format_exception(error))
        with contextlib.suppress(Exception):
            pipe.send((failed_at, _portable(error), text, exit_code))
        if has_log:
            print(text, file=sys.stderr, flush=True)
        else:  # its terminal may be gone by the time that somebody asks, and shows but a line of a FanalError
            append_to_log(log, text)
        os._exit(exit_code)  # no clean-up of process groups: peers may be inside a collective
    sys.exit(code)


def _end_with_starter(pipe: Connection) -> None:
    """Die when the process that holds the other end of the pipe is gone, however it went.

    A rank that trains on alone would meet its own successor in the run folder. The fork server does not help: it lives as
    long as its children.
    """
    poller = select.poll()
    poller.register(pipe.fileno(), 0)  # no event but the closing of the other end, which is always told
    poller.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _portable(error: BaseException) -> BaseException:
    """Return the error if it survives a pickle, else one with its text."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _wait_for_all(processes: list[Any], pipes: list[Connection], log_dir: Path) -> Failure | None:
    """Block until all ranks ended well, or one did not."""
    running = set(range(len(processes)))
    while running:
        wait([processes[rank].sentinel for rank in running] + [pipes[rank] for rank in running])
        failed = _failures(processes, pipes, running, log_dir)
        if failed:
            time.sleep(GRACE_S)
            failed += _failures(processes, pipes, running - {failure.rank for failure in failed}, log_dir)
            # A rank that was killed is the cause even if its peers noticed before we did.
            return min(failed, key=lambda failure: (failure.error is not None, failure.time_s))
        # Not those that have ended by now: a rank may have died since we looked, and its peers would be waited for forever.
        running -= {rank for rank in running if processes[rank].exitcode in (FINISHED, STOPPED)}
    return None


def _failures(processes: list[Any], pipes: list[Connection], ranks: set[int], log_dir: Path) -> list[Failure]:
    found = []
    for rank in sorted(ranks):
        try:
            if pipes[rank].poll():
                time_s, error, text, code = pipes[rank].recv()
                if code == STOPPED:
                    _tell(processes, signal.SIGTERM)
                    continue
                found.append(Failure(rank=rank, time_s=time_s, error=error, text=text, exit_code=code))
                continue
        except EOFError:
            processes[rank].join(timeout=5)
        code = processes[rank].exitcode
        if code is not None and code not in (FINISHED, STOPPED):
            place = "above" if rank == 0 else f"in {log_dir / f'rank-{rank:05d}.log'}"
            end = (
                f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code} and gave no reason"
            )
            text = f"rank {rank} {end}; its output is {place}"
            found.append(Failure(rank=rank, time_s=time.monotonic(), error=None, text=text, exit_code=code))
    return found


@contextlib.contextmanager
def _forward_signals(processes: list[Any]) -> Iterator[None]:
    """Pass stop signals on to the ranks, one that came while they were being started included.

    A terminal's Ctrl-C reaches the ranks by itself as well: the second of two that come together counts for nothing. A later
    one ends the ranks, and this process after them: one that has saved and stopped meanwhile has the last word.
    """

    def forward(number: int, frame: FrameType | None) -> None:
        note_for_ranks(number)
        _tell(processes, number)

    before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    missed = stop_signal()
    if missed is not None:
        _tell(processes, missed)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(processes: list[Any], number: int) -> None:
    """Send a signal to every rank that still runs."""
    for process in processes:
        # The fork server reaps a rank before it says that it has ended.
        with contextlib.suppress(ProcessLookupError):
            if process.is_alive():
                os.kill(process.pid, number)


def _free_port() -> int:
    """Return a port for the store of the ranks, which rank 0 opens a moment later.

    It is drawn below the ports that the system gives to outgoing connections, which gloo makes by the dozen: one of those would
    be taken again before rank 0 comes to it.
    """
    for port in random.SystemRandom().sample(STORE_PORTS, 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise PassingError(
        f"no port from {STORE_PORTS[0]} to {STORE_PORTS[-1]} is free for local ranks: 100 were tried; try again"
    )
