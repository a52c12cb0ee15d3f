"""A run that takes seconds: its YAML, and real shards from a small corpus.

The corpus is what `fanal tokenizer sample-corpus` gave with Python 3.11.7 (400,000 bytes a domain, its library's own licence,
PSF-2.0). Each Python would give another, and with it each would be held to the bounds by numbers of its own.
"""

import gzip
from pathlib import Path

from tokenizer.encoding.encode import encode
from tokenizer.vocabulary.spec import load_spec
from tokenizer.vocabulary.train import train_tokenizer

CORPUS = Path(__file__).parent / "corpus"
SPEC = Path(__file__).parents[2] / "tokenizer" / "specs" / "tiny-2k.yaml"

SMALL_RUN = """
run_dir: {folder}/runs/default
model:
  num_layers: 4
  hidden_size: 64
  ffn_hidden_size: 176
  num_attention_heads: 8
  num_query_groups: 4
  vocab_size: 2000
data:
  tokenizer: {folder}/tokenizer
  seq_length: 64
  train:
    - {{prefix: {folder}/shards/train-code, weight: 2}}
    - {{prefix: {folder}/shards/train-prose, weight: 1}}
  validation:
    - {{prefix: {folder}/shards/validation-code}}
    - {{prefix: {folder}/shards/validation-prose}}
optim:
  lr: 2.0e-3
  min_lr: 2.0e-4
  lr_warmup_samples: 16
train:
  train_steps: 10
  global_batch_size: 8
  micro_batch_size: 2
  precision: fp32
  validation_interval: 4
  validation_samples: 5
parallel:
  device: cpu
  timeout_s: 60
log:
  interval: 1
  tensorboard: false
"""


def make_small_data(folder: Path) -> None:
    """tokenizer/ and shards/{train,validation}-{code,prose}."""
    for packed in CORPUS.rglob("*.gz"):
        text = folder / "corpus" / packed.relative_to(CORPUS).with_suffix("")
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_bytes(gzip.decompress(packed.read_bytes()))
    texts = [folder / "corpus" / "train" / f"{domain}.jsonl" for domain in ("code", "prose")]
    train_tokenizer(load_spec(SPEC), texts, folder / "tokenizer")
    for split in ("train", "validation"):
        for domain in ("code", "prose"):
            encode(
                folder / "tokenizer",
                [folder / "corpus" / split / f"{domain}.jsonl"],
                folder / "shards" / f"{split}-{domain}",
            )


def write_small_run(folder: Path) -> Path:
    """The YAML beside the data."""
    path = folder / "run.yaml"
    path.write_text(SMALL_RUN.format(folder=folder))
    return path
