import errno
import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanal.errors import PassingError, UserError
from tokenizer.vocabulary.load import Tokenizer, load_tokenizer
from tokenizer.vocabulary.spec import TokenizerSpec, load_spec
from tokenizer.vocabulary.train import MAX_SENTENCE_BYTES, split_sentences, train_tokenizer

WORDS = "the cat sat on the mat and the dog lay by the log"


@pytest.fixture(scope="module")
def small(tokenizer_dir: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_dir)


def pieces(tokenizer) -> list[str]:
    return [tokenizer.processor.IdToPiece(i) for i in range(tokenizer.vocab_size)]


def test_special_ids_come_first_and_then_reserved_and_user_defined_symbols(tokenizer_dir: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_dir)
    assert pieces(tokenizer)[:9] == ["<s>", "</s>", "<unk>", "<pad>", "<turn>", "\n", "\n\n", "\t", "▁▁▁▁"]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id) == (0, 1, 2, 3)
    assert tokenizer.control_ids == (0, 1, 3, 4)
    assert tokenizer.vocab_size == 600


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
@settings(deadline=None)  # time says nothing here, and another process may hold the cores
def test_every_text_comes_back_to_the_letter(small: Tokenizer, text: str) -> None:
    (ids,) = small.encode_batch([text], num_threads=1)
    assert small.decode(ids.tolist()) == text


@pytest.mark.parametrize(
    "text", ["  a \t\t b\n\n\n", "\r\n", "\0", "a\u3000\xa0b", " ", "\n \n", "        x", "e\u0301 \ufb01 \uff21"]
)
def test_whitespace_control_characters_and_unnormalized_letters_come_back(tokenizer_dir: Path, text: str) -> None:
    tokenizer = load_tokenizer(tokenizer_dir)
    (ids,) = tokenizer.encode_batch([text], num_threads=1)
    assert tokenizer.decode(ids.tolist()) == text


@pytest.mark.parametrize("split", [True, False])
def test_digits_are_cut_one_by_one_if_the_spec_says_so(tmp_path: Path, write_documents, split: bool) -> None:
    path = write_documents(tmp_path / "a.jsonl", [WORDS, "2024" + " 2024" * 100])
    tokenizer = train_tokenizer(TokenizerSpec(vocab_size=280, split_digits=split), [path], tmp_path / "out")
    cut = tokenizer.processor.EncodeAsPieces("2024")
    assert (cut == ["2", "0", "2", "4"]) is split


def test_a_symbol_written_with_spaces_is_one_token(tokenizer_dir: Path) -> None:
    processor = load_tokenizer(tokenizer_dir).processor
    assert processor.EncodeAsPieces("\n    x") == ["\n", "▁▁▁▁", "x"]


