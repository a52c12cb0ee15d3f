"""Shards that megatron-core's own builder wrote get a manifest, and what does not fit is refused by name."""

import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from tokenizer.__main__ import main
from tokenizer.shards.adopt import adopt
from tokenizer.shards.labels import Labels
from tokenizer.shards.shard import ShardError, ShardWriter, open_shard
from tokenizer.verify_shards import verify
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.train import train_tokenizer

torch = pytest.importorskip("torch")
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder  # noqa: E402

TEXTS = ["one two", "three\n", "four " * 500]


def megatron_shard(prefix: Path, documents: list[list[int]], dtype: type = np.uint16, sentences: int = 1) -> Path:
    """What Megatron's preprocessing writes; sentences cuts each document into so many sequences."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in documents:
        cuts = [len(part) for part in np.array_split(document, sentences)]
        builder.add_document(torch.tensor(document), cuts)
    builder.finalize(f"{prefix}.idx")
    return prefix


@pytest.fixture
def documents(tokenizer_dir: Path) -> list[list[int]]:
    processor = load_tokenizer(tokenizer_dir).processor
    return [[*processor.Encode(text), processor.eos_id()] for text in TEXTS]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_a_shard_of_megatron_opens_after_adopt_and_megatron_still_reads_it(
    tmp_path: Path, tokenizer_dir: Path, documents: list[list[int]], dtype: type
) -> None:
    prefix = megatron_shard(tmp_path / "a", documents, dtype)
    before = [Path(f"{prefix}.{suffix}").read_bytes() for suffix in ("bin", "idx")]
    with pytest.raises(ShardError, match="adopt"):
        open_shard(prefix)
    manifest = adopt(
        prefix, tokenizer_dir, Labels(domain="prose", licence="CC0-1.0", language="en", source="elsewhere")
    )
    shard = open_shard(prefix)
    assert [shard.document(number).tolist() for number in range(3)] == documents
    assert verify([prefix], deep=True, tokenizer_dir=tokenizer_dir)[0].problems == ()
    assert (manifest.domain, manifest.language, manifest.source) == ("prose", "en", "elsewhere")
    assert (manifest.options.append_bos, manifest.options.append_eos, manifest.options.engine) == (False, True, None)
    assert [Path(f"{prefix}.{suffix}").read_bytes() for suffix in ("bin", "idx")] == before
    theirs = IndexedDataset(str(prefix))  # kept: its arrays point into a map that goes with it
    assert [theirs[number].tolist() for number in range(3)] == documents


def cut(prefix: Path, suffix: str, size: int) -> None:
    with Path(f"{prefix}.{suffix}").open("r+b") as stream:
        stream.truncate(size)


def edit(prefix: Path, suffix: str, at: int, content: bytes) -> None:
    with Path(f"{prefix}.{suffix}").open("r+b") as stream:
        stream.seek(at)
        stream.write(content)


def pipe(prefix: Path, suffix: str) -> None:
    Path(f"{prefix}.{suffix}").unlink()
    os.mkfifo(f"{prefix}.{suffix}")


FAULTS = {
    "no idx": (lambda p: Path(f"{p}.idx").unlink(), r"a.idx cannot be read \(No such file"),
    "a pipe for an idx": (
        lambda p: (cut(p, "idx", 0), pipe(p, "idx")),
        r"a.idx cannot be read \(it is a pipe, and must be a file\)",
    ),
    "documents without end": (
        lambda p: edit(p, "idx", 18, (1 << 60).to_bytes(8, "little") + ((1 << 60) + 1).to_bytes(8, "little")),
        r"a.idx has \d+ bytes, expected \d{20} for 1152921504606846976 documents",
    ),
    "no bin": (lambda p: Path(f"{p}.bin").unlink(), r"a.bin does not exist, expected \d+ bytes by the .idx"),
    "cut bin": (lambda p: cut(p, "bin", 100), r"a.bin has 100 bytes, expected \d+ bytes by the .idx"),
    "cut idx": (lambda p: cut(p, "idx", 60), r"a.idx has 60 bytes, expected \d+ for 3 documents"),
    "empty idx": (lambda p: cut(p, "idx", 0), r"a.idx does not begin with b'MMIDIDX"),
    "no index at all": (lambda p: shutil.copy(f"{p}.bin", f"{p}.idx"), r"a.idx does not begin with b'MMIDIDX"),
    "other dtype": (
        lambda p: edit(p, "idx", 17, b"\x06"),
        r"has version 1 and dtype float64, expected 1 and uint16 or int32",
    ),
    "a length": (lambda p: edit(p, "idx", 34, b"\xff\x00"), r"holds documents that do not lie one after the other"),
    "no tokens": (
        lambda p: edit(p, "idx", 34, b"\0\0\0\0"),
        r"gives document 0 0 tokens, expected at least 1; `fanal tokenizer adopt .* --output .*a-adopted`",
    ),
    "document indices": (lambda p: edit(p, "idx", 34 + 36 + 8, b"\x02"), r"holds document indices other than 0 to 3"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_shard_is_refused_and_gets_no_manifest(
    tmp_path: Path, tokenizer_dir: Path, documents: list[list[int]], name: str
) -> None:
    fault, message = FAULTS[name]
    prefix = megatron_shard(tmp_path / "a", documents)
    fault(prefix)
    with pytest.raises(ShardError, match=message):
        adopt(prefix, tokenizer_dir)
    assert not Path(f"{prefix}.json").exists()


def test_the_wrong_tokenizer_is_found_by_an_id(tmp_path: Path, tokenizer_dir: Path) -> None:
    prefix = megatron_shard(tmp_path / "a", [[1, 2], [3, 700, 4]])
    with pytest.raises(
        ShardError, match=r"holds id 700 at token 3 \(document 1\), and .* has ids 0 to 599; name the tokenizer"
    ):
        adopt(prefix, tokenizer_dir)


STRANGE = {
    # what the builder is given: (documents, lengths of the sequences of each), and what the message says
    "a sequence without a token": ([[0], None, [0]], r"gives document 1 0 tokens, expected at least 1"),
    "a document without a sequence": ([[0], [], [0]], r"cuts 3 documents into 2 sequences, expected one sequence per document"),
    "empty ones at both ends": ([None, [0], [0], None, None], r"gives document 0 0 tokens"),
    "sentences": ([[2, 0], [1, 1, 0]], r"cuts 2 documents into 5 sequences"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_not_one_sequence_a_document_is_refused_and_the_command_in_the_message_adopts_it(
    tmp_path: Path, tokenizer_dir: Path, documents: list[list[int]], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts, message = STRANGE[name]
    builder = IndexedDatasetBuilder(f"{tmp_path / 'a b'}.bin", dtype=np.uint16)
    kept = []
    for number, lengths in enumerate(cuts):
        document = documents[number % 3] if lengths else []
        if lengths:
            kept.append(document)
            lengths = [*lengths[:-1], len(document) - sum(lengths)]
        builder.add_document(torch.tensor(document, dtype=torch.int64), [0] if lengths is None else lengths)
    builder.finalize(f"{tmp_path / 'a b'}.idx")
    prefix = tmp_path / "a b"
    with pytest.raises(ShardError, match=message) as refused:
        adopt(prefix, tokenizer_dir, Labels(domain="a domain", licence="MIT"))
    assert not Path(f"{prefix}.json").exists()
    program, *words = shlex.split(str(refused.value).split("`")[1])
    assert (program, words[0]) == ("fanal", "tokenizer") and main(words[1:]) == 0
    output = Path(words[-1])
    shard = open_shard(output)
    assert [shard.document(number).tolist() for number in range(shard.num_documents)] == kept
    assert shard.manifest.num_skipped == len(cuts) - len(kept)
    assert (shard.manifest.domain, shard.manifest.licence, shard.manifest.source) == ("a domain", "MIT", None)
    assert verify([output], deep=True, tokenizer_dir=tokenizer_dir)[0].problems == ()
    assert Path(f"{output}.bin").read_bytes() == Path(f"{prefix}.bin").read_bytes()
    assert (shard.manifest.options.append_bos, shard.manifest.options.append_eos) == (False, True)
    said = capsys.readouterr()
    assert f"{output}: {len(kept)} documents" in said.out
    assert ("documents without a token" in said.err) == (len(kept) < len(cuts))


def test_a_shard_of_nothing_but_empty_documents_is_refused(tmp_path: Path, tokenizer_dir: Path) -> None:
    builder = IndexedDatasetBuilder(f"{tmp_path / 'a'}.bin", dtype=np.uint16)
    builder.add_document(torch.tensor([], dtype=torch.int64), [0])
    builder.finalize(f"{tmp_path / 'a'}.idx")
    with pytest.raises(ShardError, match=r"a.idx holds no document with a token; leave this shard out"):
        adopt(tmp_path / "a", tokenizer_dir, output=tmp_path / "b")
    with pytest.raises(ShardError, match=r"a.idx holds no document with a token; leave this shard out"):
        adopt(tmp_path / "a", tokenizer_dir)
    assert not list(tmp_path.glob("b*"))


def test_a_manifest_that_is_there_is_kept(tmp_path: Path, tokenizer_dir: Path, documents: list[list[int]]) -> None:
    prefix = megatron_shard(tmp_path / "a", documents)
    adopt(prefix, tokenizer_dir)
    with pytest.raises(ShardError, match=r"a.json exists: the shard has a manifest; .* verify"):
        adopt(prefix, tokenizer_dir)


def test_a_killed_adopt_leaves_nothing_that_makes_the_shard_look_like_leftovers(
    tmp_path: Path, tokenizer_dir: Path, documents: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = megatron_shard(tmp_path / "a", documents)
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        adopt(prefix, tokenizer_dir)
    monkeypatch.undo()
    assert not (tmp_path / "a.json.part").exists()
    with pytest.raises(ShardError, match=r"a.bin exists without a manifest"):
        ShardWriter(prefix, vocab_size=600, tokenizer_sha256="ab" * 32).__enter__()


def test_the_tokenizer_of_another_text_is_refused_though_it_has_as_many_ids(
    tmp_path: Path, tokenizer_dir: Path, corpus: Path
) -> None:
    lines = (corpus / "train" / "code.jsonl").read_text().splitlines()[:300]
    reversed_text = [json.dumps({"text": json.loads(line)["text"][::-1]}) for line in lines]
    (tmp_path / "other.jsonl").write_text("\n".join(reversed_text))
    train_tokenizer(load_tokenizer(tokenizer_dir).spec, [tmp_path / "other.jsonl"], tmp_path / "other")
    texts = [json.loads(line)["text"] for line in lines[:20]]
    processor = load_tokenizer(tokenizer_dir).processor
    prefix = megatron_shard(tmp_path / "a", [[*processor.Encode(text), processor.eos_id()] for text in texts])
    with pytest.raises(ShardError, match=r"none of \d+ documents of .*a gets its ids again when .*other decodes and"):
        adopt(prefix, tmp_path / "other")
    assert not Path(f"{prefix}.json").exists()
    adopt(prefix, tokenizer_dir)
    assert not open_shard(prefix).manifest.has_other_ids
    Path(f"{prefix}.json").unlink()
    assert main(["adopt", str(prefix), "--tokenizer", str(tmp_path / "other"), "--ids-of-another-tokenizer"]) == 0
    assert open_shard(prefix).manifest.has_other_ids
