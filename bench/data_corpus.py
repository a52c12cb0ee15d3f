"""What the data benchmarks read: a real tokenizer, shards of random ids, and a run that names them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from tokenizer.documents.sample_corpus import make_sample_corpus
from tokenizer.shards.shard import EncodeOptions, ShardWriter
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.spec import PAD_ID, load_spec
from tokenizer.vocabulary.train import train_tokenizer

SPEC = Path(__file__).parents[1] / "tokenizer" / "specs" / "tiny-2k.yaml"
VOCAB_SIZE = 2000

RUN = """
run_dir: {folder}/run
model: {{num_layers: 1, hidden_size: 8, ffn_hidden_size: 8, num_attention_heads: 1, num_query_groups: 1, vocab_size: 2000}}
data: {{tokenizer: {folder}/tokenizer, seq_length: {seq_length}, train: [{train}]}}
optim: {{lr: 1.0}}
train: {{train_steps: 1_000_000_000_000, global_batch_size: {batch}, micro_batch_size: {micro_batch}}}
"""


def make_tokenizer(folder: Path) -> str:
    """``folder/tokenizer``, made once; its hash."""
    if not (folder / "tokenizer").is_dir():
        make_sample_corpus(folder / "corpus", max_bytes_per_domain=400_000)
        texts = [folder / "corpus" / "train" / f"{domain}.jsonl" for domain in ("code", "prose")]
        train_tokenizer(load_spec(SPEC), texts, folder / "tokenizer")
    return load_tokenizer(folder / "tokenizer").model_sha256


def make_shard(folder: Path, name: str, *, num_tokens: int, document_tokens: int, seed: int) -> Path:
    """A shard of random ids, made once. Documents are of ``document_tokens`` on average, between none and twice that."""
    prefix = folder / name
    if Path(f"{prefix}.json").is_file():
        return prefix
    random = np.random.default_rng(seed)
    with ShardWriter(prefix, vocab_size=VOCAB_SIZE, tokenizer_sha256=make_tokenizer(folder)) as writer:
        left = num_tokens
        while left:
            length = min(left, int(random.integers(1, 2 * document_tokens)))
            writer.add_document(random.integers(PAD_ID + 1, VOCAB_SIZE, length, dtype=np.uint16))
            left -= length
        options = EncodeOptions(append_bos=False, append_eos=False, text_field="text")
        writer.finish(domain="random", licence=None, source=None, input_files=(), options=options)
    return prefix


def make_run(
    folder: Path, prefixes: Sequence[Path], *, seq_length: int, batch: int, micro_batch: int, prefetch_bytes: int
) -> RunConfig:
    """A run over these shards, each with a weight of its own."""
    train = ", ".join(f"{{prefix: {prefix}, weight: {1 + number % 7}}}" for number, prefix in enumerate(prefixes))
    path = folder / "run.yaml"
    path.write_text(RUN.format(folder=folder, seq_length=seq_length, train=train, batch=batch, micro_batch=micro_batch))
    return load_run(path, [f"data.prefetch_bytes={prefetch_bytes}"])
