"""Which processes a cluster of the tests has, and how all of them are killed."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil


def processes_of(folder: Path, nodes: Iterable[str]) -> list[psutil.Process]:
    """Of these nodes of the cluster in a folder, slurmstepds first, so that a killed node reports nothing of its tasks.

    Daemons, batch scripts, tasks and all below them are known by SLURM_CONF and SLURMD_NODENAME in their environment, which
    the cluster and Slurm set. This process and its parents are never among them.
    """
    wanted = set(nodes)
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    steps, others = [], []
    for process in psutil.process_iter():
        try:
            if process.name() == "slurmstepd":
                steps += [process] if is_step(process, folder, wanted) else []
            elif process.pid not in spared and is_of(process.environ(), folder, wanted):
                others.append(process)
        except psutil.Error:  # gone meanwhile
            continue
    return steps + others


def is_of(environment: dict[str, str], folder: Path, nodes: set[str]) -> bool:
    return environment.get("SLURM_CONF") == f"{folder}/slurm.conf" and environment.get("SLURMD_NODENAME") in nodes


def is_step(process: psutil.Process, folder: Path, nodes: set[str]) -> bool:
    """A slurmstepd overwrites its environment with its title, but its socket lies in its node's folder."""
    folders = tuple(f"{folder}/{node}/" for node in nodes)
    return any(str(connection.laddr).startswith(folders) for connection in process.net_connections(kind="unix"))


def belongs_to_a_job(process: psutil.Process) -> bool:
    """A batch script, a task or something below them: not a daemon, and not a slurmstepd, which then reports their end."""
    try:
        return process.name() != "slurmstepd" and "SLURM_JOB_ID" in process.environ()
    except psutil.Error:  # gone meanwhile
        return False


def kill_all(find: Callable[[], list[psutil.Process]], timeout_s: float = 10) -> None:
    """kill -9 until find finds nothing, since what is found may fork meanwhile. RuntimeError if some cannot be killed."""
    end = time.monotonic() + timeout_s
    while processes := find():
        if time.monotonic() > end:
            raise RuntimeError(f"still there {timeout_s:g} s after kill -9: {', '.join(map(str, processes))}")
        for process in processes:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=1)
