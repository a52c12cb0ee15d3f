"""Two exports of one small run, with a BOS and without, for other programs to read."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pretrain.convert.exporting.export import ExportOptions, export
from pretrain.convert.open_model import open_model
from pretrain.inspect.generate import load_decoder
from pretrain.model.inference import InferenceDecoder
from tests.dist.harness import make_run, run_and_trace
from tests.interop.programs import Questions
from tokenizer.shards.shard import open_shard
from tokenizer.vocabulary.load import Tokenizer, load_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "formats" / "v1"
SHARDS = ("train-code", "train-prose", "held_out-code", "held_out-prose")
ROUGH = (
    "", " ", "  two in front", "two behind  ", "\n\n\n\t\t", "tab\tand\u00a0no-break\u2003em space", "<0x41><0xFF>", "a\u2581b \u2581 c",
    "3.14159, 1,000,000 and 1e-9", "a" * 200, " " * 50, "\u00e9 \ufb01 \u00b2", "العربية עברית", "日本語と中文、한국어",
    "👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 🇫🇷", "\ufeffbyte order mark", "\ufffd\u200b\u2028\u2029", "def f(x):\n    return {'a': [x, *y]}\n",
)  # fmt: skip
NAMED = ("<s>", "</s>", "a <s> b", "text <s> in </s> text<pad>", "<s><s>x", "<unk>", "<|turn|>user")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    ["<|im_start|>", "<|im_end|>"],
)
ENDED = ("{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}", [])
SAMPLE_TOKENS, NUM_NEW = 40, 12


@dataclass(frozen=True, kw_only=True)
class Lab:
    """What is asked, and the right answers."""

    folder: Path
    tokenizer: Tokenizer
    questions: Questions
    decoder: InferenceDecoder

    def ids(self, text: str) -> list[int]:
        """The ids that training gives a text, without BOS."""
        return self.tokenizer.encode_batch([text], num_threads=1)[0].tolist()

    def losses_from(self, ids: list[int], first: int) -> float:
        """The sum of our losses of the ids from a place on, in nats."""
        log = self.decoder.logits(torch.tensor([ids]))[0].log_softmax(-1)
        return -sum(log[at - 1, ids[at]].item() for at in range(first, len(ids)))

    def greedy(self) -> list[int]:
        ids = list(self.questions.prompt)
        for _ in range(NUM_NEW):
            ids.append(int(self.decoder.logits(torch.tensor([ids]))[0, -1].argmax()))
        return ids[-NUM_NEW:]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("interop")
    for name in ("tokenizer", "shards"):
        shutil.copytree(GOLDEN / name, folder / name)
    prefixes = [str(folder / "shards" / name) for name in SHARDS]
    # Large initial weights: a model of small ones says one token again and again, and so would a wrong one. Rows 380 to 399
    # stand for no token.
    run = make_run(
        GOLDEN / "run.yaml", folder / "run", f"data.tokenizer={folder / 'tokenizer'}", "data.seq_length=64", "train.train_steps=3",
        f"data.train=[{{prefix: {prefixes[0]}}}, {{prefix: {prefixes[1]}}}]", f"data.validation=[{{prefix: {prefixes[2]}}}, {{prefix: {prefixes[3]}}}]",
        "parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1", "model.init_method_std=0.2", "model.vocab_size=400",
    )  # fmt: skip
    trace = run_and_trace(run)
    assert trace.exit_code == 0, trace.failure
    for name, adds_bos in (("bos", True), ("no-bos", False)):
        export(run.run_dir, folder / name, ExportOptions(date="2026-01-01", adds_bos=adds_bos))
    tokenizer = load_tokenizer(folder / "tokenizer")
    with open_model(run.run_dir) as opened:
        decoder = load_decoder(opened, torch.device("cpu"))
    held_out = documents(folder, SHARDS[2:])
    texts = [tokenizer.decode(ids) for ids in held_out]
    samples = [[tokenizer.bos_id, *ids][:SAMPLE_TOKENS] for ids in held_out[:3]]
    questions = Questions(
        folders={name: str(folder / name) for name in ("bos", "no-bos")},
        texts=[*texts, *ROUGH],
        named=list(NAMED),
        samples=samples,
        special=list(tokenizer.control_ids),
        pairs=[(text[:30], text[30:60]) for text in texts[:2]],
        letter=tokenizer.processor.PieceToId("e"),
        prompt=samples[0][:8],
        prompt_text=tokenizer.decode(samples[0][1:8]),
        num_new=NUM_NEW,
        vocab_size=tokenizer.vocab_size,
        conversation=[{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A lamp"}],
        templates=[{"text": text, "tokens": tokens} for text, tokens in (CHATML, ENDED)],
    )
    return Lab(folder=folder, tokenizer=tokenizer, questions=questions, decoder=decoder)


def documents(folder: Path, names: Sequence[str]) -> list[list[int]]:
    """The ids of every document of some shards, without BOS and EOS."""
    shards = [open_shard(folder / "shards" / name) for name in names]
    return [shard.document(number).tolist()[1:-1] for shard in shards for number in range(shard.num_documents)]
