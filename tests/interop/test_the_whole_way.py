"""The page docs/continue-a-model.md is followed, command by command, on a small model; other programs judge the result."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pretrain.convert.open_model import open_model
from pretrain.inspect.generate import load_decoder
from pretrain.model.inference import InferenceDecoder
from tests.interop.programs import ALL, Questions, ask
from tests.interop.test_programs import LOSS_BOUND
from tests.runs import their_tokenizers
from tests.runs.their_tokenizers import corpus_texts
from tests.unit.convert.folders import save_model
from tokenizer.shards.shard import open_shard
from tokenizer.vocabulary.load import load_tokenizer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "continue-a-model.md"
PROGRAMS = [program for program in ALL if program.name in ("transformers", "transformers 4", "lm-eval")]
SMALL = (
    "parallel.device=cpu", "parallel.timeout_s=60", "data.seq_length=64", "train.train_steps=4", "train.global_batch_size=8",
    "train.micro_batch_size=2", "train.precision=fp32", "optim.lr=1.0e-3", "optim.min_lr=1.0e-4", "optim.lr_warmup_samples=8",
    "train.validation_interval=4", "train.validation_samples=4", "log.interval=1",
)  # fmt: skip
"""What makes the page's run small; its layout, its mixture and its start stay."""
CHAT = [{"role": "user", "content": "Où est-il?"}, {"role": "assistant", "content": "Ici."}]
NUM_NEW = 12


def blocks(language: str) -> list[str]:
    """The page's blocks of one language; "" is that of commands."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return [content for name, content in found if name == language]


def commands() -> list[list[str]]:
    """The page's commands of this program, as a shell takes them apart."""
    lines = [shlex.split(line) for block in blocks("") for line in block.splitlines()]
    return [line[1:] for line in lines if line[0] == "fanal"]


@dataclasses.dataclass(frozen=True)
class Lab:
    """What the page leaves behind, and what its commands said."""

    folder: Path
    said: dict[str, str]
    decoder: InferenceDecoder

    @property
    def export(self) -> Path:
        return self.folder / "Qwen3-0.6B-continued"

    def losses_from(self, ids: list[int], first: int) -> float:
        """The sum of our losses of the ids from a place on, in nats."""
        log = self.decoder.logits(torch.tensor([ids]))[0].log_softmax(-1)
        return -sum(log[at - 1, ids[at]].item() for at in range(first, len(ids)))

    def greedy(self, ids: list[int]) -> list[int]:
        found = list(ids)
        for _ in range(NUM_NEW):
            found.append(int(self.decoder.logits(torch.tensor([found]))[0, -1].argmax()))
        return found[len(ids) :]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The folder in which the page was followed."""
    folder = tmp_path_factory.mktemp("whole-way")
    theirs = save_model(folder / "hub" / "Qwen3-0.6B", kind="qwen3", head_dim=8, vocab_size=1024, tie_word_embeddings=True,
                        num_hidden_layers=4, bos_token_id=None)  # fmt: skip
    for path in their_tokenizers.qwen(folder / "theirs").iterdir():
        if path.name != "config.json":
            shutil.copy(path, theirs)
    (folder / "text").mkdir()
    for number, name in enumerate(("code", "prose", "held-out")):
        lines = [json.dumps({"text": text[:20_000], "domain": name}) for text in corpus_texts()[number::3]]
        (folder / "text" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    said = {}
    for words in commands():
        if words[0] == "show":
            (config,) = map(yaml.safe_load, blocks("yaml"))
            config["model"] = yaml.safe_load((folder / "imported" / "model" / "config.yaml").read_text())["model"]
            (folder / "continue.yaml").write_text(yaml.safe_dump(config))
        extra = SMALL if words[0] in ("show", "train") else ()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "fanal", *words, *extra], cwd=folder, capture_output=True, text=True,
            timeout=300, check=False, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
        said[words[0] if words[0] != "tokenizer" else " ".join(words[:2])] = done.stdout
    with open_model(folder / "runs" / "continued", tokenizer=folder / "my" / "tokenizer") as opened:
        decoder = load_decoder(opened, torch.device("cpu"))
    return Lab(folder, said, decoder)


def test_the_page_has_a_command_for_every_step() -> None:
    assert [" ".join(words[: 2 if words[0] == "tokenizer" else 1]) for words in commands()] == [
        "import", "tokenizer import", "tokenizer encode", "tokenizer encode", "tokenizer encode", "tokenizer verify", "show",
        "train", "export", "generate",
    ]  # fmt: skip


def test_the_run_was_split_mixed_its_sources_and_began_with_the_model(lab: Lab) -> None:
    records = [json.loads(line) for line in (lab.folder / "runs/continued/metrics.jsonl").read_text().splitlines()]
    (start,) = (record for record in records if record["kind"] == "start")
    assert start["num_ranks"] == 4
    steps = [record for record in records if record["kind"] == "step"]
    assert {name for step in steps for name in step["loss_by_domain"]} == {"code", "prose"}
    validations = [record for record in records if record["kind"] == "validation"]
    assert [record["step"] for record in validations] == [0, 4], "the first is the loss that the model came with"
    assert "Qwen3ForCausalLM" in lab.said["show"]


def test_the_class_and_the_files_of_the_tokenizer_are_those_of_the_hub(lab: Lab) -> None:
    theirs = lab.folder / "hub" / "Qwen3-0.6B"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json", "merges.txt"):
        assert (lab.export / name).read_bytes() == (theirs / name).read_bytes(), name
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (theirs, lab.export))
    assert after["architectures"] == before["architectures"] and after["model_type"] == before["model_type"]
    assert json.loads((lab.export / "certificate.json").read_text())["verdict"] == "same model"
    assert lab.said["generate"].startswith("def main():")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_other_programs_find_the_run_s_losses_ids_and_words(program: Any, lab: Lab, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(lab.folder / "my" / "tokenizer")
    shard = open_shard(lab.folder / "shards" / "held-out")
    samples = [shard.document(number).tolist()[:40] for number in range(3)]
    texts = [tokenizer.decode(ids) for ids in samples]
    questions = Questions(
        folders={"continued": str(lab.export)}, texts=texts, named=["a <|im_end|> b"], samples=samples, special=[],
        pairs=[(text[:20], text[20:60]) for text in texts], letter=0, prompt=samples[0][:8],
        prompt_text=tokenizer.decode(samples[0][:8]), num_new=NUM_NEW, vocab_size=tokenizer.vocab_size, conversation=CHAT, templates=[],
    )  # fmt: skip
    said = ask(program, questions, tmp_path)["continued"]
    ids = [ids.tolist() for ids in tokenizer.encode_batch(texts, num_threads=1)]
    assert said["by_default"] == ids
    if program.name == "lm-eval":
        for (context, rest), loss in zip(questions.pairs, said["pair_losses"], strict=True):
            front, whole = (
                tokenizer.encode_batch([text], num_threads=1)[0].tolist() for text in (context, context + rest)
            )
            assert loss == pytest.approx(lab.losses_from(whole, len(front)), abs=LOSS_BOUND * len(whole))
        return
    for sample, loss in zip(samples, said["losses"], strict=True):
        assert loss == pytest.approx(lab.losses_from(sample, 1), abs=LOSS_BOUND * len(sample))
    assert said["greedy"] == lab.greedy(samples[0][:8])
