"""A real Slurm of two nodes on one machine: munged, slurmctld and two slurmd, in a temporary folder of their own."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType

import psutil

from tests.slurm.processes import belongs_to_a_job, kill_all, processes_of

NODES = ("n1", "n2")
"""Jobs are given n1 first, so the batch script of a job on both nodes runs on n1."""
CPUS_PER_NODE = 8
"""What Slurm believes; the machine may have fewer."""
KILL_WAIT_S = 20
"""From TERM to KILL when a job is cancelled, requeued or out of time; sites have 30 and more."""
NODE_TIMEOUT_S = 12
"""A slurmd silent for so long is down; sites have 300."""
REQUEUE_DELAY_S = 40
"""How long a requeued job waits at least, and how long a launch may take; Slurm's default is 120. Longer than KillWait, as on sites:
so long slurmd looks for what is left of a job that it ends, and ends what it finds, the job's next start included; twice as long,
since it is late where other clusters start jobs on the same cores."""
START_TIMEOUT_S = 90
UP = {"IDLE", "MIXED", "ALLOCATED", "IDLE+COMPLETING", "MIXED+COMPLETING", "ALLOCATED+COMPLETING"}
PROGRAMS = {
    "munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "srun": "slurm-wlm",
    "scontrol": "slurm-wlm", "shellcheck": "shellcheck",
}  # fmt: skip
"""Program to the Debian package that has it."""
PATHS = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
FirstJobId={port}000
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue_delay}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1,batch_sched_delay=0
JobRequeue=1
ReturnToService=2
KillWait={kill_wait}
SlurmdTimeout={node_timeout}
MinJobAge=3600
SlurmdParameters=config_overrides
{nodes}
PartitionName=cpu Nodes=ALL Default=YES DefaultTime=10 MaxTime=INFINITE State=UP
"""


def missing_packages() -> list[str]:
    """Debian packages whose programs are not on this machine; empty where a cluster can start."""
    return sorted({package for program, package in PROGRAMS.items() if not shutil.which(program, path=PATHS)})


def why_no_cluster() -> str | None:
    """What this machine lacks to start a cluster, with what would work; None if nothing."""
    if missing := missing_packages():
        return f"no Slurm here: {', '.join(missing)} missing; `apt-get install {' '.join(missing)}` on Debian"
    if os.geteuid() != 0:
        return f"Slurm's daemons switch users, so the cluster is started by root; this is uid {os.geteuid()}"
    return None