def test_training_twice_gives_the_same_bytes_in_any_folder_with_any_threads(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TokenizerSpec(vocab_size=500)
    inputs = [corpus / "validation" / "code.jsonl"]
    first = train_tokenizer(spec, inputs, tmp_path / "a")
    second = train_tokenizer(spec, inputs, tmp_path / "deeper" / "b")
    assert first.model_sha256 == second.model_sha256
    for name in ("spec.yaml", "tokenizer.json", "tokenizer-info.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "deeper" / "b" / name).read_bytes()
    monkeypatch.setattr("tokenizer.vocabulary.train.NUM_THREADS", 1)
    third = train_tokenizer(spec, inputs, tmp_path / "c")
    assert pieces(third) == pieces(first)
    assert [third.processor.GetScore(i) for i in range(500)] == [first.processor.GetScore(i) for i in range(500)]


def test_the_folder_tells_what_it_was_trained_from(tokenizer_dir: Path, corpus: Path) -> None:
    info = json.loads((tokenizer_dir / "tokenizer-info.json").read_text())
    assert [file["path"] for file in info["input_files"]] == [
        str(corpus / "train" / f"{d}.jsonl") for d in ("code", "prose")
    ]
    assert info["num_documents"] == sum(len(Path(f["path"]).read_bytes().splitlines()) for f in info["input_files"])
    assert load_spec(tokenizer_dir / "spec.yaml").reserved_tokens == ["<turn>"]
    names = ["spec.yaml", "tokenizer-info.json", "tokenizer.json", "tokenizer.model"]
    assert sorted(p.name for p in tokenizer_dir.iterdir()) == names
    for file in info["input_files"]:
        assert file["block_sha256"] == [hashlib.sha256(Path(file["path"]).read_bytes()).hexdigest()]
    described = {"spec.yaml": "spec", "tokenizer.json": "fast_json", "tokenizer.model": "model"}
    for name, key in described.items():
        assert info[f"{key}_sha256"] == hashlib.sha256((tokenizer_dir / name).read_bytes()).hexdigest()
    assert [p.name for p in tokenizer_dir.parent.iterdir()] == ["small"]


@pytest.mark.parametrize(
    "text",
    [
        "x" * (2 * MAX_SENTENCE_BYTES) + " zebra" * 50,  # one line far above SentencePiece's limit
        "\u2585 zebra zebra zebra zebra",  # a line with SentencePiece's own mark
        "\0 zebra zebra zebra zebra",
        "\t zebra zebra zebra zebra",
    ],
)
def test_no_document_is_left_out_of_training(tmp_path: Path, write_documents, text: str) -> None:
    path = write_documents(tmp_path / "a.jsonl", [WORDS, *[text] * 3])
    spec = TokenizerSpec(vocab_size=280, character_coverage=1.0)
    tokenizer = train_tokenizer(spec, [path], tmp_path / "out")
    assert any("z" in piece for piece in pieces(tokenizer))


@given(st.text(st.sampled_from("ab \né🙂")), st.integers(min_value=4, max_value=12))
def test_sentences_join_to_the_text_and_keep_to_the_limit(text: str, max_bytes: int) -> None:
    parts = list(split_sentences(text, max_bytes))
    assert "".join(parts) == text
    assert all(len(part.encode()) <= max_bytes for part in parts)


def test_sentences_are_cut_after_line_ends_then_before_spaces() -> None:
    assert list(split_sentences("ab\ncd\nef gh", 7)) == ["ab\ncd\n", "ef gh"]
    assert list(split_sentences("ab cd efg", 7)) == ["ab cd", " efg"]
    assert list(split_sentences("ééé", 5)) == ["éé", "é"]


def test_an_existing_output_is_refused_and_left_alone(tmp_path: Path, write_documents) -> None:
    path = write_documents(tmp_path / "a.jsonl", [WORDS])
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"out exists, and a tokenizer is never overwritten .* name another --output"):
        train_tokenizer(TokenizerSpec(vocab_size=290), [path], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_too_large_a_vocabulary_is_refused_with_a_size_that_works(tmp_path: Path, write_documents) -> None:
    path = write_documents(tmp_path / "a.jsonl", [WORDS])
    with pytest.raises(ValueError, match=r"vocab_size \(9000\) .* it gives at most \d+ tokens; vocab_size: \d+ works"):
        train_tokenizer(TokenizerSpec(vocab_size=9000), [path], tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_broken_line_is_named_and_not_hidden_by_the_trainer(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"txt": "no"}\n')
    with pytest.raises(ValueError, match=r"^\S*a\.jsonl:2: field 'text' must be a string"):
        train_tokenizer(TokenizerSpec(vocab_size=290), [path], tmp_path / "out")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_disk_that_fails_while_input_is_read_is_not_hidden_by_the_trainer(
    tmp_path: Path, write_documents, failing_input: Callable[[BaseException], None], suffix: str
) -> None:
    path = write_documents(tmp_path / "a.jsonl", [WORDS] * 50)
    if suffix:
        path = path.rename(tmp_path / f"a.jsonl{suffix}")
        path.write_bytes(gzip.compress(path.read_bytes()))
    failing_input(OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(PassingError, match=f"^{path} cannot be read: Input/output error"):
        train_tokenizer(TokenizerSpec(vocab_size=280), [path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [MemoryError("no more"), KeyboardInterrupt(), SystemExit(143), RuntimeError("ours")])
def test_what_ends_the_reading_of_input_comes_through_the_trainer_as_itself(
    tmp_path: Path, write_documents, failing_input: Callable[[BaseException], None], error: BaseException
) -> None:
    path = write_documents(tmp_path / "a.jsonl", [WORDS] * 50)
    failing_input(error)
    with pytest.raises(type(error)) as caught:
        train_tokenizer(TokenizerSpec(vocab_size=280), [path], tmp_path / "out")
    assert caught.value is error


def test_an_altered_or_missing_model_is_refused_by_name(tmp_path: Path, tokenizer_dir: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tokenizer_dir, copy)
    model = bytearray((copy / "tokenizer.model").read_bytes())
    model[len(model) // 2] ^= 1
    (copy / "tokenizer.model").write_bytes(model)
    with pytest.raises(
        ValueError, match=r"tokenizer\.model has sha256 \w+, but tokenizer-info\.json says \w+: it was alt"
    ):
        load_tokenizer(copy)
    (copy / "tokenizer.model").unlink()
    with pytest.raises(
        ValueError, match=r"tokenizer\.model cannot be read \(No such file or directory\); train it again"
    ):
        load_tokenizer(copy)
    (copy / "tokenizer-info.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer-info\.json does not exist; train it again"):
        load_tokenizer(copy)
    with pytest.raises(ValueError, match=r"none does not exist"):
        load_tokenizer(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file is not a folder; train it again with `fanal tokenizer train`"):
        load_tokenizer(tmp_path / "file")


def test_an_info_file_with_other_ids_than_the_model_is_refused(tmp_path: Path, tokenizer_dir: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tokenizer_dir, copy)
    info = json.loads((copy / "tokenizer-info.json").read_text())
    (copy / "tokenizer-info.json").write_text(json.dumps(info | {"vocab_size": 601}))
    with pytest.raises(ValueError, match=r"has vocab_size 600, but tokenizer-info\.json says 601"):
        load_tokenizer(copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "spec.yaml"])
def test_an_altered_or_missing_spec_or_tokenizer_json_is_refused_by_name(
    tmp_path: Path, tokenizer_dir: Path, name: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tokenizer_dir, copy)
    (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
    with pytest.raises(ValueError, match=rf"{name} has sha256 \w+, but tokenizer-info\.json says \w+: it was altered"):
        load_tokenizer(copy)
    (copy / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} cannot be read \(No such file or directory\); train it again"):
        load_tokenizer(copy)


def test_every_flipped_bit_of_the_info_file_is_refused_and_one_without_a_hash_opens(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tokenizer_dir, copy)
    path = copy / "tokenizer-info.json"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(UserError, match="tokenizer-info"):
            load_tokenizer(copy)
    path.write_bytes(content.replace(b'"num_documents": ', b'"num_documents": 1'))
    with pytest.raises(
        UserError, match=r"tokenizer-info\.json has content with sha256 \w+, but says \w+: it was altered"
    ):
        load_tokenizer(copy)
    path.write_text(json.dumps({name: value for name, value in json.loads(content).items() if name != "info_sha256"}))
    load_tokenizer(copy)


def test_a_folder_of_another_format_is_refused(tmp_path: Path, tokenizer_dir: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tokenizer_dir, copy)
    info = json.loads((copy / "tokenizer-info.json").read_text())
    (copy / "tokenizer-info.json").write_text(json.dumps(info | {"format_version": 3}))
    with pytest.raises(ValueError, match=r"format_version 3, but this program reads 2; train it again"):
        load_tokenizer(copy)


def test_encoding_prepares_text_as_training_did(tmp_path: Path, write_documents) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["cafe\u0301 cafe\u0301\r\n" * 50])
    spec = TokenizerSpec(vocab_size=270, normalization="nfc", remove_characters=["\r", "\0"], character_coverage=1.0)
    tokenizer = train_tokenizer(spec, [path], tmp_path / "out")
    assert "é" in "".join(pieces(tokenizer))
    assert "\u0301" not in "".join(pieces(tokenizer))
    composed, decomposed, nothing = tokenizer.encode_batch(["é\n", "e\r\0\u0301\n", "\r"], num_threads=1)
    assert composed.tolist() == decomposed.tolist()
    assert nothing.tolist() == []
    assert tokenizer.decode(decomposed.tolist()) == "é\n"
