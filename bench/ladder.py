"""Train a ladder on the demo's text and the run that it predicts, and say how far off the prediction is: `make bench-ladder`.

As many runs at once as there are cores, with a thread each: models so small gain nothing from a second one.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.compare import append_result, table
from fanal.host_cores import host_cores
from fanal.run_progress import newest_metrics
from pretrain.config.load import load_run

RESULTS = Path(__file__).parent / "results" / "ladder.md"
PARTS, RATIOS = "1/12,1/6,1/3", "1.5,2.25,5"
CONFIG = """
run_dir: {folder}/large
model: {{num_layers: 6, hidden_size: 128, ffn_hidden_size: 352, num_attention_heads: 8, num_query_groups: 8, vocab_size: 2000}}
data:
  tokenizer: demo/tokenizer
  seq_length: 256
  train: [{{prefix: demo/shards/train-code, epochs: 1}}, {{prefix: demo/shards/train-prose, epochs: 1}}]
  validation: [{{prefix: demo/shards/validation-code}}, {{prefix: demo/shards/validation-prose}}]
parallel: {{device: cpu}}
optim: {{lr: 2.0e-3, min_lr: 2.0e-4, lr_warmup_samples: 800}}
train: {{train_steps: 600, global_batch_size: 16, micro_batch_size: 4, precision: fp32, validation_samples: 256}}
"""


def main() -> None:
    """Train, fit, and append the table to bench/results/ladder.md."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "large.yaml"
        config.write_text(CONFIG.format(folder=folder))
        plan = ["plan", str(config), "--ladder", str(folder / "ladder")]
        _fanal(*plan, "--parts", PARTS, "--tokens-per-parameter", RATIOS)
        with ThreadPoolExecutor(host_cores()) as pool:  # the long ones first
            list(pool.map(_train, [config, *sorted((folder / "ladder").glob("*.yaml"), reverse=True)]))
        found = json.loads(_fanal(*plan, "--fit", "--json"))
        text = _trained(found, _loss(Path(load_run(config).run_dir)))
    append_result(RESULTS, "A ladder on the demo's text", text)


def _train(config: Path) -> None:
    _fanal("train", str(config))


def _fanal(*words: str) -> str:
    """Run a command and return what it prints. Its errors are shown where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fanal", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _loss(run_dir: Path) -> float:
    """Return the loss that a fit reads of a run: the mean over the domains of its last validation."""
    losses: dict[str, float] = next(newest_metrics(run_dir, kinds=["validation"]))["validation_loss"]
    return sum(losses.values()) / len(losses)


def _trained(found: dict[str, Any], loss: float) -> str:
    rows: list[Sequence[str]] = [
        [
            one["name"],
            f"{one['parameters']:,.0f}",
            f"{one['tokens']:,.0f}",
            f"{one['flops']:.3g}",
            f"{one['loss']:.4f}",
            f"{one['law']:.4f}",
        ]
        for one in found["runs"]
    ]
    target, left = found["target"], found["largest_left_out"]
    rows.append(
        [
            "the large run",
            f"{target['parameters']:,.0f}",
            f"{target['tokens']:,.0f}",
            f"{target['flops']:.3g}",
            f"{loss:.4f}",
            f"{found['loss']:.4f}",
        ]
    )
    inside = "inside" if found["low"] <= loss <= found["high"] else "outside"
    return (
        f"{table(['run', 'parameters in layers', 'tokens', 'FLOPs', 'validation loss', 'law'], rows)}\n\n"
        f"The large run takes {found['times_further']:.3g} times the operations of the largest rung. Predicted: "
        f"{found['loss']:.4f}, "
        f"90 % interval {found['low']:.4f} to {found['high']:.4f}; it was {loss:.4f}, {inside}, "
        f"{found['loss'] / loss - 1:+.2%} off. "
        f"The largest rung from the others: {left['predicted']:.4f} for {left['loss']:.4f}."
    )


if __name__ == "__main__":
    main()
