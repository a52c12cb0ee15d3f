"""Reading and opening training data: this framework and megatron-core on the same shards.

    python -m bench.data_reads [--folder DIR] [--cpu-time] [reads|open]

reads  the same samples from both, proved equal tensor by tensor, then timed in interleaved rounds
open   a blend of 200 sources for runs of 10^5 to 10^9 samples: time to the first and to the last sample, memory, disk
Results are added to bench/results/data.md. Needs what ``bench/data_megatron.py`` says; nothing else is loaded.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.utils.data import default_collate

from bench import data_megatron as megatron
from bench.compare import append_result, interleaved, table
from bench.data_corpus import make_run, make_shard
from pretrain.config.schema import RunConfig
from pretrain.data.batch import MicroBatch, train_micro_batches
from pretrain.data.reader import TrainReader, open_reader
from pretrain.data.sources import open_sources
from pretrain.parallel.world import World
from tokenizer.shards.shard import open_shard

RESULTS = Path(__file__).parent / "results" / "data.md"
SEQ_LENGTH, NUM_SAMPLES, MICRO_BATCH = 2048, 4096, 8
SHARD_TOKENS = 50_000_000
NUM_SOURCES, SOURCE_TOKENS = 200, 100_000
OPEN_SAMPLES = tuple(10**power for power in (5, 6, 7, 8, 9))
MOST_FOR_MEGATRON = 10**8  # ten times as many need 36 GB of memory and of disk here
OPEN_LIMIT_S = 240

ALONE = World(
    rank=0, size=1, device=torch.device("cpu"), tp_rank=0, pp_rank=0, dp_rank=0,
    tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=1,
)  # fmt: skip
NO_HASH = replace(ALONE, tp_rank=1, tensor_model_parallel_size=2)  # a rank that reads the same and hashes nothing


def batches(reader: TrainReader, run: RunConfig, world: World) -> Iterator[MicroBatch]:
    """The first NUM_SAMPLES samples, as training gets them."""
    size = run.train.global_batch_size
    for consumed in range(0, NUM_SAMPLES, size):
        for batch in train_micro_batches(reader, run.train, world, consumed_samples=consumed, global_batch_size=size):
            assert isinstance(batch, MicroBatch), "the only stage reads"
            yield batch


def consume(reader: TrainReader, run: RunConfig, world: World) -> None:
    """Read all samples; the reader starts again at the first one."""
    for _ in batches(reader, run, world):
        pass
    reader.close()


def prove_equal(run: RunConfig, dataset: megatron.GPTDataset) -> None:
    """Every tensor of every sample. Raises: SystemExit naming the first that differs."""
    with open_reader(open_sources(run), run, ALONE) as reader:
        for number, batch in enumerate(batches(reader, run, ALONE)):
            for row in range(MICRO_BATCH):
                names = ("tokens", "labels", "loss_mask", "position_ids")
                ours = {name: getattr(batch, name)[row] for name in names}
                if wrong := megatron.differs(ours, dataset[number * MICRO_BATCH + row]):
                    raise SystemExit(f"sample {number * MICRO_BATCH + row}: {', '.join(wrong)} differ")


def compare_reads(folder: Path, document_tokens: int, *, cpu_time: bool) -> None:
    """One table: the same samples, from a shard with documents of this length."""
    prefix = make_shard(
        folder, f"documents-{document_tokens}", num_tokens=SHARD_TOKENS, document_tokens=document_tokens, seed=1
    )
    plain = make_run(folder, [prefix], seq_length=SEQ_LENGTH, batch=512, micro_batch=MICRO_BATCH, prefetch_bytes=0)
    ahead = replace(plain, data=replace(plain.data, prefetch_bytes=1 << 24))
    with open_reader(open_sources(plain), plain, ALONE) as reader:
        data = reader.data
    numbers = np.arange(NUM_SAMPLES)
    _, starts = data.places(numbers)
    config = megatron.gpt_config(SEQ_LENGTH, folder / "cache")
    dataset = megatron.gpt_dataset(prefix, NUM_SAMPLES, config)
    megatron.read_spans(dataset, starts, open_shard(prefix).document_offsets, SEQ_LENGTH)
    prove_equal(plain, dataset)

    def rows_only() -> None:
        out = data.new_rows(MICRO_BATCH)
        found, at = data.places(numbers)
        for first in range(0, NUM_SAMPLES, MICRO_BATCH):
            data.read_places(found[first : first + MICRO_BATCH], at[first : first + MICRO_BATCH], out)

    def megatron_samples() -> None:
        for number in range(NUM_SAMPLES):
            dataset[number]

    def megatron_batches() -> None:
        for first in range(0, NUM_SAMPLES, MICRO_BATCH):
            default_collate([dataset[number] for number in range(first, first + MICRO_BATCH)])

    sources = open_sources(plain)
    with (
        open_reader(sources, plain, NO_HASH) as unhashed,
        open_reader(sources, plain, ALONE) as hashed,
        open_reader(sources, ahead, ALONE) as threaded,
    ):
        timings = interleaved(
            {
                "GPTDataset, samples": megatron_samples,
                f"GPTDataset, collated to batches of {MICRO_BATCH}": megatron_batches,
                "ours, samples placed, read and checked": rows_only,
                f"ours, batches of {MICRO_BATCH}": lambda: consume(unhashed, plain, NO_HASH),
                f"ours, batches of {MICRO_BATCH}, hashed": lambda: consume(hashed, plain, ALONE),
                f"ours, batches of {MICRO_BATCH}, hashed, read ahead": lambda: consume(threaded, ahead, ALONE),
            },
            clock=time.process_time if cpu_time else time.perf_counter,
        )
    samples, collated = list(timings)[:2]
    rows = []
    for name, timing in timings.items():
        per_sample = [1e6 * seconds / NUM_SAMPLES for seconds in (timing.median_s, *timing.range_s)]
        speed = f"{SEQ_LENGTH / per_sample[0]:,.0f}"
        ratios = (f"{timings[other].median_s / timing.median_s:.1f}" for other in (samples, collated))
        rows.append([name, f"{per_sample[0]:.2f}", f"{per_sample[1]:.2f} to {per_sample[2]:.2f}", speed, *ratios])
    header = ["", "us per sample, median", "range of 5", "Mtok/s", "x GPTDataset", "x collated"]
    text = (
        f"{NUM_SAMPLES} samples of {SEQ_LENGTH} + 1 tokens in random order from a shard of {SHARD_TOKENS:,} tokens in the page "
        f"cache, {torch.get_num_threads()} thread of torch. Both sides gave the same tokens, labels, loss_mask and "
        "position_ids for every sample; both are open and mapped before the clock starts. Nothing else runs beside the thread "
        "that reads ahead: in training it hides the hashing behind the step."
        f"{' CPU time, of both threads where one reads ahead: the machine had other work.' if cpu_time else ''}\n\n"
    )
    append_result(RESULTS, f"Reading samples, documents of {document_tokens:,} tokens", text + table(header, rows))


def open_ours(folder: Path, prefixes: list[Path], num_samples: int) -> dict[str, float]:
    """Open a blend, read its first micro batch and one at the end of the run."""
    run = make_run(folder, prefixes, seq_length=SEQ_LENGTH, batch=512, micro_batch=MICRO_BATCH, prefetch_bytes=0)
    memory, started = psutil.Process().memory_info().rss, time.perf_counter()
    with open_reader(open_sources(run), run, ALONE) as reader:
        next(train_micro_batches(reader, run.train, ALONE, consumed_samples=0, global_batch_size=512))
        first_s = time.perf_counter() - started
        last = num_samples - num_samples % 512
        next(train_micro_batches(reader, run.train, ALONE, consumed_samples=last, global_batch_size=512))
        last_s = time.perf_counter() - started
        return {"first_s": first_s, "last_s": last_s, "memory": psutil.Process().memory_info().rss - memory, "disk": 0}


def open_megatron(folder: Path, prefixes: list[Path], num_samples: int) -> dict[str, float]:
    """The same with BlendedDataset: build the indices, read the first and the last sample."""
    megatron.prepare()
    cache = folder / "blend-cache"
    shutil.rmtree(cache, ignore_errors=True)
    weights = [float(1 + number % 7) for number in range(len(prefixes))]
    memory, started = psutil.Process().memory_info().rss, time.perf_counter()
    dataset = megatron.blended(prefixes, weights, num_samples, megatron.gpt_config(SEQ_LENGTH, cache))
    dataset[0]
    first_s = time.perf_counter() - started
    dataset[num_samples - 1]
    last_s = time.perf_counter() - started
    disk = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    grown = psutil.Process().memory_info().rss - memory
    shutil.rmtree(cache)
    return {"first_s": first_s, "last_s": last_s, "memory": grown, "disk": disk}


def compare_opening(folder: Path) -> None:
    """One table; each figure from a process of its own, files in the page cache."""
    rows = []
    for side in ("megatron", "ours"):
        for num_samples in OPEN_SAMPLES:
            label = f"{side}, 10^{len(str(num_samples)) - 1} samples"
            if side == "megatron" and num_samples > MOST_FOR_MEGATRON:
                rows.append([label, "not run", "", "", ""])
                continue
            command = [
                sys.executable,
                "-m",
                "bench.data_reads",
                "--folder",
                str(folder),
                f"open-{side}",
                str(num_samples),
            ]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=OPEN_LIMIT_S)
            except subprocess.TimeoutExpired:
                rows.append([label, f"over {OPEN_LIMIT_S} s", "", "", ""])
                break  # more samples take longer
            found = json.loads(done.stdout.splitlines()[-1])
            sizes = (f"{found[name] / 1e6:,.0f} MB" for name in ("memory", "disk"))
            rows.append([label, f"{found['first_s']:.2f} s", f"{found['last_s']:.2f} s", *sizes])
    header = ["", "to the first sample", "and to the last", "memory grown", "written to disk"]
    text = (
        f"{NUM_SOURCES} sources of {SOURCE_TOKENS:,} tokens, seq_length {SEQ_LENGTH}; nothing cached by an earlier run. For each "
        "sample of the run megatron-core writes 10 bytes of blend and 12 of sample order, and 4 for each document drawn; one "
        "rank writes them while the others wait.\n\n"
    )
    append_result(RESULTS, f"Opening a blend of {NUM_SOURCES} sources", text + table(header, rows))


def main() -> None:
    """Make what is missing in the folder, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where shards are made and kept; a temporary one if left out")
    parser.add_argument("--cpu-time", action="store_true", help="for reads, on a machine with other work")
    parser.add_argument(
        "what", nargs="?", default="all", choices=("all", "reads", "open", "open-ours", "open-megatron")
    )
    parser.add_argument("samples", nargs="?", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if options.what in ("all", "reads"):
            megatron.prepare()
            for document_tokens in (600, 100_000):
                compare_reads(folder, document_tokens, cpu_time=options.cpu_time)
        if options.what != "reads":
            prefixes = [
                make_shard(folder, f"source-{number}", num_tokens=SOURCE_TOKENS, document_tokens=600, seed=number)
                for number in range(NUM_SOURCES)
            ]
            if options.what in ("all", "open"):
                compare_opening(folder)
            else:
                measure = open_ours if options.what == "open-ours" else open_megatron
                print(json.dumps(measure(folder, prefixes, options.samples)))


if __name__ == "__main__":
    main()
