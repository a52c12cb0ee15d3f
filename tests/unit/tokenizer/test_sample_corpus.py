import json
from pathlib import Path

import pytest

from tokenizer.documents.sample_corpus import docstrings, make_sample_corpus, module_name

NAMES = ["train/code.jsonl", "validation/code.jsonl", "train/prose.jsonl", "validation/prose.jsonl"]


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("smaller")
    make_sample_corpus(directory, max_bytes_per_domain=600_000)
    return directory


def test_the_same_call_gives_the_same_bytes(smaller: Path, tmp_path: Path) -> None:
    sizes = make_sample_corpus(tmp_path, max_bytes_per_domain=600_000)
    assert list(sizes) == NAMES
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (smaller / name).read_bytes()
        assert sum(len(row["text"].encode()) for row in rows(tmp_path / name)) == sizes[name]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")) == sorted(NAMES)


def test_a_larger_corpus_goes_on_where_a_smaller_one_stopped(smaller: Path, corpus: Path) -> None:
    for name in NAMES:
        few, many = rows(smaller / name), rows(corpus / name)
        assert many[: len(few)] == few
    assert sum(len(rows(corpus / name)) for name in NAMES) > sum(len(rows(smaller / name)) for name in NAMES)


def test_no_text_is_in_two_places_and_validation_prose_is_in_no_training_code(corpus: Path) -> None:
    texts = [row["text"] for name in NAMES for row in rows(corpus / name)]
    assert len(set(texts)) == len(texts)
    trained = {module_name(row["source"]) for row in rows(corpus / "train/code.jsonl")}
    validation = {row["source"] for row in rows(corpus / "validation/prose.jsonl")}
    assert trained
    assert validation
    assert not trained & validation


def test_documents_are_labelled_and_neither_tests_nor_tiny(corpus: Path) -> None:
    for name in NAMES:
        for row in rows(corpus / name):
            assert row["domain"] == name.split("/")[1].removesuffix(".jsonl")
            assert row["licence"] == "PSF-2.0"
            assert not {"test", "tests", "site-packages"} & set(row["source"].split("/"))
            assert not row["source"].startswith("/")
            assert len(row["text"]) >= 200


def test_the_limit_holds_and_the_validation_share_is_near_one_in_twenty(tmp_path: Path) -> None:
    make_sample_corpus(tmp_path, max_bytes_per_domain=4_000_000)
    for domain in ("code", "prose"):
        train, validation = rows(tmp_path / f"train/{domain}.jsonl"), rows(tmp_path / f"validation/{domain}.jsonl")
        assert sum(len(row["text"].encode()) for row in train + validation) <= 4_000_000
        assert 0.01 < len(validation) / len(train + validation) < 0.12


def test_too_small_a_limit_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_bytes_per_domain \(1000\) leaves no document for .*; 4000000 is enough"):
        make_sample_corpus(tmp_path / "out", max_bytes_per_domain=1000)
    assert not (tmp_path / "out").exists()


def test_docstrings_of_a_module_are_one_document_under_qualified_names() -> None:
    source = '"""Top."""\nclass A:\n    """Of A."""\n    def f(self):\n        """Of f.\n\n        More."""\nx = "no"\n'
    assert docstrings(source, "pkg.mod") == "pkg.mod\n\nTop.\n\npkg.mod.A\n\nOf A.\n\npkg.mod.A.f\n\nOf f.\n\nMore.\n"
    assert docstrings("x = 1\n", "m") == ""
    assert module_name("json/__init__.py") == "json"
    assert module_name("json/decoder.py") == "json.decoder"
