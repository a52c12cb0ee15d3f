"""The time of ``fanal trace`` for a step of 1,024 samples over 200 sources, and for a document of one that is read many times.

    python -m bench.trace [--folder DIR] [--cpu-time]

The run has the file of its start; its shards are of random ids in documents of 60 tokens on average, with seven columns.
Results are added to bench/results/trace.md.
"""

import argparse
import contextlib
import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow

from bench.compare import append_result, interleaved, table
from bench.data_corpus import make_run, make_shard
from fanal.files import BlockHasher
from fanal.records import record_bytes
from pretrain.config.schema import RunConfig
from pretrain.data.sources import open_sources
from pretrain.history.data import open_history_data
from pretrain.history.history import history_of
from pretrain.log.start_file import Code, StartFile, write_start_file
from pretrain.trace.answer import Question, answer
from pretrain.trace.step import Wanted, trace_step
from pretrain.train.begin_start import training_sources
from tokenizer.shards.columns_writer import ColumnsWriter
from tokenizer.shards.index import write_index
from tokenizer.shards.manifest import DTYPES, documents_path, read_manifest, shard_paths, with_own_hash

RESULTS = Path(__file__).parent / "results" / "trace.md"
ROOT = Path(__file__).parents[1]
NUM_SOURCES, SOURCE_TOKENS, DOCUMENT_TOKENS = 200, 2_000_000, 60
SEQ_LENGTH, BATCH, STEP = 512, 1024, 137
CPU_TIME = "CPU time of all threads, on a machine with other work"
OTHERS = ("id", "host", "licence", "language", "date")


def make_source(folder: Path, model: Path, number: int) -> Path:
    """A shard of random ids with columns, without the writer, which takes documents one by one."""
    prefix = folder / f"source-{number:03d}"
    if Path(f"{prefix}.json").is_file():
        return prefix
    manifest, random = read_manifest(model), np.random.default_rng(number)
    lengths = random.integers(1, 2 * DOCUMENT_TOKENS, SOURCE_TOKENS // DOCUMENT_TOKENS).astype("<i4")
    tokens = random.integers(10, 500, int(lengths.sum())).astype(DTYPES[manifest.dtype])
    bin_path, idx_path, json_path = shard_paths(prefix)
    bin_path.write_bytes(tokens.tobytes())
    (folder / "lengths").write_bytes(lengths.tobytes())
    hasher = BlockHasher()
    hasher.update(tokens.tobytes())
    idx_sha256 = write_index(idx_path, folder / "lengths", manifest.dtype)
    columns = _columns(prefix, len(lengths), random)
    own = dataclasses.replace(
        manifest, num_tokens=len(tokens), num_documents=len(lengths), bin_block_sha256=hasher.hexdigests(),
        idx_sha256=idx_sha256, domain=f"domain-{number}", input_files=(), num_skipped=0,
        highest_token_id=int(tokens.max()), documents_sha256=columns[0], documents_columns=columns[1],
    )  # fmt: skip
    json_path.write_bytes(record_bytes(with_own_hash(own)))
    return prefix


def _columns(prefix: Path, count: int, random: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    documents_path(prefix).unlink(missing_ok=True)
    writer = ColumnsWriter(documents_path(prefix), OTHERS)
    rows = {
        "file": [f"{prefix.name}-{number * 20 // count:02d}.jsonl.zst" for number in range(count)],
        "position": list(range(1, count + 1)),
        "id": [f"{word:016x}" for word in random.integers(0, 2**63, count).tolist()],
        "host": [f"site-{site}.example.org" for site in (random.pareto(1.0, count) * 10).astype(int).tolist()],
        "licence": ["CC-BY-4.0"] * count,
        "language": ["en"] * count,
        "date": [f"20{year:02d}-05-17" for year in random.integers(0, 26, count).tolist()],
    }
    writer.add(pyarrow.table(rows))
    written = writer.finish(count, None)
    writer.close()
    return written.sha256, written.names


def begin(run: RunConfig) -> None:
    """The file of the first start of a run."""
    sources = open_sources(run)
    Path(run.run_dir).mkdir(exist_ok=True)
    start = StartFile(
        number=1, time_unix_s=time.time(), startup_s=1.0, step=0, consumed_samples=0, decay_start_sample=None,
        config=dataclasses.asdict(run), code=Code(version="0", commit=None, modified=None), versions={}, hosts=("here",),
        num_ranks=1, devices={"cpu": 1}, device_type="cpu", user="bench", job=None,
        sources=training_sources(sources), validation_sources=(), origin=None, changes=(),
    )  # fmt: skip
    write_start_file(run.run_dir, start)


def command(*words: str) -> Callable[[], None]:
    """``fanal trace`` in a process of its own."""

    def run() -> None:
        subprocess.run(
            [sys.executable, "-m", "fanal", "trace", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    return run


def cpu_time() -> float:
    """CPU time of this process and of those it has waited for, in seconds: for a machine with other work."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def bench(folder: Path, *, clock: Callable[[], float], clock_name: str) -> None:
    model = make_shard(folder, "model", num_tokens=1000, document_tokens=60, seed=1)
    prefixes = [make_source(folder, model, number) for number in range(NUM_SOURCES)]
    run = make_run(folder, prefixes, seq_length=SEQ_LENGTH, batch=BATCH, micro_batch=8, prefetch_bytes=0)
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, train_steps=100_000))
    begin(run)
    history = history_of(run.run_dir)
    data = open_history_data(history)
    found = trace_step(history, data, Wanted(step=STEP))
    parts = sum(len(sample.parts) for sample in found.samples)
    sources = len({sample.source for sample in found.samples})
    document = f"{prefixes[0]}:{found.samples[0].parts[0].document}"
    step = ("--step", str(STEP))
    contenders: dict[str, Callable[[], object]] = {
        "history": lambda: history_of(run.run_dir),
        "shards opened and compared": lambda: open_history_data(history),
        "samples and documents, with columns": lambda: trace_step(history, data, Wanted(step=STEP)),
        "whole answer, lines": lambda: answer(Question(run_dir=run.run_dir, step=STEP)),
        "whole answer, JSON": lambda: answer(Question(run_dir=run.run_dir, step=STEP, as_json=True)),
        "`fanal trace --step --json`, a process": command(run.run_dir, *step, "--json"),
        "a document, whole answer": lambda: answer(Question(run_dir=run.run_dir, document=document, as_json=True)),
        "`fanal trace --help`, a process": command("--help"),
    }
    timings = interleaved(contenders, rounds=5, clock=clock)
    rows = [
        (name, f"{timing.median_s:.3f}", f"{timing.range_s[0]:.3f} to {timing.range_s[1]:.3f}")
        for name, timing in timings.items()
    ]
    docs = sum(read_manifest(prefix, with_inputs=False).num_documents for prefix in prefixes)
    append_result(
        RESULTS,
        f"A step of {BATCH:,} samples over {sources} of {NUM_SOURCES} sources",
        f"{docs:,} documents in all, {parts:,} parts of documents in the step, samples of {SEQ_LENGTH} tokens; {clock_name}, "
        f"median and range of 5 rounds.\n\n{table(('what', 's', 'range'), rows)}",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="folder for the shards, kept; else a temporary one")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time, on a machine with other work")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        clock = cpu_time if options.cpu_time else time.perf_counter
        bench(folder, clock=clock, clock_name=CPU_TIME if options.cpu_time else "wall clock")


if __name__ == "__main__":
    main()
