"""A tokenizer from elsewhere is kept as it is, and its text gets the ids that its own library and transformers give it."""

import gzip
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.convert.certificate.tokenizer_proof import ADVERSARIAL as AWKWARD
from tests.runs import their_tokenizers
from tests.runs.their_tokenizers import FOLDERS, corpus_texts
from tests.unit.convert.folders import in_hub_cache
from tests.unit.tokenizer.test_shard_faults import ADVERSARIAL
from tokenizer.__main__ import main
from tokenizer.encoding.encode import encode
from tokenizer.search.build import BLOCK_TOKENS, build_index
from tokenizer.search.find import find_text
from tokenizer.shards.adopt import adopt
from tokenizer.shards.shard import open_shard
from tokenizer.verify_shards import verify
from tokenizer.vocabulary import engine as engine_module
from tokenizer.vocabulary.check import check_tokenizer
from tokenizer.vocabulary.engine import PROBES, EngineError, GigatokenEngine, open_engine
from tokenizer.vocabulary.folder import Tokenizer
from tokenizer.vocabulary.import_folder import import_tokenizer
from tokenizer.vocabulary.load import load_tokenizer

transformers = pytest.importorskip("transformers")

BY_GIGATOKEN = (
    "Llama 3's kind", "Qwen's kind", "OLMo's kind", "Llama 2's kind", "SentencePiece BPE, converted", "SentencePiece BPE of Llama's class, converted",
)  # fmt: skip
LONG = ("longer than every buffer", "one word longer than every buffer")
"""Texts of millions of characters, which a test of ten tokenizers has shorter."""
READ_OTHERWISE = {"SentencePiece Unigram": ("<0x", "\u0301", "=====", "\ufb01", "\u1e9b", "\u212b")}
"""Marks of the texts to which transformers gives other ids than SentencePiece, where it converts a tokenizer.model that normalizes.
An export is refused then; converted once, and imported as a tokenizer.json, all ids agree."""


@pytest.fixture(scope="session")
def hf_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes the folder of a kind once, and returns it."""
    base = tmp_path_factory.mktemp("theirs")

    def made(kind: str) -> Path:
        folder = base / str(list(FOLDERS).index(kind))
        return folder if folder.is_dir() else FOLDERS[kind](folder)

    return made


@pytest.fixture(scope="session", params=FOLDERS)
def both(
    request: pytest.FixtureRequest, hf_folders: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Tokenizer]:
    """The name of a kind, its folder, and what became of it."""
    folder = hf_folders(request.param)
    return request.param, folder, import_tokenizer(folder, tmp_path_factory.mktemp("ours") / "tokenizer")


@pytest.fixture
def qwen(hf_folders: Callable[[str], Path], tmp_path: Path) -> Path:
    """An imported tokenizer of Qwen's kind."""
    return import_tokenizer(hf_folders("Qwen's kind"), tmp_path / "qwen").directory


@pytest.fixture
def llama3(hf_folders: Callable[[str], Path], tmp_path: Path) -> Path:
    """One of Llama 3's kind."""
    return import_tokenizer(hf_folders("Llama 3's kind"), tmp_path / "llama3").directory


def all_texts(tokenizer: Tokenizer) -> list[str]:
    """Documents, awkward texts, and pieces of words in wild order with names of special tokens among them."""
    generator, text = random.Random(3), "".join(corpus_texts()[::7])
    names = [tokenizer.piece(token) for token in tokenizer.control_ids]
    joiners = ["", " ", "\n", "  ", "\t\t", "\u2581", "\0", "\r\n", "\u0301", *names]
    cuts = [text[at : at + generator.randint(1, 9)] for at in generator.choices(range(len(text)), k=6000)]
    wild = [generator.choice(joiners).join(cuts[start : start + 30]) for start in range(0, 6000, 30)]
    longest = [text[:20_000] for name, text in ADVERSARIAL.items() if name in LONG]
    short = [text for name, text in ADVERSARIAL.items() if name not in LONG]
    return [*(text[:30_000] for text in corpus_texts()), *AWKWARD, *PROBES, *longest, *short, *wild]


