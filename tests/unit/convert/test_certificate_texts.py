"""What both models read: as much as there is, and as fits."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pretrain.config.schema import ModelConfig
from pretrain.convert.certificate import texts as module
from pretrain.convert.certificate.texts import LONGEST_TEXT, certificate_texts, check_samples

MODEL = ModelConfig(
    num_layers=2, hidden_size=8, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, vocab_size=50
)
TOKEN_BYTES = 4 * 6 * 8 + 4 * 4 * 24


def memory(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setattr(module, "host_memory", lambda: SimpleNamespace(available_bytes=num_bytes))


def source_of(seq_length: int, *num_samples: int) -> Any:
    """As much of an ExportSource as is read, with a validation shard of so many samples each, or none."""
    sources = [
        SimpleNamespace(
            order=SimpleNamespace(chunks_per_epoch=count),
            start_token=lambda rank: rank * seq_length,
            shard=SimpleNamespace(
                tokens=np.full(count * seq_length + 1, number),
                prefix=SimpleNamespace(name=f"shard {number}"),
                num_tokens=count * seq_length + 1,
                documents_in=lambda first, last: [],
            ),
        )
        for number, count in enumerate(num_samples)
    ]
    return SimpleNamespace(
        model=MODEL,
        seq_length=seq_length,
        sources=SimpleNamespace(validation=sources, train=[]) if sources else None,
        tokenizer=SimpleNamespace(encode=None, vocab_size=50, eos_id=[7, 9]),
    )


def test_a_length_that_nothing_holds_is_cut_and_the_text_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    memory(monkeypatch, 1 << 40)
    texts = certificate_texts(source_of(2**31 - 1), num_samples=4)
    assert texts[-1].name == "text of 32768 tokens (the full length, 2147483647, was not compared)"
    assert len(texts[-1].ids) == LONGEST_TEXT and texts[-2].ids[25] == 7, "the first of several EOS ends the document"
    memory(monkeypatch, 2 * 1000 * TOKEN_BYTES)
    assert len(certificate_texts(source_of(4096), num_samples=4)[-1].ids) == 1000
    (full,) = [text for text in certificate_texts(source_of(900), num_samples=4) if "full length" in text.name]
    assert full.name == "text of full length, 900 tokens" and len(full.ids) == 900
    memory(monkeypatch, 0)
    assert len(certificate_texts(source_of(4096), num_samples=4)[-1].ids) == 50, "what is there is read"


def test_more_samples_than_there_are_is_said_and_all_of_them_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory(monkeypatch, 1 << 40)
    monkeypatch.setattr(module, "check_tokens", lambda shard, start, count: None)  # these shards have no files
    source = source_of(8, 5, 2)
    check_samples(source, 100_000_000)
    said = capsys.readouterr().err
    assert (
        "--samples (100,000,000) is more than the 7 samples of 8 tokens in the validation text; all of them are compared"
        in said
    )
    texts = certificate_texts(source, num_samples=100_000_000)
    assert [text.name.split(",")[0] for text in texts[:7]] == [f"shard {n}" for n in (0, 1, 0, 1, 0, 0, 0)]
    check_samples(source, 6)
    check_samples(source_of(8), 100_000_000)
    assert capsys.readouterr().err == ""


def test_samples_that_do_not_fit_are_refused_with_a_number_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(8, 50)
    memory(monkeypatch, 2 * 8 * (10 * 4 * 6 * 8 + 4 * 4 * 24))
    check_samples(source, 10)
    with pytest.raises(ValueError, match=r"--samples \(11\) needs 19,968 bytes .* may take 18,432 bytes, .*; 10 works"):
        check_samples(source, 11)
    memory(monkeypatch, 0)
    check_samples(source, 1)
