from pathlib import Path

import pytest

from tokenizer.check import check_tokenizer, first_difference
from tokenizer.load import load_tokenizer


def test_real_text_comes_back_and_counts_agree_with_the_model(tokenizer_dir: Path, corpus: Path) -> None:
    inputs = [corpus / "held_out" / "code.jsonl", corpus / "held_out" / "prose.jsonl"]
    code, prose = check_tokenizer(tokenizer_dir, inputs)
    assert (code.domain, prose.domain) == ("code", "prose")
    for report in (code, prose):
        assert report.num_round_trip_failures == 0
        assert report.first_failure is None
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
    assert (none.domain, none.num_byte_tokens, none.byte_fallback_share) == ("(none)", 4, 1.0)
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