def test_every_engine_gives_the_ids_that_transformers_gives_when_names_are_text(
    both: tuple[str, Path, Tokenizer],
) -> None:
    kind, folder, tokenizer = both
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert open_engine(tokenizer).name.startswith("gigatoken" if kind in BY_GIGATOKEN else tokenizer.oracle)
    texts = all_texts(tokenizer)
    special = {*tokenizer.control_ids, tokenizer.unk_id}
    right = tokenizer.encode_batch(texts, num_threads=1)
    num_compared = 0
    for text, ours, expected in zip(texts, open_engine(tokenizer).encode(texts), right, strict=True):
        assert np.array_equal(ours, expected), text[:60]
        assert not set(tokenizer.control_ids) & set(expected.tolist()), text[:60]
        found = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        # The model itself makes a special token of its name (Unigram): there is no way to have transformers read it as text.
        is_name = any(tokenizer.piece(token) in text for token in special if token is not None) and special & set(found)
        if not is_name and not any(mark in text for mark in READ_OTHERWISE.get(kind, ())):
            assert found == expected.tolist(), text[:60]
            num_compared += 1
    assert num_compared > 0.5 * len(texts)


def test_an_imported_tokenizer_json_gives_the_ids_of_the_library_itself(both: tuple[str, Path, Tokenizer]) -> None:
    from tokenizers import Tokenizer as Theirs

    kind, folder, tokenizer = both
    if tokenizer.oracle != "tokenizers":
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        encoded = {text: processor.Encode(text) for text in all_texts(tokenizer)}
    else:
        library = Theirs.from_file(str(folder / "tokenizer.json"))
        library.encode_special_tokens = True
        encoded = {text: library.encode(text, add_special_tokens=False).ids for text in all_texts(tokenizer)}
    names = [tokenizer.piece(token) for token in (*tokenizer.control_ids, tokenizer.unk_id) if token is not None]
    for text, ids in zip(encoded, tokenizer.encode_batch(list(encoded), num_threads=1), strict=True):
        if "Unigram" not in kind or not any(name in text for name in names):
            assert ids.tolist() == encoded[text], text[:60]


def test_names_of_special_tokens_are_text_and_added_tokens_that_are_not_special_match(
    tmp_path: Path, qwen: Path, write_documents: Callable[..., Path]
) -> None:
    tokenizer = load_tokenizer(qwen)
    text = "a<|endoftext|>b <|im_start|>user <tool_call>x</tool_call>"
    encode(qwen, [write_documents(tmp_path / "a.jsonl", [text])], tmp_path / "shard")
    ids = open_shard(tmp_path / "shard").tokens.tolist()
    assert [tokenizer.piece(token) for token in tokenizer.control_ids] == [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    ]
    assert ids[-1] == tokenizer.eos_id and not set(ids[:-1]) & set(tokenizer.control_ids)
    pieces = [tokenizer.piece(token) for token in ids]
    assert pieces.count("<tool_call>") == pieces.count("</tool_call>") == 1
    assert tokenizer.decode(ids) == text


def test_every_special_token_is_text_in_a_document_of_every_kind(both: tuple[str, Path, Tokenizer]) -> None:
    _, _, tokenizer = both
    names = [tokenizer.piece(token) for token in tokenizer.control_ids]
    texts = [*names, "".join(names), " ".join(names), *(f"x{name}\n" for name in names)]
    for engine in (open_engine(tokenizer), open_engine(tokenizer, tokenizer.oracle)):
        for text, ids in zip(texts, engine.encode(texts), strict=True):
            assert not set(tokenizer.control_ids) & set(ids.tolist())
            assert tokenizer.decode(ids.tolist()).strip() == text.strip()