class Cluster:
    """Start on entry, kill on exit, jobs and their processes included. Several may be there, also at a time: all that a cluster
    has lies in its folder, its ports are its own, and so are the numbers of its jobs, which name folders of a node's disk.

    Daemons die with the thread that started them, so that a killed test run leaves none: call start, and start_node, from
    the main one. A job's process that clears its environment is not known as one, and outlives the cluster.
    """

    def __init__(self, nodes: Sequence[str] = NODES, *, more_config: str = "") -> None:
        """Args: nodes, those that are started; more_config, lines for slurm.conf, such as nodes that only stand in the books."""
        self.names = tuple(nodes)
        self._more_config = more_config
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)  # munged refuses a socket in a folder that only its owner may enter
        self.config = self.folder / "slurm.conf"
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        self.nodes_file = self.folder / "nodes.txt"
        """List of nodes to avoid (launch/chain/node_list.py) of all that is submitted here; each test begins without one."""
        self.env |= {"SLURM_CONF": str(self.config), "PATH": PATHS, "FANAL_NODES_FILE": str(self.nodes_file)}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Return once all nodes are idle. RuntimeError, with the end of its log, if a daemon does not come up."""
        if why := why_no_cluster():
            raise RuntimeError(why)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        (self.folder / "state").mkdir()
        self._write_config()
        munge = {"key-file": key, "socket": self.folder / "munge.socket", "pid-file": self.folder / "munged.pid"}
        munge |= {"seed-file": self.folder / "munged.seed"}
        self._spawn("munged", "munged", "--foreground", *(f"--{name}={path}" for name, path in munge.items()))
        self._until_up("munged", munge["socket"].is_socket)
        self._spawn("slurmctld", "slurmctld", "-D", "-f", str(self.config))
        self._until_up("slurmctld", lambda: "is UP" in self._run("scontrol", "ping", check=False))
        for node in self.names:
            self.start_node(node)

    def stop(self) -> None:
        """Kill every daemon and every process of every job, and remove the folder."""
        kill_all(self.processes)
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()
        self._daemons.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def sbatch(self, path: Path | str, *args: str) -> int:
        """Submit a script, options before it; the job's id. RuntimeError with Slurm's words if it is refused."""
        return int(self._run("sbatch", "--parsable", *args, str(path)).split(";")[0])

    def job(self, job_id: int) -> dict[str, str]:
        """Fields of `scontrol show job -o`; those of finished jobs can be asked for an hour."""
        return fields(self._run("scontrol", "show", "job", "-o", str(job_id)))

    def state(self, job_id: int) -> str:
        return self.job(job_id)["JobState"]

    def wait_for(self, job_id: int, states: str | Iterable[str], timeout_s: float) -> dict[str, str]:
        """The job's fields once it is in one of the states; TimeoutError with its last state and reason otherwise."""
        wanted = {states} if isinstance(states, str) else set(states)
        end = time.monotonic() + timeout_s
        while (job := self.job(job_id))["JobState"] not in wanted:
            if time.monotonic() > end:
                now = f"{job['JobState']}, reason {job['Reason']}, restarts {job['Restarts']}"
                raise TimeoutError(
                    f"job {job_id} is {now} after {timeout_s:g} s; waited for {', '.join(sorted(wanted))}"
                )
            time.sleep(0.2)
        return job

    def scancel(self, *args: str | int) -> None:
        self._run("scancel", *map(str, args))

    def clear(self) -> None:
        """End every job now, without the time that KillWait gives it, and start the nodes that were killed."""
        for job_id in self.queue():
            self._run("scancel", str(job_id), check=False)  # it may have ended meanwhile
        kill_all(lambda: [process for process in self.processes() if belongs_to_a_job(process)])
        self.nodes_file.unlink(missing_ok=True)
        for name in self.names:
            if not self.is_running(name):
                self.start_node(name)
        end = time.monotonic() + START_TIMEOUT_S
        while queue := self.queue():
            if time.monotonic() > end:
                raise RuntimeError(
                    f"jobs still there {START_TIMEOUT_S} s after scancel: {queue}\n{self.log('slurmctld')}"
                )
            time.sleep(0.2)

    def scontrol(self, *args: str | int) -> str:
        return self._run("scontrol", *map(str, args))

    def nodes(self) -> dict[str, str]:
        """Node to its state, such as IDLE, MIXED, IDLE+DRAIN, DOWN."""
        lines = self._run("scontrol", "show", "node", "-o").splitlines()
        return {node["NodeName"]: node["State"] for node in map(fields, lines)}

    def node(self, name: str) -> dict[str, str]:
        return fields(self._run("scontrol", "show", "node", "-o", name))

    def queue(self) -> dict[int, str]:
        """Jobs that are not finished, pending ones included, to their state; of an array its waiting tasks are one."""
        lines = self._run("squeue", "--noheader", "--format=%A %T").splitlines()
        return {int(job): state for job, state in map(str.split, lines)}

    def kill_node(self, name: str) -> None:
        """As if the power went: kill -9 of slurmd, its slurmstepds and every process of a job under them."""
        self._daemons[name].kill()
        self._daemons.pop(name).wait()
        kill_all(lambda: self.processes(name))

    def start_node(self, name: str) -> None:
        """Start a node that is not there; return once it has registered and Slurm gives it jobs."""
        began = datetime.now().isoformat(timespec="seconds")
        # -b: the node's BootTime is this start, as of one whose power came back, and not the machine's.
        self._spawn(name, "slurmd", "-D", "-b", "-f", str(self.config), "-N", name)

        def is_up() -> bool:
            node = fields(self._run("scontrol", "show", "node", "-o", name, check=False))
            # A node that was killed a moment ago still has the state it had, but not a start as late as this one.
            return node.get("State") in UP and node["SlurmdStartTime"] >= began

        self._until_up(name, is_up)

    def is_running(self, daemon: str) -> bool:
        """Whether a daemon that was started, munged, slurmctld or a node's, is still there."""
        return daemon in self._daemons and self._daemons[daemon].poll() is None

    def processes(self, *nodes: str) -> list[psutil.Process]:
        """Of the nodes, or of all nodes, the controller and munged."""
        return processes_of(self.folder, nodes or (*self.names, "slurmctld", "munged"))

    def log(self, daemon: str, lines: int = 20) -> str:
        """The last lines of a daemon's log: munged, slurmctld or a node's name."""
        path = self.folder / f"{daemon}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def _write_config(self) -> None:
        host = socket.gethostname().split(".")[0]
        port, *node_ports = free_ports(1 + len(self.names))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs={CPUS_PER_NODE} RealMemory=65536"
            for node, node_port in zip(self.names, node_ports, strict=True)
        )
        text = CONFIG.format(
            host=host, port=port, folder=self.folder, nodes=nodes,
            kill_wait=KILL_WAIT_S, node_timeout=NODE_TIMEOUT_S, requeue_delay=REQUEUE_DELAY_S,
        )  # fmt: skip
        self.config.write_text(text + self._more_config)

    def _spawn(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                env=self.env | {"SLURMD_NODENAME": name}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _until_up(self, name: str, is_up: Callable[[], bool]) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while not is_up():
            gone = self._daemons[name].poll()
            if gone is not None or time.monotonic() > end:
                what = f"exited with {gone}" if gone is not None else f"is not up after {START_TIMEOUT_S} s"
                raise RuntimeError(f"{name} {what}; the end of its log:\n{self.log(name)}")
            time.sleep(0.1)

    def _run(self, *command: str, check: bool = True) -> str:
        result = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        if check and result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit code {result.returncode}: {result.stderr.strip()}")
        return result.stdout


def fields(line: str) -> dict[str, str]:
    """Of a line of `scontrol -o`: words of KEY=VALUE; a word without `=` belongs to the value before it."""
    found: dict[str, str] = {}
    key = ""
    for word in line.split():
        name, equals, value = word.partition("=")
        if equals and name.replace(":", "").replace("/", "").isalnum():
            key, found[name] = name, value
        elif key:
            found[key] += f" {word}"
    return found


def free_ports(count: int) -> list[int]:
    """Free just now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
