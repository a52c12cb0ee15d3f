"""Outliers among nodes. Pure: what each node measured, and the site's tolerances -> findings.

A node is compared with the median of the other nodes, so that it does not move what it is held against. Broken nodes must not
run a job; slow ones make every other node wait, and a user decides whether that is worth another start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Literal

from launch.sites.schema import NodeCheckConfig

STAGES = ("", "started", "measured", "reached", "met", "done")
"""Stages of a node's check, in order: nothing heard of it; torch imported; its own figures measured; the first node
reached over the network; all nodes connected; all measured."""
MEETING_POINT = "FANAL_NODES_MEET_AT"
"""Environment variable of a node's check: HOST:PORT where nodes meet. A command line would tell every user of the node."""
MARK = "fanal-node:"
"""Prefix of each report in what a node prints: other programs write to standard output, too."""
MEMORY_SHARE = 0.97
"""Share of the memory in the site's file that a node must have: error correction and the driver keep some for themselves."""
QUICK_WRITE_S = 0.1
"""Seconds below which a small write is not slow, however fast the others are: that is one busy moment of a shared file
system."""


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """Report of one node about itself. Lists have one figure for each GPU; on CPUs one for the node."""

    node: str
    """Name of the node, as Slurm calls it."""
    stage: str = ""
    """Last of STAGES that the node reached."""
    error: str = ""
    """Reason why the node came no further; empty if it did, or fell silent."""
    gpu_memory_gib: list[float] = field(default_factory=list)
    """Memory of every GPU that torch sees, as torch counts it."""
    gemm_tflops: list[float] = field(default_factory=list)
    copy_gb_per_s: list[float] = field(default_factory=list)
    """Speed of a copy, in bytes read and written."""
    exchange_gb_per_s: list[float] = field(default_factory=list)
    """Speed each way with the better of its two neighbours; empty if it has none."""
    all_reduce_gb_per_s: list[float] = field(default_factory=list)
    """Bus bandwidth over all nodes, the same for each."""
    write_s: float | None = None
    """Seconds until a small file in the run folder is on the disk."""
    write_error: str = ""
    clock_s: float | None = None
    """Time on its clock when all nodes left a barrier."""


@dataclass(frozen=True, kw_only=True)
class NodeFinding:
    """One finding about one node."""

    node: str
    kind: Literal["broken", "slow"]
    what: str
    text: str
    """Text for users, without the node's name."""
    value: float | None = None
    median: float | None = None
    """Median of the other nodes; of a broken one, what was expected."""
    times_slower: float | None = None
    """Ratio to the median; None if the node is broken rather than slow."""


@dataclass(frozen=True, kw_only=True)
class NodeVerdict:
    """All findings about the nodes of a job."""

    findings: tuple[NodeFinding, ...]
    stuck: str = ""
    """Description of nodes that did not finish together where none of them stands out; else empty."""

    def nodes(self, kind: Literal["broken", "slow"]) -> list[str]:
        """Return the nodes with a finding of this kind, each once."""
        return list(dict.fromkeys(finding.node for finding in self.findings if finding.kind == kind))


def judge(
    reports: Mapping[str, NodeReport],
    nodes: Sequence[str],
    limits: NodeCheckConfig,
    *,
    gpus: int,
    memory_gib: float | None,
) -> NodeVerdict:
    """Judge what stands out among ``nodes``, all those of the job; one that is not in ``reports`` is missing.

    Args: gpus and memory_gib (of one GPU), as a node should have them; 0 and None on CPUs.
    """
    node_reports = [reports.get(node) or NodeReport(node=node) for node in nodes]
    behind, stuck = _behind(node_reports)
    findings = list(behind)
    for report in node_reports:
        if report.stage not in STAGES[:2]:
            findings += _broken(report, gpus, memory_gib)
    findings += _wrong_clocks(node_reports, limits.clock_s)
    for what, figures, unit, limit in (
        ("matrix product", {r.node: r.gemm_tflops for r in node_reports}, "TFLOP/s", limits.gemm_slower),
        ("memory copy", {r.node: r.copy_gb_per_s for r in node_reports}, "GB/s", limits.copy_slower),
        ("exchange", {r.node: r.exchange_gb_per_s for r in node_reports}, "GB/s", limits.network_slower),
    ):
        findings += _slow(what, figures, unit, limit)
    findings += _slow_writes({r.node: r.write_s for r in node_reports if r.write_s is not None}, limits.write_slower)
    return NodeVerdict(findings=tuple(findings), stuck=stuck)


def _behind(node_reports: list[NodeReport]) -> tuple[list[NodeFinding], str]:
    """Return the nodes that held the others up, or what to say if nobody can tell which those are.

    Every node waits for every other one, so all stop when one does. To blame are those that got least far; if that is most of
    them, those that fell silent, since nodes that wait for others end with an error.
    """
    late = [report for report in node_reports if report.stage != "done"]
    if not late:
        return [], ""
    least = min(STAGES.index(report.stage) for report in late)
    blamed = [report for report in late if STAGES.index(report.stage) == least]
    if 2 * len(blamed) > len(node_reports) > 1:
        blamed = [report for report in blamed if not report.error]
    if not blamed or 2 * len(blamed) > len(node_reports) > 1:
        errors = [f"{report.node}: {report.error}" for report in late if report.error]
        return (
            [],
            f"{len(late)} of {len(node_reports)} nodes did not finish, and none stands out ({(errors or ['no error'])[0]})",
        )
    return [NodeFinding(node=r.node, kind="broken", what="missing", text=_how_far(r)) for r in blamed], ""