def test_the_files_are_kept_byte_for_byte_and_an_altered_one_is_refused(
    both: tuple[str, Path, Tokenizer], tmp_path: Path
) -> None:
    _, folder, tokenizer = both
    names = {path.name for path in folder.iterdir()} - {"config.json"}
    assert {path.name for path in tokenizer.directory.iterdir()} == {*names, "tokenizer-info.json"}
    for name in names:
        assert (tokenizer.directory / name).read_bytes() == (folder / name).read_bytes()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tokenizer.directory.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert load_tokenizer(copy).model_sha256 == tokenizer.model_sha256
    with (copy / "tokenizer_config.json").open("a") as stream:
        stream.write(" ")
    with pytest.raises(ValueError, match=r"tokenizer_config.json has sha256 .*: it was altered; import it again"):
        load_tokenizer(copy)
    info = json.loads((tokenizer.directory / "tokenizer-info.json").read_text())
    (copy / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
    (copy / "tokenizer-info.json").write_text(json.dumps(info | {"unk_id": 99}))
    with pytest.raises(ValueError, match=r"tokenizer-info.json has content with sha256 .*: it was altered; import it"):
        load_tokenizer(copy)


@pytest.mark.parametrize("kind", BY_GIGATOKEN)
def test_a_difference_planted_in_one_token_of_the_vocabulary_is_found(
    kind: str, hf_folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(GigatokenEngine):
        """Reads a tokenizer.json in which two of the longest tokens have each other's ids."""

        def _start(self) -> None:
            content = json.loads(self._json)
            vocabulary = content["model"]["vocab"]
            spelled = [piece for piece in vocabulary if piece.isascii() and piece.isalpha()]
            one, other = sorted(spelled, key=lambda piece: (len(piece), vocabulary[piece]))[-2:]
            vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
            self._json = json.dumps(content)
            super()._start()

    tokenizer = import_tokenizer(hf_folders(kind), tmp_path / "right")
    assert tokenizer.proved_engine == "gigatoken 0.10.0"
    monkeypatch.setattr(engine_module, "GigatokenEngine", Wrong)
    wrong = import_tokenizer(hf_folders(kind), tmp_path / "wrong")
    assert wrong.proved_engine and wrong.proved_engine.startswith("tokenizers "), "auto falls back"
    with pytest.raises(
        EngineError, match=r"gigatoken 0.10.0 gives .* where tokenizers gives .*; 'tokenizers' or 'auto'"
    ):
        open_engine(wrong, "gigatoken")


def test_a_difference_in_a_document_stops_the_run_and_names_the_engine_that_works(
    tmp_path: Path, qwen: Path, write_documents: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizer.encoding import block_encoder

    path = write_documents(tmp_path / "a.jsonl", ["the quick fox"])
    right = GigatokenEngine._encode_one
    block_encoder.open_encoder.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(engine_module, "PROBES", ("a",))
        patched.setattr(GigatokenEngine, "_encode_one", lambda self, text: right(self, text.replace("q", "z")))
        with pytest.raises(EngineError, match=r"a.jsonl:1: gigatoken .* where tokenizers gives .*--engine tokenizers"):
            encode(qwen, [path], tmp_path / "shard", num_workers=1)
    block_encoder.open_encoder.cache_clear()
    words = ["encode", "--tokenizer", str(qwen), "--input", str(path), "--output", str(tmp_path / "shard")]
    assert main([*words, "--engine", "tokenizers"]) == 0


def test_both_engines_write_the_same_tokens_with_any_number_of_workers(
    tmp_path: Path, llama3: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [corpus / "validation" / "prose.jsonl"]
    monkeypatch.setattr("tokenizer.documents.blocks.BLOCK_BYTES", 20_000)
    fast = encode(llama3, inputs, tmp_path / "fast", num_workers=2)
    slow = encode(llama3, inputs, tmp_path / "slow", engine="tokenizers", num_workers=2).manifest
    assert fast.num_checked > 1 and fast.oracle == "tokenizers"
    assert fast.manifest.bin_block_sha256 == slow.bin_block_sha256
    assert slow.options.engine and slow.options.engine.startswith("tokenizers ")


def test_documents_start_as_the_tokenizer_starts_a_text_and_end_with_its_eos(
    tmp_path: Path, qwen: Path, llama3: Path, write_documents: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["one", "two two"])
    starts: dict[str, tuple[bool, list[int]]] = {}
    for directory, options in ((qwen, ()), (llama3, ()), (llama3, ("--no-bos",))):
        prefix = tmp_path / f"{directory.name}{len(options)}"
        words = ["encode", "--tokenizer", str(directory), "--input", str(path), "--output", str(prefix)]
        assert main([*words, *options]) == 0
        shard = open_shard(prefix)
        assert all(shard.document(number)[-1] == load_tokenizer(directory).eos_id for number in (0, 1))
        starts[prefix.name] = shard.manifest.options.append_bos, shard.document(0).tolist()
    bos = load_tokenizer(llama3).bos_id
    assert starts["llama31"][0] is False and starts["llama31"][1] == starts["llama30"][1][1:]
    assert starts["llama30"][0] is True and starts["llama30"][1][0] == bos
    assert starts["qwen0"][0] is False
    words = ["encode", "--tokenizer", str(qwen), "--input", str(path), "--output", str(tmp_path / "x")]
    capsys.readouterr()
    assert main([*words, "--bos"]) == 2
    assert f"--bos needs a BOS, and the tokenizer in {qwen} has none; --no-bos works" in capsys.readouterr().err
    assert main([*words, "--no-bos"]) == 0


def test_padding_that_is_also_the_end_of_documents_is_learned_and_padding_of_its_own_is_not(
    hf_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    qwen = import_tokenizer(hf_folders("Qwen's kind"), tmp_path / "qwen")
    olmo = import_tokenizer(hf_folders("OLMo's kind"), tmp_path / "olmo")
    assert qwen.pad_id == qwen.eos_id and qwen.ignored_id is None
    assert olmo.ignored_id == olmo.pad_id and olmo.piece(olmo.pad_id or 0) == "<|padding|>"


def test_shards_carry_the_tokenizers_hash_and_those_of_another_are_told_apart(
    tmp_path: Path, qwen: Path, llama3: Path, write_documents: Callable[..., Path]
) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["some words " * 20])
    encode(qwen, [path], tmp_path / "shard")
    assert open_shard(tmp_path / "shard").manifest.tokenizer_sha256 == load_tokenizer(qwen).model_sha256
    (right,) = verify([tmp_path / "shard"], deep=True, tokenizer_dir=qwen)
    (wrong,) = verify([tmp_path / "shard"], tokenizer_dir=llama3)
    assert not right.problems
    assert "name the tokenizer that made the shard" in wrong.problems[0]


def test_the_hash_tells_the_ids_and_not_the_chat_template(hf_folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder, copy = hf_folders("Qwen's kind"), tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    first = import_tokenizer(folder, tmp_path / "first").model_sha256
    (copy / "chat_template.jinja").write_text("other")
    assert import_tokenizer(copy, tmp_path / "second").model_sha256 == first
    assert import_tokenizer(copy, tmp_path / "third", eos_token="<|im_end|>").model_sha256 != first


def test_adopt_takes_a_shard_of_an_imported_tokenizer_and_refuses_that_of_another(
    tmp_path: Path, qwen: Path, corpus: Path
) -> None:
    other = import_tokenizer(their_tokenizers.spm_model(tmp_path / "hf"), tmp_path / "other").directory
    made = encode(qwen, [corpus / "validation" / "prose.jsonl"], tmp_path / "shard").manifest
    (tmp_path / "shard.json").unlink()
    with pytest.raises(ValueError, match="that is not the tokenizer that made the shard"):
        adopt(tmp_path / "shard", other)
    adopted = adopt(tmp_path / "shard", qwen)
    assert adopted.bin_block_sha256 == made.bin_block_sha256 and adopted.tokenizer_sha256 == made.tokenizer_sha256
    assert (adopted.options.append_bos, adopted.options.append_eos) == (False, True)


def test_check_reports_an_imported_tokenizer(
    both: tuple[str, Path, Tokenizer], write_documents: Any, tmp_path: Path
) -> None:
    _, _, tokenizer = both
    path = write_documents(tmp_path / "a.jsonl", ["plain words, été"])
    (report,) = check_tokenizer(tokenizer.directory, [path])
    assert report.num_tokens and report.num_fast_differences is None
    assert report.num_round_trip_failures == 0, report.first_failure


def test_a_download_cache_of_links_is_imported_as_the_folder_it_shows(
    hf_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = hf_folders("Qwen's kind")
    cached = import_tokenizer(in_hub_cache(folder, tmp_path / "cache"), tmp_path / "cached")
    assert cached.model_sha256 == import_tokenizer(folder, tmp_path / "plain").model_sha256
    assert not any(path.is_symlink() for path in cached.directory.iterdir())


def test_ids_that_only_the_models_config_states_are_taken(hf_folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    source = hf_folders("Llama 3's kind")
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    expected = import_tokenizer(source, tmp_path / "all")
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [expected.eos_id, 5], "bos_token_id": expected.bos_id})
    )
    found = import_tokenizer(folder, tmp_path / "few")
    assert (found.bos_id, found.eos_id, found.adds_bos) == (expected.bos_id, expected.eos_id, True)


def test_special_tokens_beyond_a_tokenizer_model_count_as_ids(tmp_path: Path) -> None:
    folder = their_tokenizers.spm_model(tmp_path / "hf", pad_token="<pad>")
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 1200}))
    tokenizer = import_tokenizer(folder, tmp_path / "tokenizer")
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.ignored_id) == (1201, 1200, 1200)
    (ids,) = tokenizer.encode_batch(["a <pad> b"], num_threads=1)
    assert 1200 not in ids.tolist() and tokenizer.decode([*ids.tolist(), 1200]) == "a <pad> b"


