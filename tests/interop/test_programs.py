"""Other programs read an export as this project does: ids, text, chat turns, losses, greedy tokens.

In each program a text is read in one of two ways. As text, as training did, the name of a special token is text; SentencePiece
knows no other way, others are told (``split_special_tokens``, ``encode_special_tokens``, ``parse_special``). By default it is that
token, since chat templates are text and name the tokens they need.
"""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset
from tokenizers import Tokenizer

from pretrain.convert.ours.tokenizer_files import hf_files
from pretrain.convert.theirs.text import open_codec
from tests.interop.conftest import SHARDS, Lab, documents
from tests.interop.programs import ALL, ask
from tokenizer.shards.shard import open_shard
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.spec import TokenizerSpec
from tokenizer.vocabulary.train import train_tokenizer

LLAMA_CPP = next(program for program in ALL if program.name == "llama.cpp")
LOSS_BOUND = 5e-6
"""Largest difference of a mean loss, in nats a token: fp32 in another order."""


@dataclass(frozen=True)
class Said:
    """What a program says of a folder."""

    folder: str
    answers: dict[str, Any]

    def front(self, lab: Lab) -> list[int]:
        """What stands in front of each text."""
        return [lab.tokenizer.bos_id] if self.folder == "bos" else []


def asked_for(name: str) -> pytest.MarkDecorator:
    """Every program that can be asked this, about each folder."""
    pairs = [(program, folder) for program in ALL if name in program.answers for folder in ("bos", "no-bos")]
    return pytest.mark.parametrize("said", pairs, ids=[f"{p.name}-{folder}" for p, folder in pairs], indirect=True)


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, dict[str, Any]]]:
    """The answers of the programs that have been asked, by program and folder: each is asked once."""
    return {}


@pytest.fixture
def said(request: pytest.FixtureRequest, known: dict[str, dict[str, dict[str, Any]]], lab: Lab) -> Said:
    program, folder = request.param
    if program.name not in known:
        known[program.name] = ask(program, lab.questions, lab.folder)
    return Said(folder, known[program.name][folder])


@asked_for("as_text")
def test_every_text_has_the_ids_that_training_gives_it(said: Said, lab: Lab) -> None:
    texts = [lab.tokenizer.spec.prepare(text) for text in lab.questions.texts + lab.questions.named]
    for text, ids in zip(texts, said.answers["as_text"], strict=True):
        assert ids == lab.ids(text), repr(text[:60])


@asked_for("by_default")
def test_by_default_a_text_has_them_too_behind_a_bos_where_training_had_one(said: Said, lab: Lab) -> None:
    front = said.front(lab)
    for text, ids in zip(lab.questions.texts, said.answers["by_default"], strict=True):
        assert ids == front + lab.ids(text), repr(text[:60])


@asked_for("named")
def test_by_default_the_name_of_a_special_token_is_that_token(said: Said, lab: Lab) -> None:
    assert said.answers["named"][:2] == [[lab.tokenizer.bos_id], [lab.tokenizer.eos_id]]
    a_s_b, in_text = said.answers["named"][2:4]
    assert a_s_b.count(lab.tokenizer.bos_id) == 1 and len(a_s_b) < len(lab.ids("a <s> b"))
    control = {lab.tokenizer.bos_id, lab.tokenizer.eos_id, lab.tokenizer.pad_id}
    assert [token for token in in_text if token in control] == [0, 1, 3]


@asked_for("decoded")
def test_ids_are_the_same_text_and_a_special_token_has_its_name(said: Said, lab: Lab) -> None:
    assert said.answers["decoded"] == [lab.tokenizer.decode(ids) for ids in lab.questions.samples]
    assert said.answers["names"] == [lab.tokenizer.processor.IdToPiece(token) for token in lab.questions.special]


@asked_for("chats")
def test_a_chat_template_gets_its_tokens(said: Said, lab: Lab) -> None:
    chatml, ended = said.answers["chats"]
    assert [chatml.count(name) for name in ("<|im_start|>", "<|im_end|>")] == [2, 2]
    assert [ended.count(name) for name in ("<s>", "<|turn|>", "</s>")] == [1, 2, 2]


@asked_for("losses")
def test_losses_and_greedy_tokens_are_the_checkpoint_s(said: Said, lab: Lab) -> None:
    for ids, loss in zip(lab.questions.samples, said.answers["losses"], strict=False):
        assert loss == pytest.approx(lab.losses_from(ids, 1), abs=LOSS_BOUND * (len(ids) - 1))
    assert said.answers["greedy"] == lab.greedy() and len(set(lab.greedy())) > 3, "a model that says something"


