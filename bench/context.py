"""Long rows on two ranks, by context and by tensor parallelism, beside one rank: `make bench-context`.

    python -m bench.context [--rounds N] [--steps N] [--lengths N,N] [--only NAMES]

Every layout trains the same batches, and a loss that differs from that of one rank ends the command with code 1. CPU seconds of all
ranks together are what counts: two cores do not show what more would gain. Bytes are the kernel's own count of what went through
the ranks' connections.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.compare import append_result, table
from bench.context_rank import Case, measure
from bench.layouts import LOSS_BOUND, Ranks, spread, total
from bench.step.task import Shape
from fanal.errors import UserError
from pretrain.parallel.local import run_local_ranks
from pretrain.parallel.sequence_chunks import chunks_of

RESULTS = Path(__file__).parent / "results" / "context.md"
ONE = "one"
LAYOUTS: dict[str, tuple[str, int, Mapping[str, Any]]] = {
    ONE: ("one rank", 1, {}),
    "cp2": ("CP 2", 2, {"context_parallel_size": 2}),
    "tp2": ("TP 2, sequence parallel", 2, {"tensor_model_parallel_size": 2, "sequence_parallel": True}),
    "cp4": ("CP 4", 4, {"context_parallel_size": 4}),
}
"""Name in a table, ranks, keys of the section parallel."""
DEFAULT_LAYOUTS = (ONE, "cp2", "tp2")
LENGTHS = (4_096, 16_384)
TOKENS = 16_384
"""Of a step, whatever the length of its rows."""


def main(arguments: Sequence[str]) -> int:
    try:
        given = parse(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    sections = []
    for length in given.lengths:
        found: dict[str, list[Ranks]] = {name: [] for name in given.only}
        for number in range(given.rounds):
            for name in given.only if number % 2 == 0 else reversed(given.only):
                ranks = run(name, length, given.steps)
                if ranks is None:
                    return 1
                found[name].append(ranks)
        wrong = wrong_losses(found)
        if wrong:
            print("\n".join(wrong), file=sys.stderr)
            return 1
        sections.append(f"Rows of {length:,} tokens:\n\n{report(found, shape_of(length), length)}")
    title = f"Context parallelism, {given.rounds} round{'s' * (given.rounds > 1)} of {given.steps} steps of {TOKENS:,} tokens"
    append_result(given.results, title, "\n\n".join(sections))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises: UserError."""
    parser = argparse.ArgumentParser(prog="python -m bench.context", description="Long rows on two ranks beside one.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--lengths", type=lambda text: [int(one) for one in text.split(",")], default=list(LENGTHS))
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(DEFAULT_LAYOUTS), metavar="NAMES")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    for name in ("rounds", "steps"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} ({getattr(given, name)}) must be at least 1; --{name} 1 works")
    for length in given.lengths:
        if length < 8 or length % 8 or TOKENS % length:
            raise UserError(f"--lengths ({length}) must divide {TOKENS} and be a multiple of 8; --lengths 4096 works")
    unknown = [name for name in given.only if name not in LAYOUTS]
    if unknown:
        raise UserError(f"--only ({','.join(unknown)}) must name layouts: --only {','.join(LAYOUTS)} works")
    given.only = [name for name in LAYOUTS if name in given.only or name == ONE]
    return given


def shape_of(length: int) -> Shape:
    """Return a small model, of which attention is most of the work in long rows."""
    return Shape(
        num_layers=2, hidden_size=192, num_heads=6, num_groups=2, ffn_hidden_size=512, vocab_size=2048,
        seq_length=length, batch_size=1,
    )  # fmt: skip


def run(name: str, length: int, steps: int) -> Ranks | None:
    """Run one layout once. Returns: what each rank found, or None after it has said which rank failed."""
    title, num_ranks, parallel = LAYOUTS[name]
    case = Case(num_ranks=num_ranks, parallel=parallel, shape=shape_of(length), samples=TOKENS // length, steps=steps)
    with tempfile.TemporaryDirectory(prefix="fanal-context-") as folder:
        code, failure = run_local_ranks(
            measure, case, Path(folder), num_ranks=num_ranks, device_type="cpu", log_dir=Path(folder)
        )
        if code:
            print(f"{title}: {failure.text if failure else f'ended with code {code}'}", file=sys.stderr)
            return None
        ranks = [json.loads((Path(folder) / f"rank-{rank}.json").read_text()) for rank in range(num_ranks)]
    print(f"{length:,} tokens, {title}: {TOKENS / total(ranks, 'cpu_s'):,.0f} tokens per CPU second, loss {ranks[-1]['loss']:.6f}",
          flush=True)  # fmt: skip
    return ranks


def wrong_losses(found: Mapping[str, list[Ranks]]) -> list[str]:
    """Return a line for each run whose loss is not that of one rank."""
    reference = found[ONE][0][0]["loss"]
    return [f"{name}: loss {ranks[-1]['loss']}, one rank {reference}"
            for name, rounds in found.items() for ranks in rounds
            if not abs(ranks[-1]["loss"] / reference - 1) <= LOSS_BOUND]  # fmt: skip


def report(found: Mapping[str, list[Ranks]], shape: Shape, length: int) -> str:
    """Return the table of speeds, and of bytes a rank."""
    rows = []
    for name, rounds in found.items():
        title, num_ranks, parallel = LAYOUTS[name]
        rate = [TOKENS / total(ranks, "cpu_s") for ranks in rounds]
        one = [TOKENS / total(ranks, "cpu_s") for ranks in found[ONE]]
        exchanged = total(rounds[0], "exchanged_bytes") / num_ranks
        least = least_bytes(shape, parallel.get("context_parallel_size", 1)) * (TOKENS // length)
        rows.append(
            [title, spread(rate, ",.0f"), spread([own / other for own, other in zip(rate, one, strict=True)], ".2f"),
             spread([max(rank["wall_s"] for rank in ranks) for ranks in rounds], ".2f"),
             megabytes(statistics.median(total(ranks, "bytes_sent") / num_ranks for ranks in rounds)),
             megabytes(exchanged), megabytes(least), f"{exchanged / least:.2f}" if least else "-"]
        )  # fmt: skip
    header = [
        "layout",
        "tokens per CPU second",
        "against one rank",
        "seconds a step",
        "MB a rank sends a step, by the kernel",
        "of it keys, values and their gradients, by message",
        "least of these",
        "ratio",
    ]
    return table(header, rows)


def least_bytes(shape: Shape, num_ranks: int) -> float:
    """Return what a rank receives at least, on average, so that every query meets its keys: of keys and values all chunks before
    its last one that are not its own, and in the backward what others found for its own. fp32, of one row.
    """
    of_chunk = 2 * shape.seq_length / (2 * num_ranks) * shape.num_groups * shape.head_size * 4  # keys and values
    needed = sum(chunks_of(rank, num_ranks)[1] + 1 - 2 for rank in range(num_ranks)) if num_ranks > 1 else 0
    return 2 * needed * of_chunk * shape.num_layers / num_ranks


def megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.1f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
