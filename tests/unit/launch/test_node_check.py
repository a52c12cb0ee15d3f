"""The look at the nodes for real, as processes that talk gloo, each of which plays a node; srun and scontrol are stand-ins."""

import json
import os
import re
import stat
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fanal.run_folder import JOB
from launch.chain import job, jobs_file
from launch.chain.blame import broken_nodes
from launch.chain.script import SITE
from launch.preflight.node_check import ring_rounds
from launch.preflight.nodes import fault_of_all, look_at_nodes, read_reports
from launch.preflight.outliers import MARK, NodeFinding, NodeVerdict
from launch.sites.schema import NodeCheckConfig
from launch.sites.site import load_site

ROOT = Path(__file__).parents[3]
# Processes share the cores with each other and with other tests, so only what is planted may stand out.
LOCAL = replace(
    load_site("local"),
    node_check=NodeCheckConfig(gemm_slower=4.0, copy_slower=100.0, network_slower=4.0, write_slower=1000.0),
)
SRUN = """
    import os, re, signal, subprocess, sys
    planted = {planted}
    arguments = sys.argv[1:]
    command = arguments[next(n for n, argument in enumerate(arguments) if not argument.startswith("-")):]
    assert command[1:3] == ["-m", "launch.preflight.node_check"], command
    assert "--ntasks-per-node=1" in arguments
    assert not [argument for argument in arguments if re.search(":[0-9]+$", argument)], "where nodes meet is for them alone"
    nodes, tasks = {nodes}, []
    for number, node in enumerate(nodes):
        names = dict(SLURM_PROCID=str(number), SLURM_NTASKS=str(len(nodes)), SLURMD_NODENAME=node, OMP_NUM_THREADS="1")
        script = planted.get(node, "")
        if script is not None:
            mine = [command[0], script, *command[3:]] if script else command
            tasks.append(subprocess.Popen(mine, env={{**os.environ, **names}}))
    signal.signal(signal.SIGTERM, lambda *_: [task.kill() for task in tasks])
    sys.exit(max(abs(task.wait()) for task in tasks))
"""
SLOW = """
    import time, torch
    import torch.distributed as dist
    from launch.preflight import node_check

    def late(seconds, act):
        def acted(*arguments):
            time.sleep(seconds)
            return act(*arguments)
        return acted

    torch.mm = late(2.0, torch.mm)
    dist.batch_isend_irecv = late(0.6, dist.batch_isend_irecv)
    node_check.main()
"""
READ_ONLY = """
    from launch.preflight import node_check
    node_check.measure_write = lambda folder: (None, "Read-only file system")
    node_check.main()
"""

HURRIED = """
    from launch.preflight import node_check
    node_check.MEET_S = 3.0
    node_check.main()
"""
HANGS = """
    import os, time
    from launch.preflight.outliers import MARK
    print(MARK + '{"node": "%s", "stage": "measured"}' % os.environ["SLURMD_NODENAME"], flush=True)
    time.sleep(1000)
"""
STUBBORN = """
    import signal, subprocess, time
    from launch.preflight.outliers import MARK
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "60"])
    print(MARK + '{"node": "n1", "stage": "measured"}', flush=True)
    time.sleep(60)
"""


