"""The peak that a rehearsal counts beside the one of real ranks on a CPU, under context parallelism: part of `make bench-memory`.

Both are those of tests/dist/test_rehearsed_memory.py, which has the first layouts in `make test`.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.compare import append_result, table
from pretrain.config.derive import world_size
from pretrain.config.load import load_run
from pretrain.rehearse.rehearse import in_processes
from tests.dist.measured_ranks import ROOT, measured

RESULTS = Path(__file__).parent / "results" / "memory.md"
TINY = ROOT / "configs" / "tiny.yaml"
MODEL = (
    "model.num_layers=8", "model.hidden_size=512", "model.ffn_hidden_size=1536", "model.num_attention_heads=8",
    "model.vocab_size=8000", "train.micro_batch_size=4", "train.global_batch_size=4", "data.seq_length=256",
)  # fmt: skip
"""Large enough that what libraries keep, 16 to 50 MiB a rank, is small beside it."""
ALONE = (
    "parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1", "parallel.sequence_parallel=false",
)  # fmt: skip
CONTEXT = ("parallel.context_parallel_size=2",)
DEEP = ("model.num_layers=16",)
TENSOR = (*DEEP, "parallel.pipeline_model_parallel_size=1")
PIPELINE = (*DEEP, "parallel.tensor_model_parallel_size=1", "parallel.sequence_parallel=false")
LONGER = ("data.seq_length=512",)
LAYOUTS: dict[str, tuple[str, ...]] = {
    "context 2": (*ALONE, *CONTEXT),
    "context 2 x tensor 2 + SP": (*TENSOR, *CONTEXT),
    "context 2 x pipeline 2": (*PIPELINE, *CONTEXT),
    "context 2, bf16": (*ALONE, *CONTEXT, "train.precision=bf16", *LONGER),
    "context 2, all recomputed": (*ALONE, *CONTEXT, "train.recompute=full", *LONGER),
    "context 4": (*ALONE, "parallel.context_parallel_size=4"),
}
"""Layouts of at most four ranks."""


def compared(folder: Path, name: str) -> list[tuple[int, int]]:
    """Return what a rehearsal counts at the peak of each rank of a layout, and what the rank takes: bytes."""
    overrides = (*MODEL, *LAYOUTS[name])
    run = load_run(TINY, overrides)
    num_ranks = world_size(run.parallel)
    found = measured(folder, TINY, *overrides)
    counted = [one.peak_bytes for one in in_processes(run, ranks=range(num_ranks), num_ranks=num_ranks)]
    return list(zip(counted, found, strict=True))


def errors(pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Return by how much each rank is counted too high, as a part of what it takes."""
    return [counted / taken - 1 for counted, taken in pairs]


def main(words: Sequence[str]) -> int:
    """Compare all layouts, or those with a word in their names, and append to bench/results/memory.md."""
    rows = []
    for name in [name for name in LAYOUTS if not words or any(word in name for word in words)]:
        with tempfile.TemporaryDirectory(prefix="fanal-ranks-") as folder:
            pairs = compared(Path(folder), name)
        worst = max(errors(pairs), key=abs)
        counted, taken = (max(pair[which] for pair in pairs) / 2**20 for which in (0, 1))
        rows.append((name, f"{len(pairs)}", f"{counted:,.0f}", f"{taken:,.0f}", f"{worst:+.1%}"))
        print(*rows[-1], sep=" | ", flush=True)
    header = ("layout", "ranks", "rehearsed, MiB", "taken, MiB", "worst error of a rank")
    append_result(RESULTS, "Rehearsed and real peaks under context parallelism", table(header, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