def _how_far(report: NodeReport) -> str:
    if not report.stage:
        return "did not report" + (f": {report.error}" if report.error else "")
    why = report.error or "it fell silent"
    return f"got no further than '{report.stage}': {why}"


def _broken(report: NodeReport, gpus: int, memory_gib: float | None) -> list[NodeFinding]:
    found = []
    if len(report.gpu_memory_gib) < gpus:
        text = f"has {len(report.gpu_memory_gib)} GPUs, should have {gpus}"
        count = float(len(report.gpu_memory_gib))
        found.append(NodeFinding(node=report.node, kind="broken", what="GPUs", text=text, value=count, median=gpus))
    least = min(report.gpu_memory_gib[:gpus], default=None)
    if least is not None and memory_gib is not None and least < memory_gib * MEMORY_SHARE:
        number = report.gpu_memory_gib.index(least)
        text = f"has {least:.1f} GiB of memory on GPU {number}, should have {memory_gib:g}"
        found.append(
            NodeFinding(node=report.node, kind="broken", what="GPU memory", text=text, value=least, median=memory_gib)
        )
    if report.write_error:
        text = f"cannot write to the run folder: {report.write_error}"
        found.append(NodeFinding(node=report.node, kind="broken", what="write", text=text))
    return found


def clock_offsets(node_reports: Sequence[NodeReport]) -> dict[str, float]:
    """Return the seconds that each node's clock is ahead; empty if there is nothing to compare.

    Against the lower median of all nodes, since a clock can be off both ways: the median of two others lies between a right and a
    wrong one. Of two nodes, the first counts as right: one of them must.
    """
    clocks = {report.node: report.clock_s for report in node_reports if report.clock_s is not None}
    if len(clocks) < 2:
        return {}
    right = median_low(clocks.values()) if len(clocks) > 2 else next(iter(clocks.values()))
    return {node: clock - right for node, clock in clocks.items()}


def _wrong_clocks(node_reports: list[NodeReport], limit_s: float) -> list[NodeFinding]:
    return [
        NodeFinding(
            node=node, kind="broken", what="clock", text=f"has a clock {offset:+.1f} s off", value=offset, median=0.0
        )
        for node, offset in clock_offsets(node_reports).items()
        if abs(offset) > limit_s
    ]


def medians_of_others(figures: Mapping[str, float]) -> dict[str, float]:
    """Return for each node the median of the other nodes' figures, in the order of the nodes; empty for a node alone.

    All figures are put in order once: of those without the one at a place, what stood behind it moves up by one.
    """
    if len(figures) < 2:
        return {}
    ordered = sorted(figures, key=figures.__getitem__)
    values, middle = [figures[node] for node in ordered], (len(ordered) - 1) // 2
    medians = {}
    for place, node in enumerate(ordered):
        upper = values[middle if middle < place else middle + 1]
        lower = values[middle - 1 if middle - 1 < place else middle]
        medians[node] = upper if len(ordered) % 2 == 0 else (lower + upper) / 2
    return {node: medians[node] for node in figures}


def _slow(what: str, figures: Mapping[str, list[float]], unit: str, limit: float) -> list[NodeFinding]:
    """Compare the slowest GPU of each node with the median of the other nodes' slowest."""
    slowest = {node: min(values) for node, values in figures.items() if values}
    medians, found = medians_of_others(slowest), []
    for node, middle in medians.items():
        value = slowest[node]
        times = middle / value if value > 0 else float("inf")
        if times > limit:
            gpu = f" (GPU {figures[node].index(value)})" if len(figures[node]) > 1 else ""
            text = f"{what} {times:.2f}x slower: {value:.3g} {unit}{gpu}, median of the others {middle:.3g}"
            found.append(
                NodeFinding(
                    node=node, kind="slow", what=what, text=text, value=value, median=middle, times_slower=times
                )
            )  # fmt: skip
    return found


def _slow_writes(seconds: Mapping[str, float], limit: float) -> list[NodeFinding]:
    medians, found = medians_of_others(seconds), []
    for node, middle in medians.items():
        value = seconds[node]
        times = value / middle if middle > 0 else float("inf")
        if times > limit and value > QUICK_WRITE_S:
            text = f"write {times:.1f}x slower: {value:.2f} s, median of the others {middle:.2f}"
            found.append(
                NodeFinding(
                    node=node, kind="slow", what="write", text=text, value=value, median=middle, times_slower=times
                )
            )  # fmt: skip
    return found


def slowdowns(node_reports: Sequence[NodeReport]) -> dict[str, float]:
    """Return how many times as slow as the median of the others each node is, in the worst of what was measured of all of them."""
    worst: dict[str, float] = {}
    for figures in (
        {r.node: r.gemm_tflops for r in node_reports},
        {r.node: r.copy_gb_per_s for r in node_reports},
        {r.node: r.exchange_gb_per_s for r in node_reports},
    ):
        slowest = {node: min(values) for node, values in figures.items() if values}
        for node, middle in medians_of_others(slowest).items():
            if slowest[node] > 0:
                worst[node] = max(worst.get(node, 0.0), middle / slowest[node])
    return worst
