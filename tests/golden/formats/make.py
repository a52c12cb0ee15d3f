"""How v2/ was made, by the code of commit a6551cb (0.2.0.dev0): ``python -m tests.golden.formats.make FOLDER``, with nothing there.

v1/ was made by commit 5c49d62 (version 0.1.0), whose own make.py says how. Later versions must read both as they are, so they are
never made again. A format that changes gets a v3/ beside them, and this file the name of the commit that wrote it.

llama/          a run of 2 x 2 ranks on a tokenizer and shards of ours, with its checkpoint and its export
gemma3/         the same of Gemma 3's features on two replicas, on an imported tokenizer of Qwen's kind; with z-loss
sentencepiece/  a tokenizer that was imported from a tokenizer.model, and ids

The text is this project's own of that commit. All paths are relative to these folders, so that no machine's own stand in the files.
Made twice, only the speed and the memory of the runs differ (metrics.jsonl, README.md, and the certificate, which has its hash).
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.config.load import load_run, to_yaml
from pretrain.convert.exporting.export import ExportOptions, export
from tests.dist.harness import Trace, run_and_trace
from tests.runs import their_tokenizers
from tokenizer.encoding.encode import encode
from tokenizer.shards.shard import open_shard
from tokenizer.vocabulary.import_folder import import_tokenizer
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.spec import TokenizerSpec
from tokenizer.vocabulary.train import train_tokenizer

ROOT = Path(__file__).parents[3]
SAVED_STEP, LAST_STEP = 4, 7
MOST_CHARACTERS = 2500
"""Of a document."""
MADE = 1_767_225_600
"""2026-01-01, in seconds since 1970."""
TEXT = "A lantern of 42 lamps:\n\tété, naïve, 日本 ✓\n    <|turn|> </s> <|im_end|> <think>\n"
SPEC = TokenizerSpec(
    vocab_size=380, normalization="nfc", remove_characters=["\r"], user_defined_symbols=["\n", "\t"], reserved_tokens=["<|turn|>"],
)  # fmt: skip
RUN = f"""
run_dir: checkpoint
model: {{num_layers: 4, hidden_size: 16, ffn_hidden_size: 32, num_attention_heads: 4, num_query_groups: 2, vocab_size: 380}}
data:
  tokenizer: tokenizer
  seq_length: 32
  train: [{{prefix: shards/train-code, weight: 2}}, {{prefix: shards/train-prose, weight: 1}}]
  validation: [{{prefix: shards/validation-code}}, {{prefix: shards/validation-prose}}]
optim: {{lr: 2.0e-3, min_lr: 2.0e-4, lr_warmup_samples: 16, lr_decay_samples: 128}}
train:
  train_steps: {SAVED_STEP}
  global_batch_size: 8
  micro_batch_size: 2
  precision: fp32
  validation_interval: 2
  validation_samples: 5
