"""Check of every node of the job that this process runs in: start node_check.py on each, read, judge, show, keep."""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.table import Table

from fanal.console import print_table
from fanal.errors import UserError
from fanal.exit_codes import CRASH, FINISHED
from fanal.files import write_whole
from fanal.ownership import make_own_folder
from fanal.run_folder import LAUNCH_DIR
from launch import slurm
from launch.chain import jobs_file
from launch.chain.blame import PREFLIGHT_RESULT
from launch.chain.spare import candidates, num_training_nodes, spare_nodes
from launch.preflight.outliers import (
    MARK,
    MEETING_POINT,
    NodeFinding,
    NodeReport,
    NodeVerdict,
    clock_offsets,
    judge,
    slowdowns,
)
from launch.sites.container import IMAGE, IMAGE_PYTHON, step_words
from launch.sites.schema import ContainerConfig, SiteConfig

LIMIT_S = 300
"""Time limit of the check of all nodes, in seconds. The measurements take about 20; hundreds of processes that import torch
from one busy file system take minutes; a node that needs longer would hold up every start of the run."""
STRAGGLER_S = 60
"""Seconds that the other nodes get once the first is done or has failed; they end within a second of each other."""
LAST_WORDS_S = 60
"""Seconds for srun to end a step that took too long: it gives the tasks Slurm's KillWait, 30 on most clusters."""
KILLED_S = 5
"""Seconds for a killed srun to be gone."""


def look_at_nodes(site: SiteConfig, run_dir: Path, *, gpus: int, limit_s: float = LIMIT_S) -> int:
    """Check the nodes, print a table, write PREFLIGHT_RESULT. Returns the exit code: CRASH if a node must not run the
    job, else FINISHED.

    Args: gpus, those of a node that the job uses; 0 on CPUs.
    Raises: UserError if every node has the same fault, so that the nodes are not to blame.
    """
    spare = spare_nodes()
    nodes = slurm.hostnames(os.environ.get("SLURM_JOB_NODELIST") or os.environ.get("SLURM_NODELIST", ""))
    if spare:
        nodes = candidates(slurm.this_job()[0], run_dir)
    folder = result_folder(run_dir)
    name = "the launch folder" if folder == run_dir / LAUNCH_DIR else "the folder of a job's start"
    make_own_folder(folder, name=name)
    reports = ask_nodes(nodes, run_dir, gpus=gpus, bf16=site.bf16, limit_s=limit_s, container=site.container)
    verdict = judge(reports, nodes, site.node_check, gpus=gpus, memory_gib=site.gpu_memory_gib if gpus else None)
    node_reports = [reports.get(node) or NodeReport(node=node) for node in nodes]
    common = fault_of_all(verdict, nodes)
    broken = [] if common else verdict.nodes("broken")  # nodes to leave out; none if others would be no better
    write_result(folder / PREFLIGHT_RESULT, node_reports, verdict, broken)
    show(node_reports, verdict)
    if common:
        raise UserError(common)
    if spare and not verdict.stuck and len(nodes) - len(broken) >= num_training_nodes():
        say(verdict, broken)
        return FINISHED  # they are left out
    return say(verdict, broken)


def result_folder(run_dir: Path) -> Path:
    """Return the folder of the result: that of the job's start, or the launch folder where no job of a chain runs."""
    attempt = os.environ.get("FANAL_ATTEMPT")
    return Path(attempt) if attempt else run_dir / LAUNCH_DIR


def ask_nodes(
    nodes: tuple[str, ...], run_dir: Path, *, gpus: int, bf16: bool, limit_s: float, container: ContainerConfig | None
) -> dict[str, NodeReport]:
    """Return the last report of each node; nodes that said nothing are not in it. They measure in the job's image, if any."""
    step = [
        "srun", f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1",
        "--kill-on-bad-exit=0",  # the others say how far they came
        f"--wait={STRAGGLER_S}",
    ]  # fmt: skip
    cores = os.environ.get("SLURM_CPUS_PER_TASK")  # srun does not take it over from sbatch
    step += [f"--cpus-per-task={cores}"] if cores else []
    # Of a job with spare nodes, not all may be there any more, and a step that was lost with one of them may still be in the books.
    step += ["--overlap", f"--nodelist={','.join(nodes)}"] if spare_nodes() else []
    step += step_words(container, os.environ.get(IMAGE, ""), places=(Path.cwd(), Path(__file__).parents[2], run_dir))
    command = [
        os.environ.get(IMAGE_PYTHON) or sys.executable, "-m", "launch.preflight.node_check", "--folder", str(run_dir),
        "--gpus", str(gpus), "--bf16" if bf16 else "--fp32",
    ]  # fmt: skip
    variables = {**environment(), MEETING_POINT: _meeting_point(nodes)}
    sys.stdout.flush()
    # A file, not a pipe: the end of a pipe is when all who hold it are gone, and srun may leave others behind.
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen([*step, *command], stdout=said, env=variables)
        except FileNotFoundError:
            raise slurm.SlurmError("srun is not on this machine: Slurm's commands are needed here") from None
        _end_within(process, limit_s)
        said.seek(0)
        output = said.read().decode(errors="replace")
    return read_reports(output)


def _end_within(process: subprocess.Popen[bytes], limit_s: float) -> None:
    """Wait for the step as long as it may take, and then end it, by force at last."""
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        print(f"warning: the nodes took more than {limit_s:g} s: their check is ended", file=sys.stderr, flush=True)
        process.terminate()  # srun ends the step on all nodes
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LAST_WORDS_S)
            return
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for a disk or a network, and is left behind
            process.wait(KILLED_S)


