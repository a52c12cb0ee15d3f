"""Encode against the work that Megatron-LM's tools/preprocess_data.py does: sentencepiece, a pool of processes that takes
lines 32 at a time, and megatron-core's IndexedDatasetBuilder. And, with a tokenizer of Llama 3's kind that was imported, against
Hugging Face's `tokenizers` and the same builder.

    python -m bench.data_encode [--folder DIR]

Each side is a process of its own, and what counts is all CPU time of it and its workers, from start to exit.
"""

import argparse
import filecmp
import importlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from bench.compare import append_result, cpu_s, table
from bench.debian_text import PACKAGES, make_help, make_text
from tokenizer.vocabulary.import_folder import import_tokenizer
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.spec import TokenizerSpec
from tokenizer.vocabulary.train import train_tokenizer

RESULTS = Path(__file__).parent / "results" / "data.md"
ROUNDS = 5
VOCAB_SIZE = 32_000
TRAINING_BYTES = 12_000_000
BATCH = 256
"""Documents that `tokenizers` gets at a time."""
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""The pattern of meta-llama/Meta-Llama-3-8B's pre-tokenizer."""
CORPORA: dict[str, Callable[[Path], list[Path]]] = {
    "help pages, prose in 7 languages of Europe": make_help,
    "manual pages with their markup, 13 languages of Europe": lambda folder: make_text(
        folder, [language for language in PACKAGES if language not in ("ja", "zh")]
    ),
    "manual pages with their markup, Japanese and Chinese": lambda folder: make_text(folder, ["ja", "zh"]),
}


class MegatronEncoder:
    """What a worker of preprocess_data.py does with a line; like there, the class holds the tokenizer."""

    processor = None

    def __init__(self, model: str) -> None:
        self.model = model

    def initialize(self) -> None:
        import sentencepiece

        MegatronEncoder.processor = sentencepiece.SentencePieceProcessor(model_file=self.model)

    def encode(self, line: str) -> tuple[list[int], list[int], int]:
        ids = MegatronEncoder.processor.encode_as_ids(json.loads(line)["text"])  # type: ignore[attr-defined]
        if ids:
            ids.append(MegatronEncoder.processor.eos_id())  # type: ignore[attr-defined]
        return ids, [len(ids)], len(line)


def encode_as_megatron(tokenizer: Path, text: Path, prefix: Path, num_workers: int) -> None:
    """preprocess_data.py --append-eod, without the printing."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    encoder = MegatronEncoder(str(tokenizer / "tokenizer.model"))
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(VOCAB_SIZE))
    with text.open(encoding="utf-8") as stream:
        pool = multiprocessing.Pool(num_workers, initializer=encoder.initialize)
        documents: Iterable[Any] = pool.imap(encoder.encode, stream, 32)
        for ids, lengths, _ in documents:  # lists, as the script itself hands them over
            builder.add_document(ids, lengths)
        builder.finalize(f"{prefix}.idx")
        pool.close()
        pool.join()


def encode_as_ours(tokenizer: Path, text: Path, prefix: Path, num_workers: int) -> None:
    """The same documents: no BOS, EOS at the end."""
    from tokenizer.encoding.encode import encode

    encode(tokenizer, [text], prefix, append_bos=False, append_eos=True, num_workers=num_workers)


def encode_as_tokenizers(tokenizer: Path, text: Path, prefix: Path, num_workers: int) -> None:
    """The same documents by the library's own batches, whose offsets are left out; one thread, since a thread a core is theirs."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    from tokenizers import Tokenizer

    assert num_workers == 1, "the batches are encoded in this process"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    library, eos = Tokenizer.from_file(str(tokenizer / "tokenizer.json")), load_tokenizer(tokenizer).eos_id
    library.encode_special_tokens = True
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(VOCAB_SIZE))
    with text.open(encoding="utf-8") as stream:
        while lines := list(islice(stream, BATCH)):
            texts = [json.loads(line)["text"] for line in lines]
            for found in library.encode_batch_fast(texts, add_special_tokens=False):
                ids: Any = [*found.ids, eos]  # a list, as in the script
                builder.add_document(ids, [len(ids)])
    builder.finalize(f"{prefix}.idx")


SIDES = {"megatron": encode_as_megatron, "tokenizers": encode_as_tokenizers, "ours": encode_as_ours}


