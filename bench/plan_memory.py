"""The peak that `fanal plan` computes, the one that a rehearsal counts, and that of real ranks on a CPU: `make bench-plan`.

The plan counts copies that oneDNN makes in fp32, which no rehearsal sees: the two differ by them. Twelve layouts of at most four
ranks. tests/unit/plan/test_memory_arithmetic.py compares plan and rehearsal for layouts of GPUs.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.compare import append_result, table
from bench.rehearsed_ranks import ALONE, CONTEXT, MODEL, PIPELINE, TENSOR, TINY
from pretrain.config.derive import world_size
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.plan.memory import stage_memory
from pretrain.plan.shapes import shapes_of
from pretrain.rehearse.rehearse import in_processes
from tests.dist.measured_ranks import measured

RESULTS = Path(__file__).parent / "results" / "plan_memory.md"
TWO = ("train.global_batch_size=8",)
LAYOUTS: dict[str, tuple[str, ...]] = {
    "one rank": ALONE,
    "one rank, bf16": (*ALONE, "train.precision=bf16"),
    "tensor 2 + SP": TENSOR,
    "pipeline 2": (*PIPELINE, *TWO),
    "pipeline 2 x 2 virtual stages": (*PIPELINE, *TWO, "parallel.virtual_pipeline_model_parallel_size=2"),
    "tensor 2 + SP x pipeline 2": ("model.num_layers=28", *TWO),
    "context 2": (*ALONE, *CONTEXT),
    "data 2": (*ALONE, *TWO, "parallel.data_parallel_size=2"),
    "all recomputed": (*ALONE, "train.recompute=full", "data.seq_length=512"),
    "parts recomputed": (
        *ALONE, "train.recompute=selective", "train.recompute_modules=[core_attn,layernorm,activation]",
    ),
    "tied embeddings, pipeline 2": (*PIPELINE, *TWO, "model.share_embeddings_and_output_weights=true"),
    "documents, tensor 2 + SP": (*TENSOR, "data.document_mask=true"),
}  # fmt: skip
"""Layouts of at most four ranks, as overrides of configs/tiny.yaml."""


def planned(run: RunConfig) -> list[int]:
    """Return the bytes at the peak of every rank, as the plan computes them."""
    shapes = shapes_of(run, world_size(run.parallel))
    per_stage = world_size(run.parallel) // shapes.pipeline
    peaks = [sum(stage_memory(run, shapes, stage).values()) for stage in range(shapes.pipeline)]
    return [peak for peak in peaks for _ in range(per_stage)]


def compared(folder: Path, name: str) -> list[tuple[int, int, int]]:
    """Return what is planned, rehearsed and taken, in bytes, of each rank of a layout."""
    overrides = (*MODEL, *LAYOUTS[name])
    run = load_run(TINY, overrides)
    num_ranks = world_size(run.parallel)
    counted = [one.peak_bytes for one in in_processes(run, ranks=range(num_ranks), num_ranks=num_ranks)]
    return list(zip(planned(run), counted, measured(folder, TINY, *overrides), strict=True))


def main(words: Sequence[str]) -> int:
    """Compare all layouts, or those with a word in their names, and append to bench/results/plan_memory.md."""
    rows, of_taken, of_counted = [], [], []
    for name in [name for name in LAYOUTS if not words or any(word in name for word in words)]:
        with tempfile.TemporaryDirectory(prefix="fanal-plan-") as folder:
            ranks = compared(Path(folder), name)
        errors = [plan / taken - 1 for plan, _, taken in ranks]
        of_rehearsal = [plan / counted - 1 for plan, counted, _ in ranks]
        of_taken += [max(errors, key=abs)]
        of_counted += [max(of_rehearsal, key=abs)]
        peaks = (max(rank[which] for rank in ranks) / 2**20 for which in range(3))
        rows.append(
            (
                name,
                f"{len(ranks)}",
                *(f"{peak:,.0f}" for peak in peaks),
                f"{of_counted[-1]:+.1%}",
                f"{of_taken[-1]:+.1%}",
            )
        )
        print(*rows[-1], sep=" | ", flush=True)
    header = ("layout", "ranks", "planned, MiB", "rehearsed", "taken", "plan to rehearsal", "plan to taken")
    worst, median = (f(map(abs, of_taken)) for f in (max, statistics.median))
    summary = f"\n\nWorst error of a rank against what it takes {worst:.1%}, median of the layouts {median:.1%}."
    append_result(RESULTS, "Planned, rehearsed and real peaks on a CPU", table(header, rows) + summary)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
