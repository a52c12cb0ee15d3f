import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.documents.blocks import RawBlock
from tokenizer.documents.parse import Document
from tokenizer.vocabulary.sampling import LanguageSampler, count_characters, language_of
from tokenizer.vocabulary.spec import TokenizerSpec
from tokenizer.vocabulary.train import train_tokenizer

SPEC = TokenizerSpec(vocab_size=300, languages={"fr": 0.75, "en": 0.25})


def document(text: str, language: str | None) -> Document:
    block = RawBlock(path="a.jsonl", file_number=0, layout="json lines", data=b"", first=0, first_line=1)
    return Document(text, language, None, None, 0, block, 0)


def chosen(spec: TokenizerSpec, documents: list[Document]) -> tuple[list[str], LanguageSampler]:
    sampler = LanguageSampler(spec, count_characters(documents, spec))
    return list(sampler.choose(documents)), sampler


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.integers(2, 400),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_every_language_gives_its_share_to_the_character(french, english, training_characters: int, seed: int) -> None:
    largest = min(int(sum(french) / 0.75), int(sum(english) / 0.25))
    total = min(training_characters, largest)
    spec = replace(SPEC, training_characters=total if total >= 2 else None, seed=seed)
    texts, sampler = chosen(
        spec, [document("f" * n, "fr") for n in french] + [document("e" * n, "en") for n in english]
    )
    joined = "".join(texts)
    wanted = {name: min(sum(lengths), max(1, round(share * (total if total >= 2 else largest)))) for name, share, lengths in (("fr", 0.75, french), ("en", 0.25, english))}  # fmt: skip
    assert (joined.count("f"), joined.count("e")) == (wanted["fr"], wanted["en"])
    assert [(s.num_characters, s.num_available_characters) for s in sampler.samples()] == [(wanted["fr"], sum(french)), (wanted["en"], sum(english))]  # fmt: skip
    assert sum(s.num_documents for s in sampler.samples()) == len(texts)


def test_the_choice_is_spread_over_the_text_and_depends_on_the_seed_alone() -> None:
    documents = [document(chr(0x4E00 + number) * 10, "fr") for number in range(1000)] + [document("x", "en")] * 1000
    spec = replace(SPEC, training_characters=4000)
    first, _ = chosen(spec, documents)
    assert chosen(spec, documents)[0] == first
    assert chosen(replace(spec, seed=1), documents)[0] != first
    numbers = [ord(text[0]) - 0x4E00 for text in first if text != "x"]
    assert 290 < len(numbers) < 310
    for start in range(0, 1000, 250):
        assert 45 < sum(start <= number < start + 250 for number in numbers) < 105


def test_without_a_number_the_scarcest_language_is_taken_whole() -> None:
    texts, _ = chosen(SPEC, [document("f" * 10, "fr")] * 100 + [document("e" * 10, "en")] * 10)
    joined = "".join(texts)
    assert (joined.count("f"), joined.count("e")) == (300, 100)


def test_without_languages_training_characters_are_taken_from_all_text() -> None:
    spec = TokenizerSpec(vocab_size=300, training_characters=95)
    texts, _ = chosen(spec, [document("a" * 10, None)] * 50)
    assert sum(map(len, texts)) == 95


def test_the_characters_counted_are_those_that_preparation_leaves() -> None:
    spec = replace(SPEC, normalization="nfc", remove_characters=["\r"])
    counts = count_characters([document("e\u0301\r\n", "fr"), document("x", "en")], spec)
    assert counts == {"fr": 2, "en": 1}


def test_the_language_field_goes_before_the_domain() -> None:
    assert language_of(document("x", "prose")) == "prose"
    assert language_of(SimpleNamespace(language="fr", domain="prose")) == "fr"  # type: ignore[arg-type]
    assert language_of(SimpleNamespace(language=None, domain="prose")) == "prose"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("documents", "spec", "message"),
    [
        (
            [document("x", "fr")],
            SPEC,
            "languages names 'en', but the input has no text of it; add such documents",
        ),
        (
            [document("x", "de")],
            SPEC,
            "a.jsonl:1: the document has language 'de', but languages names fr, en; give it a share",
        ),
        ([document("x", None)], SPEC, "a.jsonl:1: the document has neither a language nor a domain"),
        (
            [document("x" * 90, "fr"), document("x" * 10, "en")],
            replace(SPEC, training_characters=100),
            "training_characters (100) wants 25 characters of 'en', a share of 0.25, but the input has 10; training_characters: 40 works",
        ),
    ],
)
def test_text_that_cannot_give_the_shares_is_refused(documents, spec: TokenizerSpec, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        chosen(spec, documents)
    assert message in str(caught.value)


def test_a_trained_folder_tells_what_each_language_gave(tmp_path: Path, write_documents) -> None:
    rows = [{"text": f"le chat {n} est sur le tapis", "domain": "fr"} for n in range(90)]
    rows += [{"text": f"the cat {n} sat on the mat", "domain": "en"} for n in range(90)]
    path = write_documents(tmp_path / "a.jsonl", rows)
    spec = replace(SPEC, training_characters=1600)
    tokenizer = train_tokenizer(spec, [path], tmp_path / "out")
    info = json.loads((tmp_path / "out" / "tokenizer-info.json").read_text())
    assert [(row["language"], row["num_characters"]) for row in info["languages"]] == [("fr", 1200), ("en", 400)]
    assert info["num_text_bytes"] == 1600
    assert [file["path"] for file in info["input_files"]] == [str(path)]
    again = train_tokenizer(spec, [path], tmp_path / "again")
    assert again.model_sha256 == tokenizer.model_sha256
    with pytest.raises(ValueError, match=r"languages names 'en', but the input has no text of it"):
        train_tokenizer(spec, [write_documents(tmp_path / "b.jsonl", rows[:90])], tmp_path / "none")
    assert not (tmp_path / "none").exists()