@asked_for("pair_losses")
def test_a_likelihood_counts_the_bos_that_training_had(said: Said, lab: Lab) -> None:
    front = said.front(lab)
    for (context, rest), loss in zip(lab.questions.pairs, said.answers["pair_losses"], strict=True):
        whole = front + lab.ids(context + rest)
        assert loss == pytest.approx(lab.losses_from(whole, len(front + lab.ids(context))), abs=LOSS_BOUND * len(whole))
    if front:
        # Not SentencePiece's text: what it writes for bytes that are no UTF-8 has another number of U+FFFD.
        tokenizer = Tokenizer.from_file(f"{lab.questions.folders['bos']}/tokenizer.json")
        assert said.answers["said"] == tokenizer.decode(lab.greedy())


def test_a_prompt_of_ours_is_read_as_text_from_an_export_too(lab: Lab) -> None:
    codec = open_codec(Path(lab.questions.folders["bos"]))
    for text in lab.questions.texts + lab.questions.named:
        assert codec.encode(text) == lab.ids(text), repr(text[:60])
    assert codec.first_ids == (lab.tokenizer.bos_id,)


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "left to the model's file"])
def test_llama_cpp_cuts_symbols_out_of_a_text_as_training_does(stated: bool, lab: Lab, tmp_path: Path) -> None:
    """Symbols are cut out first. Without added_tokens_decoder they are merged like others, where their beginnings are tokens too.

    Not beside a U+2581, which llama.cpp does not take for the space that it is to SentencePiece, and which no text keeps.
    """
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(map(lab.tokenizer.decode, documents(lab.folder, SHARDS[:2]))), encoding="utf-8")
    symbols = ["\n", "\n\n", "\t", "\t\t", "\t\t\t", "  ", "   ", "    ", "https://", "----"]
    spec = TokenizerSpec(vocab_size=lab.tokenizer.vocab_size, user_defined_symbols=symbols, character_coverage=0.99)
    train_tokenizer(spec, [corpus], tmp_path / "tokenizer")
    other = load_tokenizer(tmp_path / "tokenizer")
    folder = Path(shutil.copytree(lab.questions.folders["no-bos"], tmp_path / "export"))
    for name, content in hf_files(other, adds_bos=False).items():
        (folder / name).write_bytes(content)
    if not stated:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        del config["added_tokens_decoder"]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    runs = ["\n" * n + "x" + "\t" * n + "y" + " " * n + "z" for n in range(12)] + ["\n \n  \t \n\n\t\t  \t"]
    texts = [*(text for text in lab.questions.texts if "\u2581" not in text), *runs, "-" * 11, "at https://a.b----"]
    asked = dataclasses.replace(lab.questions, folders={"export": str(folder)}, texts=texts, samples=[[0, 300]])
    found = ask(LLAMA_CPP, asked, tmp_path)["export"]["by_default"]
    right = [other.encode_batch([text], num_threads=1)[0].tolist() for text in texts]
    different = [text for text, ids, expected in zip(texts, found, right, strict=True) if ids != expected]
    assert (not different) if stated else different


@pytest.mark.parametrize("name", SHARDS)
def test_megatron_s_reader_gives_the_documents_of_a_shard(name: str, lab: Lab) -> None:
    prefix = lab.folder / "shards" / name
    ours, theirs = open_shard(prefix), IndexedDataset(str(prefix))
    assert len(theirs) == ours.num_documents
    for number in range(ours.num_documents):
        assert theirs[number].tolist() == ours.document(number).tolist()


@pytest.mark.parametrize(
    ("key", "value"), [("add_prefix_space", None), ("add_bos_token", None)], ids=["no space in front", "no BOS"]
)
def test_what_llama_cpp_reads_without_a_key_would_be_noticed(key: str, value: None, lab: Lab, tmp_path: Path) -> None:
    """The planted fault: tokenizer_config.json as it was before it said these."""
    folder = Path(shutil.copytree(lab.questions.folders["no-bos"], tmp_path / "export"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config[key]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    texts = lab.questions.texts[:3]
    asked = dataclasses.replace(lab.questions, folders={"export": str(folder)}, texts=texts, samples=[[0, 300]])
    found = ask(LLAMA_CPP, asked, tmp_path)["export"]["by_default"]
    assert all(ids != lab.ids(text) for ids, text in zip(found, texts, strict=True))
