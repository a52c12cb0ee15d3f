import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.vocabulary.normalize import normalize, prepare_text

MARKS = [chr(code) for code in range(0x110000) if unicodedata.combining(chr(code))]
DECOMPOSABLE = [chr(code) for code in range(0x110000) if unicodedata.decomposition(chr(code))]
JAMO = [chr(code) for code in (*range(0x1100, 0x1200), *range(0xAC00, 0xAC40))]


def mixtures(num_texts: int, seed: int) -> list[str]:
    """Short texts of marks in any order, characters that decompose, jamo, and characters of every age."""
    draw = random.Random(seed)
    kinds = [MARKS, MARKS, DECOMPOSABLE, JAMO, [chr(code) for code in (*range(0x20, 0x3000), *range(0x10000, 0x12000))]]
    return ["".join(draw.choice(draw.choice(kinds)) for _ in range(draw.randrange(2, 8))) for _ in range(num_texts)]


@pytest.mark.parametrize(("normalization", "form"), [("nfc", "NFC"), ("nfkc", "NFKC")])
def test_the_rules_are_those_of_the_tokenizers_library_for_every_character_and_mixture(
    normalization, form: str
) -> None:
    library = pytest.importorskip("tokenizers")
    theirs = getattr(library.normalizers, form)()
    single = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for text in [*single, *mixtures(100_000, seed=1)]:
        assert normalize(text, normalization) == theirs.normalize_str(text), ascii(text)


@given(
    st.text(st.characters(max_codepoint=0x5FF, exclude_categories=["Cs"]) | st.sampled_from("각힣\u1100\u1161\u11a8Å"))
)
@settings(deadline=None)
def test_letters_and_marks_of_long_standing_get_the_normal_form_of_any_unicode(text: str) -> None:
    assert normalize(text, "nfc") == unicodedata.normalize("NFC", text)
    assert normalize(text, "nfkc") == unicodedata.normalize("NFKC", text)
    assert normalize(text, "identity") == text


def test_normalizing_twice_changes_nothing() -> None:
    for text in mixtures(20_000, seed=2):
        for normalization in ("nfc", "nfkc"):
            once = normalize(text, normalization)
            assert normalize(once, normalization) == once, ascii(text)


def test_marks_are_sorted_but_not_across_a_character_that_came_after_unicode_9() -> None:
    assert normalize("q\u0301\u0323", "nfc") == "q\u0323\u0301"
    newer = "\U00011d97"  # Gunjala Gondi virama, Unicode 11
    assert normalize(f"e\u0301{newer}\u0323", "nfc") == f"é{newer}\u0323"


def test_characters_are_removed_before_normalization_so_that_what_they_parted_is_joined() -> None:
    assert prepare_text("a\r\ne\0\u0301", normalization="nfc", remove_characters=["\r", "\0"]) == "a\né"
    assert prepare_text("\r\0", normalization="identity", remove_characters=["\r", "\0"]) == ""
