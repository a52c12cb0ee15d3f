"""Layouts of several local ranks beside one process, on the demo's model: `make bench-layouts`.

    python -m bench.layouts [--rounds N] [--steps N] [--only NAMES]

Ranks are started as a run starts them. CPU seconds of all ranks together are what counts: two cores do not show what more
cores would gain. Every layout trains the same batches; a loss that differs from that of one process ends the command with code 1.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.compare import append_result, table
from bench.layouts_rank import NAMED, Layout, measure
from fanal.errors import UserError
from pretrain.parallel.local import run_local_ranks

RESULTS = Path(__file__).parent / "results" / "layouts.md"
TENSOR: dict[str, Any] = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
PIPELINE: dict[str, Any] = {"pipeline_model_parallel_size": 2}
ONE = "one-thread"
LAYOUTS: dict[str, tuple[str, int, Mapping[str, Any], int | None]] = {
    ONE: ("1 process, 1 thread", 1, {}, 1),
    "two-threads": ("1 process, 2 threads", 1, {}, 2),
    "dp2": ("DP 2", 2, {}, None),
    "pp2": ("PP 2", 2, PIPELINE, None),
    "tp2": ("TP 2, sequence parallel", 2, TENSOR, None),
    "tp2-pp2": ("TP 2, sequence parallel, PP 2 (the demo)", 4, {**TENSOR, **PIPELINE}, None),
}
"""Name in a table, ranks, keys of the section parallel, threads of torch."""
LOSS_BOUND = 1e-4
"""Largest relative difference of the last step's loss; fp32, and sums in another order."""
Ranks = list[dict[str, Any]]


def main(arguments: Sequence[str]) -> int:
    try:
        given = parse(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    found: dict[str, list[Ranks]] = {name: [] for name in given.only}
    for _ in range(given.rounds):
        for name in given.only:
            title, num_ranks, parallel, threads = LAYOUTS[name]
            layout = Layout(name=title, num_ranks=num_ranks, parallel=parallel, threads=threads, steps=given.steps)
            ranks = run(layout)
            if ranks is None:
                return 1
            found[name].append(ranks)
    reference = found[ONE][0][0]["loss"]
    wrong = [f"{name}: loss {ranks[-1]['loss']}, one process {reference}"
             for name, rounds in found.items() for ranks in rounds
             if not abs(ranks[-1]["loss"] / reference - 1) <= LOSS_BOUND]  # fmt: skip
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    variables = ", ".join(f"{name}={value}" for name, value in os.environ.items() if name.startswith(("OMP_", "GOMP_")))
    title = f"Layouts, {given.rounds} round{'s' * (given.rounds > 1)} of {given.steps} steps"
    title += f", {variables}" if variables else ""
    append_result(given.results, title, f"{speeds(found)}\n\n{threads_table(found)}")
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises: UserError."""
    parser = argparse.ArgumentParser(prog="python -m bench.layouts", description="Local layouts beside one process.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(LAYOUTS), metavar="NAMES")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    for name in ("rounds", "steps"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} ({getattr(given, name)}) must be at least 1; --{name} 1 works")
    unknown = [name for name in given.only if name not in LAYOUTS]
    if unknown:
        raise UserError(f"--only ({','.join(unknown)}) must name layouts: --only {','.join(LAYOUTS)} works")
    given.only = [name for name in LAYOUTS if name in given.only or name == ONE]
    return given


def run(layout: Layout) -> Ranks | None:
    """Run one layout once. Returns: what each rank found, or None after it has said which rank failed."""
    with tempfile.TemporaryDirectory(prefix="fanal-layouts-") as folder:
        code, failure = run_local_ranks(
            measure, layout, Path(folder), num_ranks=layout.num_ranks, device_type="cpu", log_dir=Path(folder)
        )
        if code:
            print(f"{layout.name}: {failure.text if failure else f'ended with code {code}'}", file=sys.stderr)
            return None
        ranks = [json.loads((Path(folder) / f"rank-{rank}.json").read_text()) for rank in range(layout.num_ranks)]
    speed = ranks[0]["tokens"] / total(ranks, "cpu_s")
    print(f"{layout.name}: {speed:,.0f} tokens per CPU second, loss {ranks[-1]['loss']:.6f}", flush=True)
    return ranks


def speeds(found: Mapping[str, list[Ranks]]) -> str:
    """Return the table of what each layout gets out of a CPU second, and where the rest goes."""
    rows = []
    for name, rounds in found.items():
        rate = [ranks[0]["tokens"] / total(ranks, "cpu_s") for ranks in rounds]
        one = [ranks[0]["tokens"] / total(ranks, "cpu_s") for ranks in found[ONE]]
        ratios = [own / other for own, other in zip(rate, one, strict=True)]
        in_calls = [total(ranks, "collective_wall_s") / total(ranks, "wall_s") for ranks in rounds]
        calls_cpu = [total(ranks, "collective_cpu_s") / total(ranks, "cpu_s") for ranks in rounds]
        gloo = [
            sum(rank["thread_cpu_s"].get(kind, 0.0) for rank in ranks for kind in NAMED.values())
            / total(ranks, "cpu_s")
            for ranks in rounds
        ]
        rows.append(
            [LAYOUTS[name][0], spread(rate, ",.0f"), spread(ratios, ".2f"), f"{rounds[0][0]['collectives']:.0f}",
             f"{statistics.median(in_calls):.0%}", f"{statistics.median(calls_cpu):.0%}", f"{statistics.median(gloo):.0%}",
             spread([max(rank["world_s"] for rank in ranks) for ranks in rounds], ".2f")]
        )  # fmt: skip
    header = [
        "layout",
        "tokens per CPU second",
        "against 1 process, 1 thread",
        "calls per step and rank",
        "main threads' time in calls",
        "CPU time in calls",
        "CPU time of gloo's threads",
        "until groups are there, s",
    ]
    return table(header, rows)


def threads_table(found: Mapping[str, list[Ranks]]) -> str:
    """Return the table of the threads of a rank, and of how often they changed places."""
    rows = []
    for name, rounds in found.items():
        last = rounds[0][-1]
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(last["threads"]).most_common())
        switches = [
            f"{statistics.median(total(ranks, what) / len(ranks) for ranks in rounds):,.0f}"
            for what in ("voluntary", "forced")
        ]
        rows.append([LAYOUTS[name][0], f"{sum(last['threads'].values())}", kinds, *switches])
    header = ["layout", "threads of the last rank", "what they are", "voluntary switches per step and rank", "forced"]
    return table(header, rows)


def total(ranks: Ranks, what: str) -> float:
    return sum(rank[what] for rank in ranks)


def spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}} to {max(values):{form}}]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
