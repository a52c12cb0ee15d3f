from pathlib import Path

import pytest

import tokenizer
from tokenizer.spec import TokenizerSpec, load_spec, spec_as_yaml

TINY = Path(tokenizer.__file__).parent / "specs" / "tiny-2k.yaml"


def test_the_shipped_spec_loads_with_newlines_and_tabs_as_symbols() -> None:
    spec = load_spec(TINY)
    assert spec.vocab_size == 2000
    assert spec.normalization == "identity"
    assert spec.user_defined_symbols == ["\n", "\n\n", "\t", "\t\t", "\t\t\t", "\t\t\t\t"]


def test_a_spec_written_out_reads_back_equal(tmp_path: Path) -> None:
    spec = TokenizerSpec(vocab_size=7, user_defined_symbols=["\n", " ", "é", "yes", "1"], character_coverage=1.0)
    path = tmp_path / "spec.yaml"
    path.write_text(spec_as_yaml(spec), encoding="utf-8")
    assert load_spec(path) == spec


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("vocabsize: 3", "Did you mean: 'vocab_size'?"),
        ("split_digits: true", "missing mandatory value: vocab_size"),
        ("vocab_size: many", "'many' of type 'str' could not be converted to Integer"),
        ("vocab_size: 0", "vocab_size (0) must be at least 1"),
        ("vocab_size: 9\nvocab_size: 8", "duplicate key vocab_size"),
        ("vocab_size: 9\nnormalization: nfc", "nfc"),
        ("vocab_size: 9\ncharacter_coverage: 1.5", "character_coverage (1.5) must be in (0, 1]"),
        ("vocab_size: 9\nmax_piece_length: 0", "max_piece_length (0) must be at least 1"),
        ("vocab_size: 9\nuser_defined_symbols: ['<s>']", "user_defined_symbols holds '<s>'"),
        ("vocab_size: 9\nreserved_tokens: ['<0x0A>']", "reserved_tokens holds '<0x0A>'"),
        ("vocab_size: 9\nuser_defined_symbols: [a]\nreserved_tokens: [a]", "reserved_tokens holds 'a'"),
        ("- 1", "found a list"),
        ("a: [", "cannot be read as YAML"),
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
    with pytest.raises(ValueError, match=r"none\.yaml does not exist; a small one is tokenizer/specs/tiny-2k\.yaml"):
        load_spec(tmp_path / "none.yaml")
