"""What `tokenizer import` refuses, and what its message advises works when it is followed to the letter."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs import their_tokenizers
from tokenizer.__main__ import main
from tokenizer.encoding import block_encoder
from tokenizer.vocabulary.load import load_tokenizer

pytest.importorskip("tokenizers")

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder that is imported as it is."""
    return their_tokenizers.qwen(tmp_path_factory.mktemp("theirs") / "qwen")


@pytest.fixture
def hf(qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to spoil, in a working folder whose name needs quotes."""
    here = tmp_path / "it's here"
    here.mkdir()
    monkeypatch.chdir(here)
    block_encoder.open_encoder.cache_clear()  # its keys are paths, and those of these tests are relative
    return shutil.copytree(qwen, here / "hf")


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line with which an import is refused; its exit code is 2, and nothing is left."""

    def run(*words: str) -> str:
        before = sorted(Path.cwd().iterdir())
        assert main(["import", *words]) == 2
        assert sorted(Path.cwd().iterdir()) == before, "nothing half-written"
        (said,) = capfd.readouterr().err.splitlines()
        assert said.startswith("error: ")
        for word in ("NoneType", "Traceback", "dict", "KeyError"):
            assert word not in said
        return said

    return run


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a file of JSON in place."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def drop(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


SPOILED: dict[str, tuple[Change, str]] = {
    "no tokenizer": (lambda f: drop(f, "tokenizer.json"), r"has no tokenizer: neither tokenizer.json nor tokenizer.model is in it \(it has vocab.json and merges.txt\)"),
    "not JSON": (lambda f: _text(f, "tokenizer.json", '{"model": '), r"tokenizer.json is not JSON \(.*\); copy it again, or remove it"),
    "an array": (lambda f: _text(f, "tokenizer.json", "[1]"), "must hold an object; it holds an array; copy it again"),
    "a pointer": (lambda f: _text(f, "tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "is a pointer of Git LFS"),
    "no model": (lambda f: _text(f, "tokenizer.json", "{}"), "must hold an object named model"),
    "WordPiece": (lambda f: edit(f, "tokenizer.json", lambda c: c["model"].update(type="WordPiece")), "has a model of type 'WordPiece', expected BPE or Unigram; a tokenizer of byte-level BPE"),
    "no vocabulary": (lambda f: edit(f, "tokenizer.json", lambda c: c["model"].pop("vocab")), "without the vocabulary that its type BPE has"),
    "dropout": (lambda f: edit(f, "tokenizer.json", lambda c: c["model"].update(dropout=0.1)), "has dropout 0.1, with which a text gets other ids each time; null works"),
    "cut at spaces": (lambda f: edit(f, "tokenizer.json", lambda c: c.update(pre_tokenizer={"type": "Whitespace"})), "cuts text by 'Whitespace', expected ByteLevel, or Metaspace"),
    "an unknown part": (lambda f: edit(f, "tokenizer.json", lambda c: c.update(decoder={"type": "Nonsense"})), "is not a tokenizer that the library tokenizers can read"),
    "a merge of nothing": (lambda f: edit(f, "tokenizer.json", lambda c: c["model"]["merges"].append(["zzzz", "yyyy"])), "is not a tokenizer that the library tokenizers can read"),
    "a config that is none": (lambda f: _text(f, "tokenizer_config.json", "null"), "tokenizer_config.json must hold an object; it holds null"),
    "an eos that is a number": (lambda f: edit(f, "tokenizer_config.json", lambda c: c.update(eos_token=7)), "eos_token of .* must be a token's text, and holds 7"),
    "added tokens that are none": (lambda f: edit(f, "tokenizer_config.json", lambda c: c.update(added_tokens_decoder={"x": 1})), "must hold tokens by their ids, each with its content, and has"),
    "ids that contradict": (
        lambda f: edit(f, "tokenizer_config.json", lambda c: c["added_tokens_decoder"]["900"].update(content="other")), "gives 'other' the id 900, and by .*tokenizer.json it has 907",
    ),
    "a link that leads out": (lambda f: _link(f), "is a link to .*outside of .*puts a copy in the link's place"),
    "two tokenizers": (lambda f: _second(f), "are two tokenizers: .*; remove the one that is not the model's"),
    "an id beyond any": (lambda f: (_alone(f), _text(f, "added_tokens.json", '{"<pad>": 99999999}')), "has ids up to 99,999,999"),
    "an id that is none": (lambda f: (_alone(f), _text(f, "added_tokens.json", '{"<pad>": true}')), "gives '<pad>' the id True, which is none"),
    "text without ids": (lambda f: _unigram(f), "tokenizer.json gives some text no ids"),
    "a tokenizer.model that is none": (lambda f: (drop(f, "tokenizer.json"), _text(f, "tokenizer.model", "no")), "tokenizer.model is not a SentencePiece model"),
}  # fmt: skip


def _text(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def _link(folder: Path) -> None:
    shutil.copy(folder / "tokenizer.json", folder.parent / "elsewhere")
    drop(folder, "tokenizer.json")
    (folder / "tokenizer.json").symlink_to("../elsewhere")


def _alone(folder: Path) -> None:
    """Leave a tokenizer.model, and padding that a config names."""
    drop(folder, *(path.name for path in folder.iterdir()))
    _second(folder)
    _text(folder, "tokenizer_config.json", json.dumps(their_tokenizers.SENTENCEPIECE | {"pad_token": "<pad>"}))


def _unigram(folder: Path) -> None:
    """A Unigram model of one letter, that has nothing for the others."""
    content = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None, "decoder": None,
        "added_tokens": [{"id": 1, "content": "</s>", "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}],
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0], ["</s>", 0.0]], "byte_fallback": False},
    }  # fmt: skip
    _text(folder, "tokenizer.json", json.dumps(content))
    _text(folder, "tokenizer_config.json", json.dumps({"eos_token": "</s>"}))


def _second(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(their_tokenizers.sentencepiece_model("bpe"))


@pytest.mark.parametrize("case", SPOILED)
def test_a_folder_that_is_not_supported_or_damaged_is_refused_by_name(
    hf: Path, refused: Callable[..., str], case: str
) -> None:
    change, says = SPOILED[case]
    change(hf)
    assert re.search(says, refused("hf", "--output", "out"))


def test_an_output_that_is_there_is_never_overwritten(hf: Path, refused: Callable[..., str]) -> None:
    Path("out").mkdir()
    assert "output folder out exists, and a tokenizer is never overwritten" in refused("hf", "--output", "out")
    Path("out").rmdir()
    assert main(["import", "hf", "--output", "out"]) == 0
    assert "is a tokenizer folder of ours already; --tokenizer out works" in refused("out", "--output", "again")


def test_a_missing_folder_is_refused_with_the_one_that_may_be_meant(hf: Path, refused: Callable[..., str]) -> None:
    works = re.search(r"hff does not exist; did you mean (.*)\?", refused("hff", "--output", "out"))
    assert works and main(["import", works[1], "--output", "out"]) == 0
    (hf.parent / "file").touch()
    assert "HF_DIR (file) must be a folder, and is not one" in refused("file", "--output", "new")


@pytest.mark.parametrize("is_null", [True, False])
def test_a_folder_that_names_no_end_of_documents_is_imported_with_the_option_in_the_message(
    hf: Path, refused: Callable[..., str], is_null: bool
) -> None:
    edit(hf, "tokenizer_config.json", lambda c: c.update(eos_token=None) if is_null else c.pop("eos_token"))
    said = refused("hf", "--output", "out")
    assert "does not say which token ends a document" in said
    advised = re.search(r"(--eos-token .*) works", said)
    assert advised and main(["import", "hf", "--output", "out", *shlex.split(advised[1])]) == 0
    assert load_tokenizer("out").eos_id == 900


@pytest.mark.parametrize(
    ("option", "token", "says"),
    [
        ("--eos-token", "<|none|>", "is not in the vocabulary"),
        ("--eos-token", "<think>", "is one that text may produce"),
        ("--bos-token", "a", "is one that text may produce"),
    ],
)
def test_a_token_that_may_not_frame_documents_is_refused_with_one_that_may(
    hf: Path, refused: Callable[..., str], option: str, token: str, says: str
) -> None:
    said = refused("hf", "--output", "out", option, token)
    assert f"{option} ({token!r}) must be a special token of the tokenizer, and {says}" in said
    advised = re.search(r"; (--\w+-token .*) works", said)
    assert advised and advised[1].startswith(option)
    assert main(["import", "hf", "--output", "out", *shlex.split(advised[1])]) == 0


def test_a_bos_of_the_users_own_starts_documents_once_it_is_asked_for(
    hf: Path, write_documents: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "hf", "--output", "out", "--bos-token", "<|im_start|>"]) == 0
    assert "BOS '<|im_start|>' (901, which documents start with if --bos says so)" in capfd.readouterr().out
    write_documents(Path("a.jsonl"), ["text"])
    words = ["encode", "--tokenizer", "out", "--input", "a.jsonl"]
    assert main([*words, "--output", "without"]) == main([*words, "--output", "with", "--bos"]) == 0


def test_a_hugging_face_folder_in_a_tokenizers_place_is_imported_by_the_command_in_the_message(
    hf: Path, write_documents: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    write_documents(Path("a.jsonl"), ["text"])
    words = ["encode", "--input", "a.jsonl", "--output", "x", "--tokenizer"]
    assert main([*words, "hf"]) == 2
    advised = re.search(r"`fanal tokenizer (.*)` makes one of it", capfd.readouterr().err)
    assert advised and main(shlex.split(advised[1])) == 0
    assert main([*words, "hf-imported"]) == 0


def test_a_library_that_is_not_the_tokenizers_own_is_refused_with_the_one_that_is(
    hf: Path, write_documents: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "hf", "--output", "out"]) == 0
    write_documents(Path("a.jsonl"), ["text"])
    words = ["encode", "--tokenizer", "out", "--input", "a.jsonl", "--output", "x", "--engine"]
    assert main([*words, "sentencepiece"]) == 2
    assert "'sentencepiece' does not define the ids of out; 'tokenizers' or 'auto' works" in capfd.readouterr().err
    assert main([*words, "tokenizers"]) == 0


def test_an_added_token_that_is_not_special_needs_a_tokenizer_json(tmp_path: Path, refused: Callable[..., str]) -> None:
    folder = their_tokenizers.spm_model(tmp_path / "hf")
    _text(folder, "added_tokens.json", json.dumps({"<tool>": 1200}))
    said = refused(str(folder), "--output", str(tmp_path / "out"))
    assert "adds the token '<tool>' (id 1200) to its tokenizer.model, and only added special tokens" in said
    assert "save_pretrained(...)" in said


def test_a_folder_without_tokenizer_json_is_imported_with_a_note_whose_ids_they_are(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = their_tokenizers.spm_model(tmp_path / "hf")
    assert main(["import", str(folder), "--output", str(tmp_path / "out")]) == 0
    said = capfd.readouterr()
    assert f"note: {folder} has no tokenizer.json, so its ids are SentencePiece's." in said.err
    assert "encoded by sentencepiece" in said.out


def test_without_the_library_shards_are_read_and_text_is_not_encoded(
    hf: Path, write_documents: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "hf", "--output", "out"]) == 0
    write_documents(Path("a.jsonl"), ["text"])
    words = ["encode", "--tokenizer", "out", "--input", "a.jsonl", "--output"]
    assert main([*words, "x"]) == 0

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert main(["verify", "x", "--tokenizer", "out", "--deep"]) == 0
    block_encoder.open_encoder.cache_clear()
    assert main([*words, "y"]) == 2
    assert "needs the library tokenizers, which cannot be imported" in capfd.readouterr().err
