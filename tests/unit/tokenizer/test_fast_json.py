"""tokenizer.json against SentencePiece: the same ids for real text, for texts made to break it, and for random ones."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.vocabulary.fast_json import last_parts, merges
from tokenizer.vocabulary.load import Tokenizer
from tokenizer.vocabulary.spec import TokenizerSpec, load_spec
from tokenizer.vocabulary.train import train_tokenizer

library = pytest.importorskip("tokenizers")

LUCIE = replace(load_spec(Path(__file__).parents[3] / "tokenizer/specs/lucie-65k.yaml"), languages={})
SPECS = {
    "lucie": replace(LUCIE, vocab_size=1000),
    "nfkc": replace(LUCIE, vocab_size=800, normalization="nfkc"),
    "identity": TokenizerSpec(
        vocab_size=2000,
        user_defined_symbols=["\n", "\n\n", "\t", "    ", "ab", "bab", "the", "\u0301"],
        reserved_tokens=["<turn>", "a b"],
    ),
    "no byte fallback, numbers whole": TokenizerSpec(vocab_size=900, byte_fallback=False, split_digits=False),
}
FRAGMENTS = [
    *("<s>", "</s>", "<unk>", "<pad>", "<turn>", "<reserved-0>", "a b", "<0x41>", "<0x0A>", "<"),
    *(
        "\0",
        "\r\n",
        "\r",
        "\n",
        "\n\n\n",
        "\t",
        "\t\t\t\t\t",
        " ",
        "  ",
        "    ",
        " " * 8,
        " " * 9,
        "\u2581",
        "\u2581\u2581",
    ),
    *(
        "e\u0301\u0323",
        "\u0301",
        "\ufb01",
        "\ufb01\u0301",
        "\xc5",
        "\u212b",
        "q\u0323\u0301",
        "\U00011d97",
        "\u08d3",
        "각",
        "ᄀ",
        "ᅡ",
        "ᆨ",
    ),
    *(
        "👩‍👩‍👧",
        "🙂",
        "\ufe0f",
        "\u200d",
        "\u3000",
        "\xa0",
        "\u2028",
        "\ufeff",
        "\ufffd",
        "\u2585",
        "\ue000",
        "\U0010ffff",
        "中",
    ),
    *("ab", "bab", "aab", "aaaa", "abab", "the", "th", " the", "12", "1.5", "x", "é", "def ", "self.", "return"),
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(
    st.sampled_from(FRAGMENTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
).map("".join)


@pytest.fixture(scope="module", params=SPECS)
def pair(
    request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, Any]:
    directory = tmp_path_factory.mktemp("fast") / "tokenizer"
    inputs = [corpus / "train" / "code.jsonl", corpus / "train" / "prose.jsonl"]
    tokenizer = train_tokenizer(SPECS[request.param], inputs, directory)
    return tokenizer, library.Tokenizer.from_file(str(directory / "tokenizer.json"))


def assert_same(pair: tuple[Tokenizer, Any], texts: list[str]) -> None:
    tokenizer, fast = pair
    for text, ids in zip(texts, tokenizer.encode_batch(texts, num_threads=1), strict=True):
        assert fast.encode(text, add_special_tokens=False).ids == ids.tolist(), ascii(text)[:500]
        assert fast.encode(text).ids == ids.tolist()
        assert not set(ids.tolist()) & set(tokenizer.control_ids)
        for skip in (True, False):
            assert fast.decode(ids.tolist(), skip_special_tokens=skip) == tokenizer.decode(ids.tolist())


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_any_text_gets_the_same_ids_and_the_same_text_back(pair, text: str) -> None:
    assert_same(pair, [text])


def test_fragments_made_to_break_it_get_the_same_ids_in_any_company(pair) -> None:
    draw = random.Random(0)
    texts = [*FRAGMENTS, *(left + right for left in FRAGMENTS for right in FRAGMENTS)]
    texts += ["".join(draw.choices(FRAGMENTS, k=draw.randrange(3, 12))) for _ in range(5000)]
    assert_same(pair, texts)


def test_megabytes_of_real_text_get_the_same_ids(pair, corpus: Path) -> None:
    paths = [corpus / split / f"{domain}.jsonl" for split in ("train", "validation") for domain in ("code", "prose")]
    texts = [json.loads(line)["text"] for path in paths for line in path.read_text().splitlines()]
    assert sum(map(len, texts)) > 1_500_000
    assert_same(pair, texts)


def test_control_tokens_are_in_the_vocabulary_but_no_text_gives_them(pair) -> None:
    tokenizer, fast = pair
    for control_id in tokenizer.control_ids:
        name = tokenizer.processor.IdToPiece(control_id)
        assert fast.token_to_id(name) == control_id
        assert control_id not in fast.encode(f"a {name} b{name}").ids
    assert fast.get_vocab_size() == tokenizer.vocab_size


def test_decoding_leaves_control_tokens_out_and_writes_unknown_as_sentencepiece_does(pair) -> None:
    tokenizer, fast = pair
    (ids,) = tokenizer.encode_batch(["the end"], num_threads=1)
    row = [tokenizer.bos_id, *ids.tolist(), tokenizer.unk_id, tokenizer.eos_id, tokenizer.pad_id]
    assert fast.decode(row) == fast.decode(row, skip_special_tokens=False) == tokenizer.decode(row) == "the end \u2047 "


def test_a_token_has_one_pair_of_parts_and_ranks_follow_the_scores() -> None:
    scores = {"bc": 0.0, "abc": -1.0, "ab": -2.0, "abab": -3.0, "cab": -4.0, "a": -5.0, "b": -6.0, "c": -7.0}
    assert last_parts("abc", scores) == ["a", "bc"]
    assert last_parts("abcab", scores) == ["abc", "ab"]
    assert merges(scores, []) == [["b", "c"], ["a", "bc"], ["a", "b"], ["ab", "ab"], ["c", "ab"]]
    assert merges(scores, ["ca"]) == [["b", "c"], ["a", "bc"], ["a", "b"], ["ab", "ab"]]


def test_a_token_that_its_own_text_does_not_lead_to_has_no_pair() -> None:
    scores = {"bc": 0.0, "abcd": -1.0, "a": -2.0, "b": -3.0, "c": -4.0, "d": -5.0}
    assert merges(scores, []) == [["b", "c"]]