def read_reports(output: str) -> dict[str, NodeReport]:
    """Return the last report of each node in what a step printed; half lines of processes that were killed do not count."""
    reports: dict[str, NodeReport] = {}
    for line in output.splitlines():
        before, *texts = line.split(MARK)  # two where one node spoke into the line of another
        for text in texts:
            try:
                fields, _ = json.JSONDecoder().raw_decode(text)
                report = NodeReport(**fields)
            except (json.JSONDecodeError, TypeError):
                continue
            reports[report.node] = report
        if before.strip() and not texts:
            print(line)
    return reports


def environment() -> dict[str, str]:
    """Return the environment of a subprocess that imports this project, wherever it starts."""
    code_dir = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{code_dir}{os.pathsep}{before}" if before else code_dir}


def fault_of_all(verdict: NodeVerdict, nodes: tuple[str, ...]) -> str:
    """Return what to say if all of several nodes are broken in the same way; empty if they are not.

    Then other nodes would be no better: the site, the Python environment or the run folder is wrong.
    """
    for what in ("GPUs", "GPU memory", "write"):
        found = [finding for finding in verdict.findings if finding.kind == "broken" and finding.what == what]
        if len(nodes) > 1 and {finding.node for finding in found} == set(nodes):
            remedy = {
                "GPUs": "gpus_per_node of the site must be what nodes have, and torch a build for CUDA",
                "GPU memory": "gpu_memory_gib of the site must be what one GPU has",
                "write": "run_dir must be a folder that compute nodes can write to",
            }[what]
            return f"every node ({nodes[0]} and {len(nodes) - 1} more) {found[0].text}; {remedy}"
    return ""


def write_result(path: Path, node_reports: list[NodeReport], verdict: NodeVerdict, broken: list[str]) -> None:
    """Write the result as one JSON file; ``broken`` are the nodes that the next start should avoid."""
    content = {
        "time_utc": jobs_file.now_utc(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "broken": broken,
        "slow": verdict.nodes("slow"),
        "slowdown": slowdowns(node_reports),
        "stuck": verdict.stuck,
        "findings": [dataclasses.asdict(finding) for finding in verdict.findings],
        "nodes": [dataclasses.asdict(report) for report in node_reports],
    }
    write_whole(path, json.dumps(content, indent=2) + "\n")


def show(node_reports: list[NodeReport], verdict: NodeVerdict) -> None:
    """Print one line a node; of several GPUs, the slowest."""
    table = Table(
        "node", "GPUs", "matrix product\nTFLOP/s", "memory copy\nGB/s", "exchange\nGB/s", "write\nms", "clock\nms off",
        "finding", show_edge=False, header_style="bold",
    )  # fmt: skip
    offsets = clock_offsets(node_reports)
    findings: dict[str, list[NodeFinding]] = {}
    for finding in verdict.findings:
        findings.setdefault(finding.node, []).append(finding)
    for report in node_reports:
        found = findings.get(report.node, [])
        broken = any(finding.kind == "broken" for finding in found)
        text = "; ".join(finding.text for finding in found)
        table.add_row(
            report.node,
            str(len(report.gpu_memory_gib)) if report.gpu_memory_gib else "",
            *(_least(values) for values in (report.gemm_tflops, report.copy_gb_per_s, report.exchange_gb_per_s)),
            "" if report.write_s is None else f"{report.write_s * 1e3:.0f}",
            f"{offsets[report.node] * 1e3:.0f}" if report.node in offsets else "",
            f"{'BROKEN' if broken else 'SLOW'}: {text}" if found else _without_finding(report),
            style=("bold red" if broken else "yellow") if found else None,
        )
    print_table(table, columns=250)
    together = next((report.all_reduce_gb_per_s for report in node_reports if report.all_reduce_gb_per_s), [])
    if together:
        print(f"all-reduce over {len(node_reports)} nodes: {', '.join(f'{value:.3g}' for value in together)} GB/s")


def say(verdict: NodeVerdict, broken: list[str]) -> int:
    """Print what follows from the verdict, on standard error. Returns the exit code."""
    sys.stdout.flush()
    slow = [node for node in verdict.nodes("slow") if node not in broken]
    if slow:
        print(f"warning: slow, yet usable: {', '.join(slow)}; --exclude={','.join(slow)} avoids them", file=sys.stderr)
    if broken:
        print(f"error: broken: {', '.join(broken)}; --exclude={','.join(broken)} avoids them", file=sys.stderr)
    if verdict.stuck:
        print(f"error: {verdict.stuck}; --no-preflight starts without a check of the nodes", file=sys.stderr)
    return CRASH if broken or verdict.stuck else FINISHED


def _without_finding(report: NodeReport) -> str:
    return "ok" if report.stage == "done" else f"ok as far as it got ('{report.stage}')"


def _least(values: list[float]) -> str:
    return f"{min(values):.3g}" if values else ""


def _meeting_point(nodes: tuple[str, ...]) -> str:
    """Return HOST:PORT on the first node, where the script of a job runs; a port that was free a moment ago.

    In the shell of an salloc, which runs elsewhere, the node goes by Slurm's name, and the port is a guess.
    """
    with socket.socket() as probe:
        probe.bind(("", 0))
        host = socket.gethostname() if "SLURMD_NODENAME" in os.environ else nodes[0]
        return f"{host}:{probe.getsockname()[1]}"