def test_padding_by_an_ordinary_piece_leaves_that_piece_to_text(
    hf_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    for path in hf_folders("Llama 3's kind").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "!"}))
    tokenizer = import_tokenizer(folder, tmp_path / "tokenizer")
    assert tokenizer.pad_id not in tokenizer.control_ids and tokenizer.ignored_id is None
    (ids,) = open_engine(tokenizer).encode(["Stop! Now!!"])
    assert tokenizer.pad_id in ids.tolist() and tokenizer.decode(ids.tolist()) == "Stop! Now!!"
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs("Stop! Now!!", add_special_tokens=False, split_special_tokens=True)["input_ids"] == ids.tolist()


def test_a_search_finds_what_the_library_decodes(
    both: tuple[str, Path, Tokenizer], tmp_path: Path, write_documents: Callable[..., Path]
) -> None:
    _, _, tokenizer = both
    texts = [text[:1000] for text in all_texts(tokenizer) if text]  # a text's every blank is a hit: the cost is theirs
    encode(tokenizer.directory, [write_documents(tmp_path / "a.jsonl", texts)], tmp_path / "a", on_error="skip")
    shard = open_shard(tmp_path / "a")
    assert shard.num_tokens > 3 * BLOCK_TOKENS, "the index has several blocks"
    decoded = [tokenizer.decode(shard.document(number).tolist()) for number in range(shard.num_documents)]
    generator = random.Random(4)
    wanted = [" ", "the", "\u0301", " a", "<s>", "\n", *(tokenizer.piece(token) for token in tokenizer.control_ids[:3])]
    readable = {number: text for number, text in enumerate(decoded) if "\ufffd" not in text}
    for text in generator.choices([text for text in readable.values() if text], k=12):
        at = generator.randrange(len(text))
        wanted += [text[at : at + generator.choice([1, 5, 30])], text[:7]]
    build_index(tmp_path / "a", tokenizer)
    for each in wanted:
        found = [(hit.document, hit.start_byte) for hit in find_text(tmp_path / "a", tokenizer, text=each)]
        prepared = tokenizer.prepare(each)
        assert prepared, each
        by_hand = [
            (number, len(text[: hit.start()].encode()))
            for number, text in readable.items()
            for hit in re.finditer(f"(?={re.escape(prepared)})", text)  # those that overlap, too
        ]
        assert [place for place in found if place[0] in readable] == by_hand, each


def test_documents_of_the_tests_corpus_are_all_there() -> None:
    rows = [
        line
        for path in their_tokenizers.CORPUS.rglob("*.gz")
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    assert len(corpus_texts()) > len(rows) > 20
