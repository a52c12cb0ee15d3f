from pathlib import Path

import pytest

import tokenizer
from tokenizer.vocabulary.spec import TokenizerSpec, load_spec, spec_as_yaml

TINY = Path(tokenizer.__file__).parent / "specs" / "tiny-2k.yaml"


def test_the_shipped_spec_loads_with_newlines_and_tabs_as_symbols() -> None:
    spec = load_spec(TINY)
    assert spec.vocab_size == 2000
    assert spec.normalization == "identity"
    assert spec.user_defined_symbols == ["\n", "\n\n", "\t", "\t\t", "\t\t\t", "\t\t\t\t"]


def test_the_lucie_spec_has_its_published_size_symbols_and_shares() -> None:
    spec = load_spec(TINY.parent / "lucie-65k.yaml")
    assert spec.vocab_size == 65024
    assert (spec.normalization, spec.remove_characters, spec.split_digits) == ("nfc", ["\r", "\0"], True)
    assert set(spec.user_defined_symbols) == {"\n", "\n\n", *("\t" * n for n in range(1, 5)), *(" " * n for n in range(2, 9))}  # fmt: skip
    assert spec.languages == {"fr": 0.386, "en": 0.361, "code": 0.129, "de": 0.045, "es": 0.044, "it": 0.035}
    assert len(spec.reserved_tokens) == 32


def test_a_spec_written_out_reads_back_equal(tmp_path: Path) -> None:
    spec = TokenizerSpec(
        vocab_size=7,
        user_defined_symbols=["\n", " ", "é", "yes", "1"],
        character_coverage=1.0,
        remove_characters=["\r", "\0", "\x85"],
        languages={"no": 0.5, "1": 0.25, "fr": 0.25},
        training_characters=10,
    )
    path = tmp_path / "spec.yaml"
    path.write_text(spec_as_yaml(spec), encoding="utf-8")
    assert load_spec(path) == spec


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("vocabsize: 3", "Did you mean: 'vocab_size'?"),
        ("split_digits: true", "missing mandatory value: vocab_size"),
        ("vocab_size: many", "'many' of type 'str' could not be converted to Integer"),
        ("vocab_size: 0", "vocab_size (0) must be from 1 to 2147483647"),
        ("vocab_size: 9\nvocab_size: 8", "duplicate key vocab_size"),
        ("vocab_size: 9\nnormalization: nfd", "nfd"),
        ("vocab_size: 9\ncharacter_coverage: 1.5", "character_coverage (1.5) must be in (0, 1]"),
        ("vocab_size: 9\nmax_piece_length: 0", "max_piece_length (0) must be at least 1"),
        ("vocab_size: 9\nuser_defined_symbols: ['<s>']", "user_defined_symbols holds '<s>'"),
        ("vocab_size: 9\nreserved_tokens: ['<0x0A>']", "reserved_tokens holds '<0x0A>'"),
        ("vocab_size: 9\nuser_defined_symbols: [a]\nreserved_tokens: [a]", "reserved_tokens holds 'a'"),
        ("vocab_size: 9\nreserved_tokens: ['☺']", "reserved_tokens holds '☺', a single character"),
        (
            "vocab_size: 9\nuser_defined_symbols: [' ', '▁']",
            "user_defined_symbols holds '▁', which is empty, given twice",
        ),
        (
            'vocab_size: 9\nuser_defined_symbols: ["\\r\\n"]\nremove_characters: ["\\r"]',
            "user_defined_symbols holds '\\r\\n', which no text holds",
        ),
        ('vocab_size: 9\nnormalization: nfc\nuser_defined_symbols: ["e\\u0301"]', "normalization nfc are done; 'é' is"),
        ("vocab_size: 9\nremove_characters: [ab]", "remove_characters holds 'ab', which is not one character"),
        (
            "vocab_size: 9\nremove_characters: [a, a]",
            "remove_characters holds 'a', which is not one character or is given",
        ),
        ("vocab_size: 9\nlanguages: {fr: 0.5, en: 0.3}", "add up to 0.8; they must add up to 1, for example fr: 0.625"),
        ("vocab_size: 9\nlanguages: {fr: 1.0, en: 0.0}", "languages gives 'en' a share of 0.0; a share is in (0, 1]"),
        ("vocab_size: 9\ntraining_characters: 0", "training_characters (0) must be at least 1"),
        ("- 1", "found a list"),
        ("a: [", "cannot be read as YAML"),
        ("vocab_size: 9\nlanguages: [fr, en]", "has the form of each key"),
        (f"vocab_size: 9\ncharacter_coverage: 1{400 * '0'}", "int too large to convert to float"),
    ],
)
def test_a_bad_spec_is_refused_with_file_and_reason(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(content)
    with pytest.raises(ValueError) as caught:
        load_spec(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_spec_is_refused_and_a_working_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"none\.yaml does not exist; .*tokenizer/specs/tiny-2k\.yaml is a small one that works"
    ):
        load_spec(tmp_path / "none.yaml")
