"""Memory at the peak of Lucie-7B with rows of 32,000 and of 131,072 tokens, for context-parallel sizes 1 to 8.

Counted by rehearsals (docs/rehearse.md), on 128 ranks in tensor 4 x pipeline 4, the layout of configs/lucie-7b/extension.yaml:
``python -m bench.long_sequences`` writes bench/results/long_sequences.md, in some minutes on one core. No GPU has confirmed it.
"""

import datetime
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.recipes import GIB, LARGEST, first_and_last, for_its_peak
from pretrain.config.derive import world_size
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.rehearse.record import Rehearsal

EXTENSION = Path(__file__).parents[1] / "configs" / "lucie-7b" / "extension.yaml"
RESULTS = Path(__file__).parent / "results" / "long_sequences.md"
RANKS = 128
CONTEXT_SIZES = (1, 2, 4, 8)
PUBLISHED = ("parallel.sequence_parallel=false", "parallel.use_distributed_optimizer=false", "train.recompute=full")
SPLIT = (
    "parallel.sequence_parallel=true", "parallel.use_distributed_optimizer=true", "parallel.overlap_grad_reduce=true",
    "parallel.overlap_param_gather=true", "train.micro_batch_size=1",
)  # fmt: skip
"""Norms and residuals split among tensor-parallel ranks, and the optimizer among the replicas and context-parallel ranks."""
SHORT = ("data.seq_length=32000", "train.global_batch_size=128")
LONG = ("data.seq_length=131072", "train.global_batch_size=32")
CHUNKS = "train.loss_chunk_tokens=4096"
WHOLE = "train.loss_chunk_tokens=0"
COLUMNS = {
    "states": ("weights", "gradients of the weights", "optimizer: masters and moments"),
    "residuals": ("activations: residuals", "activations: norms", "activations: embedding"),
    "attention": ("activations: attention",),
    "keys, values": ("activations: gathered keys and values",),
    "feed-forward": ("activations: feed-forward",),
    "logits, loss": ("logits and loss",),
}
"""What a peak is made of, by the kinds of a rehearsal; what no column has is in the last one."""


@dataclass(frozen=True)
class Family:
    """Layouts that differ by their context-parallel size alone."""

    title: str
    overrides: tuple[str, ...]
    stage: Literal["first", "last"] = "first"
    """The pipeline stage with the highest peak: the first keeps activations of four micro batches, the last has the loss."""


FAMILIES = (
    Family(
        "32,000 tokens, micro batch 4, full recomputation, as published",
        (*SHORT, *PUBLISHED, "train.micro_batch_size=4", CHUNKS),
    ),
    Family("32,000 tokens, micro batch 1, no recomputation", (*SHORT, *SPLIT, "train.recompute=none", CHUNKS)),
    Family("131,072 tokens, micro batch 1, full recomputation", (*LONG, *SPLIT, "train.recompute=full", CHUNKS)),
    Family("131,072 tokens, micro batch 1, no recomputation", (*LONG, *SPLIT, "train.recompute=none", CHUNKS)),
    Family("131,072 tokens, micro batch 1, attention recomputed", (*LONG, *SPLIT, "train.recompute=selective", CHUNKS)),
    Family(
        "131,072 tokens, micro batch 1, full recomputation, the loss of a row at once; the last stage",
        (*LONG, *SPLIT, "train.recompute=full", WHOLE),
        "last",
    ),
)


def layouts(family: Family) -> Iterator[tuple[int, RunConfig]]:
    """Yield the runs of a family, each with its context-parallel size: 128 ranks in all of them."""
    for size in CONTEXT_SIZES:
        ranks = (f"parallel.context_parallel_size={size}", f"parallel.data_parallel_size={RANKS // 16 // size}")
        run = load_run(EXTENSION, [*family.overrides, *ranks])
        assert world_size(run.parallel) == RANKS
        yield size, run


def rehearsed(run: RunConfig, stage: str) -> Rehearsal:
    """Rehearse the first rank of a stage in this process, which is good for nothing else then."""
    from pretrain.rehearse.rank import rehearse_rank

    first, last = first_and_last(run)
    return rehearse_rank(
        for_its_peak(run), rank=first if stage == "first" else last, num_ranks=RANKS, device_type="gpu"
    )


def row(size: int, found: Rehearsal) -> str:
    """Return a layout's line."""
    parts = {part.kind: part.num_bytes for part in found.peak_parts}
    columns = [sum(parts.get(kind, 0) for kind in kinds) for kinds in COLUMNS.values()]
    peak = found.peak_bytes / GIB
    sizes = [*columns, found.peak_bytes - sum(columns)]
    judged = f"{LARGEST - peak:.1f} left" if peak <= LARGEST else "**does not fit**"
    return f"| {size} | {peak:.1f} | {' | '.join(f'{one / GIB:.1f}' for one in sizes)} | {judged} |"


def head() -> str:
    """Return the head of a table."""
    return (
        f"| CP | peak | {' | '.join(COLUMNS)} | the rest | of {LARGEST:.0f} |\n| --: | --: |"
        + " --: |" * (len(COLUMNS) + 1)
        + " :-- |"
    )


def main(words: Sequence[str]) -> int:
    """Rehearse all families, or those with a word in their titles, and write the results after each."""
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    sections = [f"## Memory of long sequences\n\n{today}. {__doc__}\n{NOTE}\n"]
    for family in FAMILIES:
        if words and not any(word in family.title for word in words):
            continue
        rows = [head()]
        for size, run in layouts(family):
            rows.append(row(size, rehearsed(run, family.stage)))
            print(family.title, rows[-1], flush=True)
        sections.append(f"### {family.title[0].upper()}{family.title[1:]}\n\n" + "\n".join(rows) + "\n")
        if not words:
            RESULTS.write_text("\n".join(sections))
    return 0


NOTE = """GiB on the first rank of the first pipeline stage, whose peak is the highest, but for the last table. The last column is
what is left of 80 GiB less the tenth that a rehearsal keeps for what it does not count. States are weights, their gradients,
masters and moments; residuals include what norms and the embedding give; keys and values are those gathered of whole rows. The
rest is gradients of activations, and buffers of messages. But for the first table, sequence parallelism and the distributed
optimizer are on; but for the last, the loss is taken of 4,096 tokens at a time."""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
