"""Labels of documents: one for all from the command line, or one in every document."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fanal.errors import UserError
from tests.unit.tokenizer.manifests import edit_manifest
from tokenizer.encoding.encode import encode
from tokenizer.shards.labels import Labels, label_problem
from tokenizer.shards.manifest import read_manifest
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


TAGS = ("fr", "en", "zh-Hant", "fra-Latn", "sr-Latn-RS", "es-419", "de-1901", "zh-yue-HK", "en-u-ca-gregory", "x-python", "code",
        "de-CH-x-phonebk", "und", "zxx", "mul", "EN-gb")  # fmt: skip
NO_TAGS = ("C++", "JavaScript", "en_US", "eng_Latn", "f", "", " fr", "fr ", "fr\nlicense: mit", "fr-", "zh-Hant-Hant", "été",
           "fr\u202e", "<script>", "no, en", "en-1", "fr\x1b[2J")  # fmt: skip


def test_a_language_is_a_tag_of_bcp_47() -> None:
    assert not [tag for tag in TAGS if label_problem("language", tag)]
    assert [tag for tag in NO_TAGS if label_problem("language", tag)] == list(NO_TAGS)


@pytest.mark.parametrize("name", ["domain", "licence", "language", "source"])
def test_a_label_of_two_lines_is_refused_wherever_it_comes_from(name: str, tmp_path: Path, tokenizer_dir: Path) -> None:
    for label in ("fr\nlicense: mit", "fr\x1b[2J", "fr\u2028x", "fr\u202ex", "x" * 1001, "\udcff"):
        with pytest.raises(UserError, match=rf"^--{name} \('.*must be one line of .*--{name} \w+ works$"):
            Labels(**{name: label})
        if name == "source":
            continue  # no field of a document
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps({"text": "x"}) + "\n" + json.dumps({"text": "y", name: label}) + "\n")
        with pytest.raises(
            UserError, match=rf"{name} .*must be one line|field '{name}'|surrogate|differ|UTF-8|is not given, but"
        ):
            encode(tokenizer_dir, [path], tmp_path / "refused")
        path.write_text(json.dumps({"text": "y", name: label}) + "\n")
        with pytest.raises(UserError, match=r"a.jsonl:1: "):
            encode(tokenizer_dir, [path], tmp_path / "refused")
        assert not list(tmp_path.glob("refused*"))


def test_documents_with_the_names_of_programming_languages_are_encoded_as_the_refusal_advises(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x", "language": name}) + "\n" for name in ("C++", "Python")))
    with pytest.raises(
        UserError, match=r"a.jsonl:1: language \('C\+\+'\) must be a language tag .* --language zxx works"
    ):
        encode(tokenizer_dir, [path], tmp_path / "refused")
    assert encode(tokenizer_dir, [path], tmp_path / "made", labels=Labels(language="zxx")).manifest.language == "zxx"


def test_labels_in_any_writing_are_kept(tmp_path: Path, tokenizer_dir: Path) -> None:
    said = {
        "domain": "الأدب",
        "licence": "Apache-2.0 OR MIT",
        "source": "Projet Gutenberg\u00a0: «\u200cprose\u200d» 中文",
        "language": "fa",
    }
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    encode(tokenizer_dir, [tmp_path / "a.jsonl"], tmp_path / "made", labels=Labels(**said))
    manifest = read_manifest(tmp_path / "made")
    assert {name: getattr(manifest, name) for name in said} == said


def test_a_shard_of_yesterday_with_any_label_opens(tmp_path: Path, tokenizer_dir: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    encode(tokenizer_dir, [tmp_path / "a.jsonl"], tmp_path / "made")
    edit_manifest(tmp_path / "made", language="fr\nlicense: mit", source="\x1b[2J")
    assert read_manifest(tmp_path / "made").language == "fr\nlicense: mit"
