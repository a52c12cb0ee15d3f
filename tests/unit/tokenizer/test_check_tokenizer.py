import hashlib
import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tokenizer.vocabulary.check import check_tokenizer, first_difference
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.spec import load_spec
from tokenizer.vocabulary.train import train_tokenizer

ROOT = Path(__file__).parents[3]


def test_real_text_comes_back_and_counts_agree_with_the_model(tokenizer_dir: Path, corpus: Path) -> None:
    inputs = [corpus / "validation" / "code.jsonl", corpus / "validation" / "prose.jsonl"]
    code, prose = check_tokenizer(tokenizer_dir, inputs)
    assert (code.name, prose.name) == ("code", "prose")
    for report in (code, prose):
        assert report.num_round_trip_failures == 0
        assert report.first_failure is None
        assert report.num_altered_documents == 0
        assert report.num_fast_differences in (0, None)
        assert 1.5 < report.bytes_per_token < 6
        assert report.byte_fallback_share < 0.05


def test_counts_by_domain_are_exact(tmp_path: Path, tokenizer_dir: Path, write_documents) -> None:
    rows = [{"text": "1 2 3", "domain": "numbers"}, {"text": "45", "domain": "numbers"}, {"text": "🙂"}]
    none, numbers = check_tokenizer(tokenizer_dir, [write_documents(tmp_path / "a.jsonl", rows)])
    num_tokens = len(load_tokenizer(tokenizer_dir).processor.Encode("1 2 3")) + 2
    assert (numbers.num_documents, numbers.num_bytes, numbers.num_words, numbers.num_tokens) == (2, 7, 4, num_tokens)
    assert numbers.bytes_per_token == pytest.approx(7 / num_tokens)
    assert numbers.fertility == pytest.approx(num_tokens / 4)
    assert numbers.byte_fallback_share == 0
    assert (none.name, none.num_byte_tokens, none.byte_fallback_share) == ("(none)", 4, 1.0)
    assert numbers.as_dict()["fertility"] == numbers.fertility


def test_the_one_character_that_does_not_survive_is_reported_with_its_place(
    tmp_path: Path, tokenizer_dir: Path, write_documents
) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["fine", "bar \u2581\u2582"])
    (report,) = check_tokenizer(tokenizer_dir, [path])
    assert report.num_round_trip_failures == 1
    assert report.first_failure == f"{path}:2: character 4: '\u2581\u2582' became ' \u2582'"


def test_the_first_difference_may_be_the_end() -> None:
    assert first_difference("abc", "ab") == "character 2: 'c' became ''"


def test_reports_by_language_take_the_domain_where_no_language_is_given(
    tmp_path: Path, tokenizer_dir: Path, write_documents
) -> None:
    rows = [{"text": "le chat", "domain": "fr"}, {"text": "the cat", "domain": "en"}, {"text": "x"}]
    reports = check_tokenizer(tokenizer_dir, [write_documents(tmp_path / "a.jsonl", rows)], by="language")
    assert [report.name for report in reports] == ["(none)", "en", "fr"]


def test_the_lucie_spec_in_small_gives_normalized_text_back_and_counts_what_it_altered(
    tmp_path: Path, corpus: Path, write_documents
) -> None:
    spec = load_spec(ROOT / "tokenizer/specs/lucie-65k.yaml")
    shares = {"code": 0.6, "prose": 0.4}
    inputs = [corpus / "train" / "code.jsonl", corpus / "train" / "prose.jsonl"]
    train_tokenizer(replace(spec, vocab_size=700, languages=shares), inputs, tmp_path / "out")
    path = write_documents(tmp_path / "a.jsonl", ["fine", "e\u0301\r\n", {"text": "\r\0", "domain": "nothing left"}])
    nothing, prose = check_tokenizer(tmp_path / "out", [path])
    assert (prose.num_documents, prose.num_altered_documents, prose.num_round_trip_failures) == (2, 1, 0)
    assert (nothing.num_tokens, nothing.num_altered_documents, nothing.num_round_trip_failures) == (0, 1, 0)
    assert (nothing.bytes_per_token, nothing.byte_fallback_share) == (None, None)
    tokenizer = load_tokenizer(tmp_path / "out")
    cut = [tokenizer.processor.IdToPiece(int(i)) for i in tokenizer.encode_batch(["\n\n  1\t\t2"], num_threads=1)[0]]
    assert cut == ["\n\n", "▁▁", "1", "\t\t", "2"]


def test_a_planted_fault_in_tokenizer_json_is_counted(tmp_path: Path, tokenizer_dir: Path, corpus: Path) -> None:
    pytest.importorskip("tokenizers")
    copy = tmp_path / "copy"
    shutil.copytree(tokenizer_dir, copy)
    content = json.loads((copy / "tokenizer.json").read_text())
    content["model"]["merges"].reverse()
    altered = json.dumps(content).encode()
    (copy / "tokenizer.json").write_bytes(altered)
    info = json.loads((copy / "tokenizer-info.json").read_text())
    del info["info_sha256"]
    info["fast_json_sha256"] = hashlib.sha256(altered).hexdigest()
    (copy / "tokenizer-info.json").write_text(json.dumps(info))
    (report,) = check_tokenizer(copy, [corpus / "validation" / "prose.jsonl"])
    assert report.num_fast_differences == report.num_documents


def test_without_the_tokenizers_library_nothing_is_compared(
    tmp_path: Path, tokenizer_dir: Path, write_documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (report,) = check_tokenizer(tokenizer_dir, [write_documents(tmp_path / "a.jsonl", ["fine"])])
    assert report.num_fast_differences is None
