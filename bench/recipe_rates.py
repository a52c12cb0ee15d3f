"""Try the demo's recipe at several learning rates, on several corpora and with several seeds: `make bench-recipe`.

A shipped rate ends lower than half of it and twice of it, on every corpus and with every seed. One rank trains what the demo's
four train (tests/dist/test_layout_parity.py), in less time.
"""

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.compare import append_result, table
from fanal.run_progress import metrics
from tokenizer.documents.sample_corpus import make_sample_corpus
from tokenizer.encoding.encode import encode
from tokenizer.vocabulary.spec import load_spec
from tokenizer.vocabulary.train import train_tokenizer

RESULTS = Path(__file__).parent / "results" / "recipe.md"
CONFIG = Path(__file__).parents[1] / "configs" / "tiny.yaml"
SPEC = Path(__file__).parents[1] / "tokenizer" / "specs" / "tiny-2k.yaml"
DOMAINS = ("code", "prose")
WARMED_UP_STEP = 11
"""First step after the warmup of 160 samples at a batch of 16."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one run ended."""

    corpus: str
    seed: int
    lr: float
    max_grad_norm: float
    """Largest gradient norm after the warmup, before clipping."""
    median_grad_norm: float
    """Median of the gradient norms after the warmup."""
    validation_loss: dict[str, float]
    """Per domain, after the last step."""


def make_data(folder: Path, library: Path | None) -> None:
    """What `make data` makes, from this standard library: folder/tokenizer and folder/shards."""
    make_sample_corpus(folder / "corpus", library=library)
    train_tokenizer(load_spec(SPEC), [folder / "corpus/train" / f"{d}.jsonl" for d in DOMAINS], folder / "tokenizer")
    for split in ("train", "validation"):
        for domain in DOMAINS:
            encode(folder / "tokenizer", [folder / "corpus" / split / f"{domain}.jsonl"], folder / f"{split}-{domain}")


def train(data: Path, corpus: str, *, lr: float, seed: int) -> Outcome:
    """Train the demo's config at this rate, a tenth of it at the end."""
    run_dir = data / f"run-{lr:g}-{seed}"
    shards = {s: [f"{{prefix: {data}/{s}-{d}, weight: 0.5}}" for d in DOMAINS] for s in ("train", "validation")}
    keys = {
        "run_dir": run_dir, "optim.lr": lr, "optim.min_lr": lr / 10, "train.seed": seed, "data.tokenizer": data / "tokenizer",
        "data.train": f"[{', '.join(shards['train'])}]",
        "data.validation": f"[{', '.join(shards['validation'])}]".replace(", weight: 0.5", ""),
        "parallel.tensor_model_parallel_size": 1, "parallel.pipeline_model_parallel_size": 1,
        "parallel.context_parallel_size": 1,
        "parallel.sequence_parallel": "false", "log.interval": 1, "log.tensorboard": "false", "checkpoint.interval": "null",
    }  # fmt: skip
    words = [f"{key}={value}" for key, value in keys.items()]
    subprocess.run(
        [sys.executable, "-m", "pretrain", "train", str(CONFIG), *words], check=True, stdout=subprocess.DEVNULL
    )
    records = list(metrics(run_dir))
    steps = [r for r in records if r["kind"] == "step" and r["step"] >= WARMED_UP_STEP]
    norms = [math.inf if r["grad_norm"] is None else r["grad_norm"] for r in steps]
    last = [r for r in records if r["kind"] == "validation"][-1]
    return Outcome(
        corpus=corpus, seed=seed, lr=lr, max_grad_norm=max(norms), median_grad_norm=statistics.median(norms),
        validation_loss=last["validation_loss"],
    )  # fmt: skip


def report(outcomes: Sequence[Outcome]) -> str:
    """One row a run, sorted so that the rates of a corpus and a seed stand together."""
    rows = [
        (
            f"{o.corpus}, seed {o.seed}", f"{o.lr:g}", f"{o.median_grad_norm:.2f}", f"{o.max_grad_norm:.2f}",
            *(f"{loss:.3f}" for loss in o.validation_loss.values()),
        )
        for o in sorted(outcomes, key=lambda o: (o.corpus, o.seed, o.lr))
    ]  # fmt: skip
    names = [f"validation loss, {name}" for name in outcomes[0].validation_loss]
    return table(("corpus", "lr", "gradient norm, median", "largest", *names), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[7.5e-4, 1.5e-3, 3e-3, 6e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 7])
    parser.add_argument("--libraries", type=Path, nargs="*", default=[], help="standard libraries beside this Python's")
    parser.add_argument(
        "--folder", type=Path, help="where the corpora and runs lie meanwhile; the system's temporary folder"
    )
    args = parser.parse_args()
    libraries = {f"Python {sys.version.split()[0]}": None} | {str(path): path for path in args.libraries}
    outcomes = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for number, (name, library) in enumerate(libraries.items()):
            data = Path(folder, str(number))
            make_data(data, library)
            for seed in args.seeds:
                for lr in args.rates:
                    outcomes.append(train(data, name, lr=lr, seed=seed))
                    print(outcomes[-1], flush=True)
    append_result(RESULTS, "The demo's recipe at several learning rates", report(outcomes))


if __name__ == "__main__":
    main()