def measure(side: str, tokenizer: Path, text: Path, prefix: Path, num_workers: int) -> dict[str, float]:
    """CPU and wall seconds of one process and its workers, imports left out on both sides."""
    for suffix in ("bin", "idx", "json"):
        Path(f"{prefix}.{suffix}").unlink(missing_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "bench.data_encode", "--side", side]
    command += [str(word) for word in ("--tokenizer", tokenizer, "--text", text, "--prefix", prefix)]
    done = subprocess.run([*command, "--workers", str(num_workers)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_side(side: str, tokenizer: Path, text: Path, prefix: Path, num_workers: int) -> None:
    """Encode on one side, in the process that is measured."""
    importlib.import_module("tokenizer.encoding.encode" if side == "ours" else "megatron.core.datasets.indexed_dataset")
    before, started = cpu_s(), time.perf_counter()
    SIDES[side](tokenizer, text, prefix, num_workers)
    print(json.dumps({"cpu_s": cpu_s() - before, "wall_s": time.perf_counter() - started}))


def compare(
    name: str, folder: Path, tokenizer: Path, text: Path, num_workers: int, *, theirs: str = "megatron"
) -> float:
    """Five rounds, in turn; the ratio of the medians of CPU time. Raises: SystemExit if a byte differs."""
    sides = [theirs, "ours"]
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(ROUNDS + 1):
        for side in sides if number % 2 else reversed(sides):
            figures = measure(side, tokenizer, text, folder / side, num_workers)
            if number:  # the first round fills the page cache
                found[side].append(figures)
        for suffix in ("bin", "idx"):
            if not filecmp.cmp(folder / f"{theirs}.{suffix}", folder / f"ours.{suffix}", shallow=False):
                raise SystemExit(f"the two .{suffix} files differ")
    megabytes = text.stat().st_size / 1e6
    cpu_s = {side: [figures["cpu_s"] for figures in rounds] for side, rounds in found.items()}
    ratios = [slow / fast for slow, fast in zip(cpu_s[theirs], cpu_s["ours"], strict=True)]
    rows = [
        [
            side,
            f"{statistics.median(cpu_s[side]):.2f}",
            f"{min(cpu_s[side]):.2f} to {max(cpu_s[side]):.2f}",
            f"{statistics.median(figures['wall_s'] for figures in found[side]):.2f}",
            f"{megabytes / statistics.median(cpu_s[side]):.1f}",
        ]
        for side in sides
    ]
    header = ["", "CPU s, median", f"range of {ROUNDS}", "wall s, median", "MB per CPU second"]
    summary = (
        f"{megabytes:.1f} MB of JSON lines, vocabulary of {VOCAB_SIZE:,}, {num_workers} worker(s); both sides wrote the "
        f"same .bin and .idx. CPU time ratio {statistics.median(ratios):.1f} (rounds {min(ratios):.1f} to {max(ratios):.1f}).\n\n"
    )
    append_result(RESULTS, f"Encode, {name}", summary + table(header, rows))
    return statistics.median(ratios)


def make_tokenizer(folder: Path, text: Path) -> Path:
    """A tokenizer of VOCAB_SIZE tokens, from every so many lines of the text."""
    directory = folder / f"tokenizer-{text.stem}"
    if not directory.is_dir():
        every = max(1, text.stat().st_size // TRAINING_BYTES)
        sample = folder / "sample.jsonl"
        with text.open("rb") as stream:
            sample.write_bytes(b"".join(line for number, line in enumerate(stream) if number % every == 0))
        spec = TokenizerSpec(vocab_size=VOCAB_SIZE, user_defined_symbols=["\n", "\n\n", "\t", "\t\t"])
        train_tokenizer(spec, [sample], directory)
    return load_tokenizer(directory).directory


def make_imported(folder: Path, text: Path) -> Path:
    """A byte-level BPE of VOCAB_SIZE tokens with Llama 3's pattern, trained with `tokenizers` and imported."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    directory, theirs = folder / f"imported-{text.stem}", folder / f"theirs-{text.stem}"
    library = Tokenizer(models.BPE(ignore_merges=True))
    cut: Any = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])  # type: ignore[assignment]
    library.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    special = ["<|end_of_text|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE - 1, initial_alphabet=alphabet, show_progress=False)
    every = max(1, text.stat().st_size // TRAINING_BYTES)
    with text.open(encoding="utf-8") as stream:
        sample = [json.loads(line)["text"] for number, line in enumerate(stream) if number % every == 0]
    library.train_from_iterator(sample, trainer)
    library.add_special_tokens(special)
    theirs.mkdir()
    library.save(str(theirs / "tokenizer.json"))
    (theirs / "tokenizer_config.json").write_text(json.dumps({"bos_token": None, "eos_token": special[0]}))
    return import_tokenizer(theirs, directory).directory


def main() -> None:
    """Measure, or be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where texts are kept; a temporary one if left out")
    parser.add_argument(
        "--imported", action="store_true", help="an imported tokenizer beside `tokenizers`, and nothing else"
    )
    for name in ("--tokenizer", "--text", "--prefix"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help="default: 1, then all cores")
    options = parser.parse_args()
    if options.side:
        return run_side(options.side, options.tokenizer, options.text, options.prefix, options.workers)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for number, (name, make) in enumerate(CORPORA.items()):
            if options.imported and make is make_help:
                continue
            text = work / f"corpus-{number}.jsonl"
            with text.open("wb") as stream:
                for path in make(options.folder or work / "pages"):
                    stream.write(path.read_bytes())
            if options.imported:
                compare(f"{name}, an imported tokenizer", work, make_imported(work, text), text, 1, theirs="tokenizers")
                continue
            tokenizer = make_tokenizer(work, text)
            for num_workers in [options.workers] if options.workers else [1, len(os.sched_getaffinity(0))]:
                compare(name, work, tokenizer, text, num_workers)


if __name__ == "__main__":
    main()
