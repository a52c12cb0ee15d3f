"""What grows with the nodes of a job, eight ranks on each."""

import contextlib
import dataclasses
import io
import json
from pathlib import Path

from bench.growth.case import Act, Growth
from fanal.exit_codes import FINISHED, STOPPED
from launch.chain.decide import Facts, decide, run_exit_code
from launch.chain.rank_codes import rank_exit_codes
from launch.chain.rank_logs import asked_by
from launch.chain.request import Places, Request, plan_job
from launch.chain.script import EXIT_CODES, script
from launch.preflight.nodes import read_reports, show, write_result
from launch.preflight.outliers import MARK, NodeReport, judge
from launch.sites.schema import NodeCheckConfig
from launch.sites.site import load_site
from pretrain.config.load import load_run

ROOT = Path(__file__).parents[2]
RANKS_PER_NODE = 8
SIZES = (1, 16, 128, 1_024)
PLACES = Places(workdir=Path("/project"), code_dir=Path("/project"), python=Path("/project/python"))


def render_script(size: int, folder: Path) -> Act:
    """The script of a job of that many nodes, which is kept off as many others."""
    run = load_run(ROOT / "configs/1b.yaml", [f"train.global_batch_size={RANKS_PER_NODE * max(SIZES) * 2}"])
    request = Request(nodes=size, hours=10.0, exclude=tuple(f"n{size + number:05d}" for number in range(size)))
    return lambda: script(plan_job(run, "generic", load_site("generic"), request, PLACES), {})


def end_job(size: int, folder: Path) -> Act:
    """The decision after a job whose ranks have all left their exit code, and were not asked to stop by anyone known."""
    (folder / EXIT_CODES).mkdir()
    for rank in range(size * RANKS_PER_NODE):
        (folder / EXIT_CODES / f"rank-{rank:05d}").write_text(f"{STOPPED if rank % 2 else FINISHED}\n")
        log = folder / "logs" / f"n{rank // RANKS_PER_NODE:05d}" / "attempt" / str(rank % RANKS_PER_NODE)
        log.mkdir(parents=True)
        (log / "stdout.log").write_text("step 1\n" * 20)

    def act() -> dict[str, int]:
        codes = rank_exit_codes(folder)
        facts = Facts(exit_code=run_exit_code(codes, size * RANKS_PER_NODE), asked_by=asked_by(folder))
        decide(facts, max_restarts_without_checkpoint=3)
        return {"ranks": len(codes)}

    return act


def check_nodes(size: int, folder: Path) -> Act:
    """The findings of a preflight, of which every tenth node has one, from what the nodes print to the table and the file."""
    names = tuple(f"n{number:05d}" for number in range(size))
    reports = [
        NodeReport(
            node=name, stage="done", gpu_memory_gib=[79.1] * 8, gemm_tflops=[700.0 + number % 7] * 8,
            copy_gb_per_s=[2500.0 if number % 10 else 900.0] * 8, exchange_gb_per_s=[40.0] * 8, all_reduce_gb_per_s=[300.0] * 8,
            write_s=0.2, clock_s=1000.0,
        )
        for number, name in enumerate(names)
    ]  # fmt: skip
    printed = "\n".join(f"{MARK}{json.dumps(dataclasses.asdict(report))}" for report in reports)

    def act() -> dict[str, int]:
        found = read_reports(printed)
        verdict = judge(found, names, NodeCheckConfig(), gpus=8, memory_gib=80)
        with contextlib.redirect_stdout(io.StringIO()):
            show(list(found.values()), verdict)
        write_result(folder / "preflight.json", list(found.values()), verdict, [])
        return {"findings": len(verdict.findings)}

    return act


CASES = (
    Growth(name="render a job's script", grows_with="nodes", sizes=SIZES, prepare=render_script),
    Growth(name="end a job", grows_with="nodes", sizes=SIZES, prepare=end_job),
    Growth(name="check nodes", grows_with="nodes", sizes=SIZES, prepare=check_nodes),
)