parallel: {{tensor_model_parallel_size: 2, pipeline_model_parallel_size: 2, device: cpu, timeout_s: 60}}
log: {{interval: 1, tensorboard: false}}
"""
GEMMA3 = (
    "model.activation=geglu", "model.kv_channels=8", "model.share_embeddings_and_output_weights=true",
    "model.embedding_scale=sqrt_hidden_size", "model.layernorm_zero_centered_gamma=true", "model.norm_placement=both",
    "model.qk_layernorm=true", "model.sliding_window=16", "model.full_attention_layer_interval=2", "model.local_rotary_base=300",
    "model.rotary_scaling=linear", "model.rotary_scaling_factor=8", "model.query_pre_attention_scalar=24", "model.vocab_size=384",
    "data.document_mask=true", "train.z_loss_weight=0.01",
    "data.train=[{prefix: shards/train-code}]", "data.validation=[{prefix: shards/validation-code}]",
    "parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1", "parallel.data_parallel_size=2",
)  # fmt: skip
"""Rows 327 to 383 stand for no token."""


def texts(domain: str) -> list[str]:
    """Documents of a domain: source files, or sections of the README and of a page of the documentation."""
    if domain == "code":
        found = [path.read_text() for path in sorted((ROOT / "pretrain" / "data").glob("*.py"))]
    else:
        pages = [ROOT / "README.md", ROOT / "docs" / "data.md"]
        found = [section for page in pages for section in page.read_text().split("\n## ")]
    return [text[:MOST_CHARACTERS] for text in found]


def write_corpus(*domains: str) -> None:
    """corpus/; every fifth document is for validation."""
    for domain in domains:
        for split in ("train", "validation"):
            chosen = [text for number, text in enumerate(texts(domain)) if (number % 5 == 4) == (split == "validation")]
            lines = [json.dumps({"text": text, "domain": domain, "licence": "Apache-2.0"}) for text in chosen]
            path = Path("corpus") / split / f"{domain}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines))


def encode_corpus() -> None:
    """shards/, with the tokenizer that is there."""
    for path in sorted(Path("corpus").glob("*/*.jsonl")):
        prefix = Path("shards") / f"{path.parent.name}-{path.stem}"
        encode(Path("tokenizer"), [path], prefix, num_workers=1)
        os.utime(prefix.with_suffix(".bin"), (MADE, MADE))  # a checkpoint names the time of the .bin that was compared


def train_saved_and_straight(*overrides: str) -> None:
    """run.yaml, the run folder checkpoint/, and losses.json of the steps after its checkpoint, from a run that never stopped."""
    Path("run.yaml").write_text(RUN)
    run = load_run("run.yaml", overrides)
    Path("run.yaml").write_text(to_yaml(run))
    saved = run_and_trace(run)
    straight = run_and_trace(load_run("run.yaml", ["run_dir=straight", f"train.train_steps={LAST_STEP}"]))
    for trace in (saved, straight):
        assert trace.exit_code == 0, trace.failure
    assert saved.losses == {step: loss for step, loss in straight.losses.items() if step <= SAVED_STEP}
    write("losses.json", after_the_checkpoint(straight))


def after_the_checkpoint(trace: Trace) -> dict[str, object]:
    """What later versions must come to; JSON keeps every bit of a float."""
    return {
        name: {step: value for step, value in getattr(trace, name).items() if step > SAVED_STEP}
        for name in ("losses", "grad_norms", "skipped", "validation", "loss_by_domain", "z_losses")
    }


def write_sums() -> None:
    """sums.json: SHA-256 of every master and moment, and the sum that the checkpoint has of every parameter."""
    checkpoint = Path(f"checkpoint/checkpoints/step-{SAVED_STEP:08d}")
    index = read_index(checkpoint)
    write(
        "sums.json",
        {
            "adam_step": index.num_updates,
            "weights_sums": {name: tensor.weights_sum for name, tensor in sorted(index.tensors.items())},
            "sha256": {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in read_whole(checkpoint)},
        },
    )


def write_tokens() -> None:
    """tokens.json: ids of a text, and what the shards hold."""
    tokenizer = load_tokenizer("tokenizer")
    shards = {path.stem: open_shard(path.with_suffix("")) for path in sorted(Path("shards").glob("*.json"))}
    write(
        "tokens.json",
        {
            "text": TEXT,
            "ids": tokenizer.encode_batch([TEXT], num_threads=1)[0].tolist(),
            "shards": {
                name: {
                    "num_documents": shard.num_documents,
                    "num_tokens": shard.num_tokens,
                    "second_document": hashlib.sha256(shard.document(1).astype("<i4").tobytes()).hexdigest(),
                    "its_text": tokenizer.decode(shard.document(1).tolist())[:60],
                }
                for name, shard in shards.items()
            },
        },
    )


def write(name: str, content: object) -> None:
    """One JSON file."""
    Path(name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_run(*overrides: str) -> None:
    """Shards, a run on them and its export, and what they hold."""
    encode_corpus()
    train_saved_and_straight(*overrides)
    write_sums()
    write_tokens()
    export("checkpoint", "export", ExportOptions(date="2026-01-01", licence="apache-2.0"))
    for name in ("corpus", "straight", "checkpoint/logs"):
        shutil.rmtree(name)
    Path("checkpoint/lock").unlink()  # names the machine
    Path("checkpoint/requests").rmdir()  # git has no empty folder


def make_llama() -> None:
    """llama/, which is the current folder."""
    write_corpus("code", "prose")
    train_tokenizer(SPEC, sorted(Path("corpus/train").glob("*.jsonl")), Path("tokenizer"))
    write_run()


def make_gemma3() -> None:
    """gemma3/, which is the current folder."""
    write_corpus("code")
    import_tokenizer(their_tokenizers.qwen(Path("Qwen"), vocab_size=320), "tokenizer")
    shutil.rmtree("Qwen")
    write_run(*GEMMA3)


def make_sentencepiece() -> None:
    """sentencepiece/, which is the current folder."""
    import_tokenizer(their_tokenizers.spm_model(Path("Llama")), "tokenizer")
    shutil.rmtree("Llama")
    write_tokens()


PARTS = {"llama": make_llama, "gemma3": make_gemma3, "sentencepiece": make_sentencepiece}


def main(folder: str, part: str | None = None) -> None:
    """All of v2/, and nothing else; or one part of it."""
    if part is not None:
        path = Path(folder) / part
        path.mkdir(parents=True)
        os.chdir(path)
        return PARTS[part]()
    Path(folder).mkdir(parents=True)
    for name in PARTS:  # ranks work in the folder in which the first of their process did
        subprocess.run([sys.executable, "-m", "tests.golden.formats.make", folder, name], cwd=ROOT, check=True)


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).absolute()), *sys.argv[2:])