@dataclass
class Cluster:
    """Nodes that are processes of this machine."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def attempt(self) -> Path:
        return self.folder / "attempt"

    def start(self, *nodes: str, **planted: str | None) -> None:
        """Make srun and scontrol for these nodes. Planted: a program in place of the node check; None for a node that is away."""
        scripts = {}
        for node, text in planted.items():
            scripts[node] = None
            if text is not None:
                scripts[node] = str(self.folder / f"{node}.py")
                Path(scripts[node]).write_text(textwrap.dedent(text))
        self.command("srun", SRUN.format(planted=scripts, nodes=list(nodes)))
        self.command("scontrol", f"print(*{list(nodes)})")
        for name, value in {
            "PATH": f"{self.folder}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n[1-9]", "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": str(len(nodes)), "FANAL_ATTEMPT": str(self.attempt), "SLURMD_NODENAME": nodes[0],
        }.items():  # fmt: skip
            self.monkeypatch.setenv(name, value)

    def command(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def result(self) -> dict:
        return json.loads((self.attempt / "preflight.json").read_text())


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path, monkeypatch)


def test_a_slow_node_is_found_and_named_and_its_neighbours_are_not(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.start("n1", "n2", "n3", n2=SLOW)
    assert look_at_nodes(LOCAL, cluster.folder, gpus=0) == 0
    result = cluster.result()
    slower = {(found["node"], found["what"]): found["times_slower"] for found in result["findings"]}
    assert slower["n2", "matrix product"] > 4 and slower["n2", "exchange"] > 4
    # What else this machine does may slow a copy or a product of any of the three; an exchange is the better of two.
    assert {node for node, what in slower if what == "exchange"} == {"n2"}
    assert (result["broken"], result["stuck"], result["job"]) == ([], "", "7") and "n2" in result["slow"]
    assert [node["stage"] for node in result["nodes"]] == ["done"] * 3
    said = capfd.readouterr()
    assert "SLOW: matrix product" in said.out and "all-reduce over 3 nodes: " in said.out
    assert re.search(r"warning: slow, yet usable: .*n2.*; --exclude=.*n2.* avoids them", said.err)
    assert not list(cluster.folder.glob(".node-check-*"))


def test_a_broken_node_fails_the_preflight_of_a_job_and_is_named(
    cluster: Cluster, small_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from launch.preflight.preflight import preflight

    cluster.start("n1", "n2", n2=READ_ONLY)
    site = cluster.folder / "site.yaml"
    site.write_text("description: a machine\ngpus_per_node: 0\ncores_per_node: 4\n")
    overrides = [f"run_dir={cluster.folder}", "parallel.data_parallel_size=2"]
    code = preflight(str(small_run), overrides, str(site), nodes=None, gpus_per_node=None, deep=False)
    said = capfd.readouterr()
    assert code == 70, said
    assert "ranks: 2 nodes x 1 = 2 ranks fit the layout (this job)" in said.out
    assert "BROKEN: cannot write to the run folder: Read-only file system" in said.out
    assert "error: broken: n2; --exclude=n2 avoids them" in said.err
    assert broken_nodes(cluster.attempt) == {"n2": "preflight: cannot write to the run folder: Read-only file system"}


def test_a_node_that_does_not_come_is_named(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    cluster.start("n1", "n2", "n3", n1=HURRIED, n2=HURRIED, n3=None)
    assert look_at_nodes(LOCAL, cluster.folder, gpus=0) == 70
    result, said = cluster.result(), capfd.readouterr()
    assert (result["broken"], result["nodes"][0]["stage"], result["nodes"][2]["stage"]) == (["n3"], "reached", "")
    assert "ok as far as it got ('reached')" in said.out and "BROKEN: did not report" in said.out
    assert "--exclude=n3" in said.err


def test_nodes_that_take_too_long_are_ended_and_those_that_came_least_far_named(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.start("n1", "n2", "n3", n1=HANGS, n2=HANGS.replace("measured", "started"), n3=HANGS)
    assert look_at_nodes(LOCAL, cluster.folder, gpus=0, limit_s=30) == 70
    assert cluster.result()["broken"] == ["n2"]
    said = capfd.readouterr()
    assert "the nodes took more than 30 s" in said.err
    assert "BROKEN: got no further than 'started': it fell silent" in said.out


def test_a_step_that_cannot_be_ended_and_leaves_others_behind_is_not_waited_for(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.start("n1", "n2")
    cluster.command("srun", STUBBORN)
    cluster.monkeypatch.setattr("launch.preflight.nodes.LAST_WORDS_S", 1)
    began = time.monotonic()
    assert look_at_nodes(LOCAL, cluster.folder, gpus=0, limit_s=3) == 70
    assert time.monotonic() - began < 30, "what it left behind holds its output for a minute"
    assert cluster.result()["broken"] == ["n2"] and "the nodes took more than 3 s" in capfd.readouterr().err


def test_a_single_node_has_nobody_to_talk_to(cluster: Cluster) -> None:
    cluster.start("n1")
    cluster.monkeypatch.delenv("FANAL_ATTEMPT")
    assert look_at_nodes(LOCAL, cluster.folder, gpus=0) == 0
    result = json.loads((cluster.folder / "launch" / "preflight.json").read_text())
    (node,) = result["nodes"]
    assert node["exchange_gb_per_s"] == [] and node["gemm_tflops"][0] > 0 and result["findings"] == []


def test_a_fault_of_every_node_is_not_a_nodes_fault() -> None:
    def broken(node: str) -> NodeFinding:
        return NodeFinding(node=node, kind="broken", what="GPUs", text="has 0 GPUs, should have 4")

    assert fault_of_all(NodeVerdict(findings=(broken("n1"), broken("n2"))), ("n1", "n2")) == (
        "every node (n1 and 1 more) has 0 GPUs, should have 4; gpus_per_node of the site must be what nodes have, and torch a "
        "build for CUDA"
    )
    assert fault_of_all(NodeVerdict(findings=(broken("n1"),)), ("n1", "n2")) == ""
    assert fault_of_all(NodeVerdict(findings=(broken("n1"),)), ("n1",)) == ""


def test_reports_that_share_a_line_are_all_read() -> None:
    lines = [MARK + json.dumps({"node": node, "stage": "done"}) for node in ("n1", "n2")]
    assert set(read_reports("".join(lines) + "\n\n")) == {"n1", "n2"}


def test_half_a_line_of_a_killed_process_is_no_report() -> None:
    whole = (
        f'0: {MARK}{{"node": "n1", "stage": "met"}}\n{MARK}{{"node": "n1", "stage": "do\n{MARK}{{"nod": 1}}\nother\n'
    )
    assert {node: report.stage for node, report in read_reports(whole).items()} == {"n1": "met"}


@pytest.mark.parametrize("num_nodes", range(1, 10))
def test_every_neighbour_in_the_ring_is_met_once_and_nobody_is_in_two_pairs(num_nodes: int) -> None:
    rounds = ring_rounds(num_nodes)
    pairs = [frozenset(pair) for round_ in rounds for pair in round_]
    around = {frozenset((node, (node + 1) % num_nodes)) for node in range(num_nodes)} if num_nodes > 1 else set()
    assert len(pairs) == len(around) and set(pairs) == around
    assert len(rounds) <= 2 + num_nodes % 2
    for pairs_at_once in rounds:
        busy = [node for pair in pairs_at_once for node in pair]
        assert len(busy) == len(set(busy))


def test_the_next_start_avoids_nodes_that_preflight_found_broken(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir, folder = cluster.folder / "run", cluster.folder / "run" / "launch"
    attempt = folder / "7-0"
    attempt.mkdir(parents=True)
    facts = {"name": "fanal-run", "run_dir": str(run_dir), "nodes": 2, "ranks_per_node": 1, "code_dir": str(ROOT)}
    (folder / JOB).write_text(json.dumps(facts))
    (folder / SITE).write_text("description: a machine\ngpus_per_node: 0\ncores_per_node: 4\n")
    (attempt / "preflight.json").write_text('{"broken": ["n3", "n7"]}')
    jobs_file.note(run_dir, "started", job="7", restart=0, nodes=["n3", "n5", "n7"], step=0)
    cluster.monkeypatch.setenv("SLURM_JOB_ID", "7")
    for name, answer in {
        "waiting_jobs": [], "lost_nodes": ("n3",), "usable_nodes": {"n1", "n2"}, "requeue": None, "job_fields": {},
    }.items():  # fmt: skip
        cluster.monkeypatch.setattr(job.slurm, name, lambda *_, answer=answer: answer)
    cluster.monkeypatch.setattr(job.signal, "signal", lambda *_: None)
    assert job.end(folder, before_training=70, walltime=False) == 70
    decided = jobs_file.read_run(run_dir)[-1]
    assert (decided["action"], decided["reason"], decided["exclude"]) == ("requeue", "lost n3, n7", ["n3", "n7"])
