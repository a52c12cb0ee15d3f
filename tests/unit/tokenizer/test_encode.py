import dataclasses
import hashlib
from pathlib import Path

import pytest

from tokenizer.documents.parse import DocumentReader, batches
from tokenizer.encoding import block_encoder
from tokenizer.encoding import encode as encode_module
from tokenizer.shards.labels import Labels
from tokenizer.shards.shard import ShardError, ShardManifest, open_shard, read_manifest
from tokenizer.vocabulary.load import load_tokenizer


def encode(*args, **kwargs) -> ShardManifest:
    return encode_module.encode(*args, **kwargs).manifest


def test_each_document_is_bos_text_eos_and_decodes_to_its_text(
    tmp_path: Path, tokenizer_dir: Path, write_documents
) -> None:
    texts = ["one\n  two", "\ttrois é 🙂\r\n", " "]
    path = write_documents(tmp_path / "a.jsonl", texts)
    manifest = encode(tokenizer_dir, [path], tmp_path / "deep" / "shard", labels=Labels(source="by hand"))
    shard = open_shard(tmp_path / "deep" / "shard")
    tokenizer = load_tokenizer(tokenizer_dir)
    for number, text in enumerate(texts):
        ids = shard.document(number).tolist()
        assert (ids[0], ids[-1]) == (0, 1)
        assert tokenizer.decode(ids[1:-1]) == text
    assert manifest == read_manifest(tmp_path / "deep" / "shard")
    assert (manifest.domain, manifest.licence, manifest.source) == ("prose", "CC0-1.0", "by hand")
    assert manifest.tokenizer_sha256 == hashlib.sha256((tokenizer_dir / "tokenizer.model").read_bytes()).hexdigest()
    assert manifest.input_files[0].block_sha256 == (hashlib.sha256(path.read_bytes()).hexdigest(),)
    assert manifest.vocab_size == 600


def test_without_bos_and_eos_the_text_stands_alone(tmp_path: Path, tokenizer_dir: Path, write_documents) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["one two", "three"])
    manifest = encode(tokenizer_dir, [path], tmp_path / "shard", append_bos=False, append_eos=False)
    assert not {0, 1} & set(open_shard(tmp_path / "shard").tokens.tolist())
    assert (manifest.options.append_bos, manifest.options.append_eos) == (False, False)


def test_names_of_control_tokens_in_a_text_stay_text(tmp_path: Path, tokenizer_dir: Path, write_documents) -> None:
    text = "<s>a</s><pad><unk> <turn><0x41>"
    path = write_documents(tmp_path / "a.jsonl", [text])
    encode(tokenizer_dir, [path], tmp_path / "shard")
    ids = open_shard(tmp_path / "shard").tokens.tolist()
    assert not {0, 1, 2, 3, 4} & set(ids[1:-1])
    assert load_tokenizer(tokenizer_dir).decode(ids[1:-1]) == text


def test_a_tokenizer_that_makes_control_tokens_from_text_is_caught(
    tmp_path: Path, tokenizer_dir: Path, write_documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(tokenizer_dir)
    letter = tokenizer.processor.PieceToId("q")
    monkeypatch.setattr(
        block_encoder, "load_tokenizer", lambda _: dataclasses.replace(tokenizer, control_ids=(0, letter))
    )
    block_encoder.open_encoder.cache_clear()
    path = write_documents(tmp_path / "a.jsonl", ["fine", "q"])
    with pytest.raises(AssertionError, match="text became a control token"):
        encode(tokenizer_dir, [path], tmp_path / "shard", num_workers=1)
    block_encoder.open_encoder.cache_clear()
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_workers_and_block_size_do_not_change_a_byte(
    tmp_path: Path, tokenizer_dir: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [corpus / "validation" / "prose.jsonl"]
    one = encode(tokenizer_dir, inputs, tmp_path / "one", num_workers=1)
    monkeypatch.setattr("tokenizer.documents.blocks.BLOCK_BYTES", 1000)
    other = encode(tokenizer_dir, inputs, tmp_path / "other", num_workers=4)
    assert one == other
    assert (tmp_path / "one.bin").read_bytes() == (tmp_path / "other.bin").read_bytes()


def test_a_batch_closes_as_soon_as_it_is_full(tmp_path: Path, write_documents) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["aaa", "bbb", "é" * 9, "ccccc", "d"])
    reader = DocumentReader([path])
    assert [[d.text[0] for d in batch] for batch in batches(reader, 6)] == [["a", "b"], ["é"], ["c", "d"]]


def test_one_huge_line_is_encoded_whole(tmp_path: Path, tokenizer_dir: Path, write_documents) -> None:
    text = "word " * 100_000
    path = write_documents(tmp_path / "a.jsonl", [text])
    encode(tokenizer_dir, [path], tmp_path / "shard")
    assert load_tokenizer(tokenizer_dir).decode(open_shard(tmp_path / "shard").tokens[1:-1].tolist()) == text


@pytest.mark.parametrize("field", ["domain", "licence"])
def test_documents_of_two_kinds_are_refused_with_both_places(
    tmp_path: Path, tokenizer_dir: Path, write_documents, field: str
) -> None:
    rows = [{"text": "a", "domain": "x", "licence": "x"}, {"text": "b", "domain": "x", "licence": "x", field: "y"}]
    path = write_documents(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError) as caught:
        encode(tokenizer_dir, [path], tmp_path / "shard")
    assert f"{path}:2: {field} is 'y', but 'x' at {path}:1" in str(caught.value)
    assert f"split the input by {field}" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_broken_line_is_named_and_leaves_nothing(tmp_path: Path, tokenizer_dir: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\nnonsense\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2: not a line of JSON"):
        encode(tokenizer_dir, [path], tmp_path / "shard")
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_an_existing_shard_is_refused(tmp_path: Path, tokenizer_dir: Path, write_documents) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["a"])
    encode(tokenizer_dir, [path], tmp_path / "shard")
    with pytest.raises(ShardError, match=r"shard\.json exists, and a shard is never overwritten; remove"):
        encode(tokenizer_dir, [path], tmp_path / "shard")
    assert open_shard(tmp_path / "shard").num_documents == 1
