"""The fast engine gives SentencePiece's ids, on real text of many languages and on text made to break it."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import debian_text
from tokenizer.encoding import block_encoder
from tokenizer.encoding.encode import encode
from tokenizer.shards.manifest import with_own_hash
from tokenizer.vocabulary import engine as engine_module
from tokenizer.vocabulary.engine import EngineError, GigatokenEngine, OracleEngine, open_engine
from tokenizer.vocabulary.load import Tokenizer, load_tokenizer
from tokenizer.vocabulary.spec import TokenizerSpec
from tokenizer.vocabulary.train import train_tokenizer

CACHE = Path(__file__).parents[3] / ".cache" / "debian-text"
SPECS = {
    "as lucie": TokenizerSpec(
        vocab_size=8000,
        normalization="nfc",
        remove_characters=["\r", "\0"],
        user_defined_symbols=["\n", "\n\n", "\t", "\t\t", "\t\t\t", "\t\t\t\t", *(" " * n for n in range(2, 9))],
        reserved_tokens=["<|im_start|>"],
    ),
    "plain": TokenizerSpec(vocab_size=16000),
    "symbols that overlap": TokenizerSpec(
        vocab_size=2000, user_defined_symbols=["ab", "abc", "a b", "bc", "\n", " \n"]
    ),
}


@pytest.fixture(scope="module")
def pages() -> list[str]:
    """More than 40 MB of manual pages in 15 languages."""
    if not debian_text.is_available():
        pytest.skip("translated manual pages come as Debian packages, and this machine has no apt-get")
    texts = []
    for path in debian_text.make_text(CACHE):
        texts += [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert sum(len(text.encode()) for text in texts) > 40e6
    return texts


@pytest.fixture(scope="module", params=SPECS)
def tokenizer(request: pytest.FixtureRequest, pages: list[str], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("engine")
    with (folder / "a.jsonl").open("w") as stream:
        for text in random.Random(1).sample(pages, 500):
            stream.write(json.dumps({"text": text}) + "\n")
    train_tokenizer(SPECS[request.param], [folder / "a.jsonl"], folder / "tokenizer")
    return load_tokenizer(folder / "tokenizer")


def test_all_ids_of_real_text_in_many_languages_are_sentencepieces(tokenizer: Tokenizer, pages: list[str]) -> None:
    fast, slow = open_engine(tokenizer), OracleEngine(tokenizer)
    assert fast.name.startswith("gigatoken")
    for start in range(0, len(pages), 200):
        texts = pages[start : start + 200]
        for text, ours, right in zip(texts, fast.encode(texts), slow.encode(texts), strict=True):
            assert np.array_equal(ours, right), fast.check([text])


def test_pieces_of_words_in_wild_order_keep_their_ids(tokenizer: Tokenizer, pages: list[str]) -> None:
    generator = random.Random(2)
    text = "".join(generator.sample(pages, 40))
    cuts = [text[at : at + generator.randint(1, 9)] for at in generator.choices(range(len(text)), k=30_000)]
    joiners = ["", " ", "\n", "\t\t\t\t\t", "   ", "\u2581", "\0", "\r\n", "<s>", "\u0301"]
    texts = [
        generator.choice(joiners).join(cuts[start : start + 30]) + generator.choice(joiners)
        for start in range(0, 30_000, 30)
    ]
    assert open_engine(tokenizer, "gigatoken").check(texts) is None


@given(text=st.text() | st.text(alphabet="ab c\n\t\u2581<s>/é\u0301", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_keeps_its_ids(tokenizer_dir: Path, text: str) -> None:
    job = block_encoder.EncodeJob(
        tokenizer_dir=str(tokenizer_dir), append_bos=True, append_eos=True, fields=block_encoder.Fields(),
        skip_bad_documents=False, engine="gigatoken", shuffle_seed=None,
    )  # fmt: skip
    assert block_encoder.open_encoder(job).engine.check([text]) is None


class Wrong(GigatokenEngine):
    """Takes every q for a z."""

    def _encode_one(self, text: str) -> np.ndarray:
        return super()._encode_one(text.replace("q", "z"))


def test_a_difference_in_a_document_stops_the_run_and_says_what_to_do(
    tmp_path: Path, tokenizer_dir: Path, write_documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["the quick fox"])
    wrong = Wrong.__new__(Wrong)
    wrong.__dict__ = vars(GigatokenEngine(load_tokenizer(tokenizer_dir)))
    monkeypatch.setattr(block_encoder, "open_engine", lambda *_: wrong)
    block_encoder.open_encoder.cache_clear()
    with pytest.raises(
        EngineError, match=r"a.jsonl:1: gigatoken .* gives .* where SentencePiece gives .*, behind 'the '"
    ):
        encode(tokenizer_dir, [path], tmp_path / "shard", num_workers=1)
    block_encoder.open_encoder.cache_clear()
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("proved_engine", [None, "gigatoken 0.9.0"])
def test_an_engine_that_nobody_has_proved_and_that_differs_on_the_vocabulary_is_not_taken(
    tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, proved_engine: str | None
) -> None:
    trained = load_tokenizer(tokenizer_dir)
    assert trained.proved_engine == open_engine(trained).name == "gigatoken 0.10.0"
    tokenizer = dataclasses.replace(trained, proved_engine=proved_engine)
    monkeypatch.setattr(engine_module, "GigatokenEngine", Wrong)
    assert open_engine(tokenizer).name.startswith("sentencepiece")
    with pytest.raises(EngineError, match=r"engine 'gigatoken' cannot encode with .*; 'sentencepiece' or 'auto' works"):
        open_engine(tokenizer, "gigatoken")


def test_a_tokenizer_without_byte_fallback_is_encoded_by_whoever_can(tmp_path: Path, corpus: Path) -> None:
    spec = TokenizerSpec(vocab_size=400, byte_fallback=False)
    train_tokenizer(spec, [corpus / "train" / "prose.jsonl"], tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    texts = ["plain", "é 👍 unknown", "\0"]
    for ours, right in zip(open_engine(tokenizer).encode(texts), OracleEngine(tokenizer).encode(texts), strict=True):
        assert np.array_equal(ours, right)


def test_both_engines_write_the_same_shard_and_are_named(tmp_path: Path, tokenizer_dir: Path, corpus: Path) -> None:
    inputs = [corpus / "validation" / "prose.jsonl"]
    fast = encode(tokenizer_dir, inputs, tmp_path / "fast")
    slow = encode(tokenizer_dir, inputs, tmp_path / "slow", engine="sentencepiece").manifest
    assert (fast.num_checked, fast.manifest.options.engine) == (1, "gigatoken 0.10.0")
    assert slow.options.engine and slow.options.engine.startswith("sentencepiece")
    options = dataclasses.replace(slow.options, engine=fast.manifest.options.engine)
    assert with_own_hash(dataclasses.replace(slow, options=options)) == with_own_hash(fast.manifest) == fast.manifest


def test_the_words_that_gigatoken_remembers_are_bounded(tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_CACHE_BYTES", 64 << 20)
    engine = GigatokenEngine(load_tokenizer(tokenizer_dir))
    generator = np.random.default_rng(0)
    highest = 0
    for _ in range(12):
        letters = generator.integers(97, 123, 3_000_000, dtype=np.uint8)
        letters[generator.integers(0, len(letters), len(letters) // 6)] = ord(" ")
        engine.encode([letters.tobytes().decode()])
        highest = max(highest, engine_module._resident_bytes() - engine._bytes_at_start)
    assert highest < 64e6 + 150e6, "one call's growth on top of the bound, and no more"
