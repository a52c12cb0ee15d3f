"""How v1/ was made, by commit 5c49d62 (version 0.1.0): ``python -m tests.golden.formats.make FOLDER``, with nothing at FOLDER.

Later versions must read v1/ as it is, so it is never made again. A format that changes gets a v2/ beside it, and this file the
name of the commit that wrote it.

The text is this project's own of that commit. All paths are relative to FOLDER, so that no machine's own stand in the files.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.config.load import load_run, to_yaml
from pretrain.convert.exporting.export import ExportOptions, export
from tests.dist.harness import Trace, run_and_trace
from tokenizer.encoding.encode import encode
from tokenizer.shards.shard import open_shard
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.spec import TokenizerSpec
from tokenizer.vocabulary.train import train_tokenizer

ROOT = Path(__file__).parents[3]
SAVED_STEP, LAST_STEP = 8, 13
TEXT = "A lantern of 42 lamps:\n\tété, naïve, 日本 ✓\n    <|turn|> </s>\n"
SPEC = TokenizerSpec(
    vocab_size=380, normalization="nfc", remove_characters=["\r"], user_defined_symbols=["\n", "\t"], reserved_tokens=["<|turn|>"],
)  # fmt: skip
RUN = f"""
run_dir: checkpoint
model: {{num_layers: 4, hidden_size: 32, ffn_hidden_size: 64, num_attention_heads: 4, num_query_groups: 2, vocab_size: 380}}
data:
  tokenizer: tokenizer
  seq_length: 32
  train: [{{prefix: shards/train-code, weight: 2}}, {{prefix: shards/train-prose, weight: 1}}]
  held_out: [{{prefix: shards/held_out-code}}, {{prefix: shards/held_out-prose}}]
optim: {{lr: 2.0e-3, min_lr: 2.0e-4, lr_warmup_samples: 16, lr_decay_samples: 128}}
train:
  train_steps: {SAVED_STEP}
  global_batch_size: 8
  micro_batch_size: 2
  precision: fp32
  eval_interval: 4
  eval_samples: 5
parallel: {{tensor_model_parallel_size: 2, pipeline_model_parallel_size: 2, device: cpu, timeout_s: 60}}
log: {{interval: 1, tensorboard: false}}
"""


def texts(domain: str) -> list[str]:
    """Documents of a domain: source files, or sections of the README."""
    if domain == "code":
        return [path.read_text() for path in sorted((ROOT / "pretrain" / "data").glob("*.py"))]
    return (ROOT / "README.md").read_text().split("\n## ")


def make_data() -> None:
    """corpus/, tokenizer/ and shards/; every fifth document is held out."""
    for domain in ("code", "prose"):
        for split in ("train", "held_out"):
            chosen = [text for number, text in enumerate(texts(domain)) if (number % 5 == 4) == (split == "held_out")]
            lines = [json.dumps({"text": text, "domain": domain, "licence": "Apache-2.0"}) for text in chosen]
            path = Path("corpus") / split / f"{domain}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines))
    train_tokenizer(SPEC, [Path("corpus/train/code.jsonl"), Path("corpus/train/prose.jsonl")], Path("tokenizer"))
    for split in ("train", "held_out"):
        for domain in ("code", "prose"):
            encode(Path("tokenizer"), [Path(f"corpus/{split}/{domain}.jsonl")], Path(f"shards/{split}-{domain}"))


def train_saved_and_straight() -> None:
    """run.yaml, the run folder checkpoint/, and losses.json of the steps after its checkpoint, from a run that never stopped."""
    Path("run.yaml").write_text(RUN)
    run = load_run("run.yaml")
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
        for name in ("losses", "grad_norms", "skipped", "held_out", "loss_by_domain")
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


def main(folder: str) -> None:
    """All of v1/, and nothing else."""
    Path(folder).mkdir(parents=True)
    os.chdir(folder)
    make_data()
    train_saved_and_straight()
    write_sums()
    write_tokens()
    export("checkpoint", "export", ExportOptions(date="2026-01-01", licence="apache-2.0"))
    for name in ("corpus", "straight", "checkpoint/logs"):
        shutil.rmtree(name)
    Path("checkpoint/lock").unlink()  # names the machine


if __name__ == "__main__":
    main(sys.argv[1])
