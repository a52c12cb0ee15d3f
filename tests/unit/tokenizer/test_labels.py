"""Labels of documents: one for all from the command line, or one in every document."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fanal.errors import UserError
from tokenizer.encoding.encode import encode
from tokenizer.shards.labels import Labels
from tokenizer.vocabulary.check import check_tokenizer
from tokenizer.vocabulary.spec import TokenizerSpec
from tokenizer.vocabulary.train import train_tokenizer


@pytest.mark.parametrize("label", ["domain", "licence", "language"])
def test_a_label_said_for_all_is_not_asked_of_each_document(tmp_path: Path, tokenizer_dir: Path, label: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x", label: ["MIT"]}) + "\n" + json.dumps({"text": "y", label: "other"}) + "\n")
    rows = {"text": ["x", "y"], label: [["MIT"], ["other"]]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    for number, given in enumerate([path, tmp_path / "a.parquet"]):
        manifest = encode(tokenizer_dir, [given], tmp_path / str(number), labels=Labels(**{label: "ours"})).manifest
        assert (manifest.num_documents, getattr(manifest, label)) == (2, "ours")
        with pytest.raises(
            UserError, match=rf"field '{label}' must be a string if given, found an array; .* `encode --{label} "
        ):
            encode(tokenizer_dir, [given], tmp_path / "none")


def test_a_label_that_no_command_needs_is_not_asked_for(tmp_path: Path, tokenizer_dir: Path) -> None:
    odd = {"domain": 1, "licence": ["MIT"], "language": {"is": "en"}}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"the cat {n} sat"} | odd) + "\n" for n in range(50)))
    train_tokenizer(TokenizerSpec(vocab_size=280), [path], tmp_path / "tokenizer")
    with pytest.raises(UserError, match="field 'domain' must be a string if given, found an integer"):
        train_tokenizer(TokenizerSpec(vocab_size=280, languages={"en": 1.0}), [path], tmp_path / "other")
    path.write_text(json.dumps({"text": "x", "domain": "d", "licence": ["MIT"], "language": 5}) + "\n")
    assert [report.name for report in check_tokenizer(tokenizer_dir, [path])] == ["d"]


def test_labels_that_differ_are_told_apart_in_words(tmp_path: Path, tokenizer_dir: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x", "licence": "MIT"}\n{"text": "y"}\n')
    with pytest.raises(
        UserError, match=r"a.jsonl:2: licence is not given, but 'MIT' at .*a.jsonl:1; .*say --licence NAME"
    ) as told:
        encode(tokenizer_dir, [path], tmp_path / "x")
    assert "None" not in str(told.value)
