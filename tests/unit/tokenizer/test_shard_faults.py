"""The fault table: what can happen to a shard or to the text before it, and who notices."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.tokenizer.manifests import edit_manifest
from tokenizer.encoding.encode import encode
from tokenizer.shards.manifest import DamagedShardError
from tokenizer.shards.shard import ShardError, ShardWriter, open_shard
from tokenizer.verify_shards import verify
from tokenizer.vocabulary.load import load_tokenizer

ROOT = Path(__file__).parents[3]
SUFFIXES = ("bin", "idx", "json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path, corpus: Path) -> Path:
    """A sound shard of a few hundred documents."""
    prefix = tmp_path_factory.mktemp("whole") / "shard"
    encode(tokenizer_dir, [corpus / "validation" / "prose.jsonl"], prefix)
    return prefix


def copy(prefix: Path, folder: Path) -> Path:
    for suffix in SUFFIXES:
        shutil.copy(f"{prefix}.{suffix}", folder / f"copy.{suffix}")
    return folder / "copy"


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_a_file_cut_to_any_length_is_refused_at_once(
    tmp_path: Path, whole: Path, suffix: str, data: st.DataObject
) -> None:
    prefix = copy(whole, tmp_path)
    path = Path(f"{prefix}.{suffix}")
    size = path.stat().st_size
    length = data.draw(st.integers(0, size - 1) | st.sampled_from([0, 1, size - 1, size - 2, size // 2]))
    with path.open("r+b") as stream:
        stream.truncate(length)
    with pytest.raises(DamagedShardError, match=rf"copy.{suffix} has {length} bytes, expected {size} bytes"):
        open_shard(prefix)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_one_flipped_bit_anywhere_is_found_by_deep_and_placed(
    tmp_path: Path, whole: Path, suffix: str, data: st.DataObject
) -> None:
    prefix = copy(whole, tmp_path)
    path = Path(f"{prefix}.{suffix}")
    content = bytearray(path.read_bytes())
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    content[at] ^= 1 << bit
    path.write_bytes(content)
    problems = " ".join(verify([prefix], deep=True)[0].problems)
    assert f"copy.{suffix}" in problems
    if suffix == "bin":
        assert "block 0 (bytes 0 to " in problems


def test_every_bit_of_a_small_index_is_watched(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a", vocab_size=100, tokenizer_sha256="ab" * 32) as writer:
        for document in ([1, 2], [3], [4, 5, 6]):
            writer.add_document(document)
        from tokenizer.shards.shard import EncodeOptions

        options = EncodeOptions(append_bos=False, append_eos=False, text_field=None)
        writer.finish(domain=None, licence=None, source=None, input_files=[], options=options)
    path = tmp_path / "a.idx"
    sound = path.read_bytes()
    for at in range(8 * len(sound)):
        content = bytearray(sound)
        content[at // 8] ^= 1 << at % 8
        path.write_bytes(content)
        assert verify([tmp_path / "a"], deep=True)[0].problems, f"bit {at}"
    path.write_bytes(sound)
    assert not verify([tmp_path / "a"], deep=True)[0].problems


def test_bad_blocks_of_a_large_shard_are_named_with_their_documents(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("fanal.files", "tokenizer.shards.manifest", "tokenizer.shards.verify"):
        monkeypatch.setattr(f"{module}.HASH_BLOCK_BYTES", 4096)
    shard = open_shard_written_in_blocks(whole, tmp_path)
    content = bytearray(Path(f"{shard.prefix}.bin").read_bytes())
    bad = [0, len(content) // 2 // 4096, (len(content) - 1) // 4096]
    for block in bad:
        content[block * 4096] ^= 1
    Path(f"{shard.prefix}.bin").write_bytes(content)
    problems = verify([shard.prefix], deep=True)[0].problems
    offsets = shard.document_offsets * 2
    assert len(problems) == 3
    for block, problem in zip(bad, problems, strict=True):
        end = min((block + 1) * 4096, len(content))
        inside = [n for n in range(shard.num_documents) if offsets[n] < end and offsets[n + 1] > block * 4096]
        assert f"block {block} (bytes {block * 4096} to {end - 1}, documents {inside[0]} to {inside[-1]})" in problem


def open_shard_written_in_blocks(whole: Path, folder: Path):
    source = open_shard_without_blocks(whole)
    with ShardWriter(folder / "b", vocab_size=600, tokenizer_sha256="ab" * 32) as writer:
        for number in range(source.num_documents):
            writer.add_document(source.document(number))
        writer.finish(domain=None, licence=None, source=None, input_files=[], options=source.manifest.options)
    return open_shard(folder / "b")


def open_shard_without_blocks(whole: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenizer.shards.manifest.HASH_BLOCK_BYTES", 64 << 20)
        return open_shard(whole)


def test_an_id_beyond_the_vocabulary_is_named_with_its_document(tmp_path: Path, whole: Path) -> None:
    prefix = copy(whole, tmp_path)
    tokens = np.fromfile(f"{prefix}.bin", "<u2")
    shard = open_shard(prefix)
    at = int(shard.document_offsets[5]) + 1
    tokens[at] = 600
    tokens.tofile(f"{prefix}.bin")
    assert f"holds id 600 at token {at} (document 5), expected 0 to vocab_size - 1 = 599" in " ".join(
        verify([prefix], deep=True)[0].problems
    )


def test_the_manifest_of_another_tokenizer_is_found_by_verify(tmp_path: Path, whole: Path, tokenizer_dir: Path) -> None:
    assert verify([whole], tokenizer_dir=tokenizer_dir)[0].problems == ()
    prefix = copy(whole, tmp_path)
    edit_manifest(prefix, tokenizer_sha256="ef" * 32)
    assert "has tokenizer_sha256 efef" in verify([prefix], tokenizer_dir=tokenizer_dir)[0].problems[0]


def test_a_missing_manifest_points_to_adopt(tmp_path: Path, whole: Path) -> None:
    prefix = copy(whole, tmp_path)
    Path(f"{prefix}.json").unlink()
    with pytest.raises(ShardError, match=r"copy.json does not exist; .*`fanal tokenizer adopt`"):
        open_shard(prefix)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file_is_refused(tmp_path: Path, whole: Path, suffix: str) -> None:
    prefix = copy(whole, tmp_path)
    Path(f"{prefix}.{suffix}").write_bytes(b"")
    with pytest.raises(
        ShardError if suffix == "json" else DamagedShardError,
        match=rf"copy.{suffix} (has 0 bytes|cannot be read as JSON)",
    ):
        open_shard(prefix)


def test_zero_documents_are_refused_by_reader_and_writer(tmp_path: Path, whole: Path, tokenizer_dir: Path) -> None:
    prefix = copy(whole, tmp_path)
    edit_manifest(prefix, num_documents=0)
    with pytest.raises(ShardError, match=r"num_documents is 0, expected at least 1"):
        open_shard(prefix)
    blank = tmp_path / "blank.jsonl"
    blank.write_text("\n \n")
    with pytest.raises(ShardError, match="would hold no document; give at least one"):
        encode(tokenizer_dir, [blank], tmp_path / "none")
    assert not list(tmp_path.glob("none*"))


ADVERSARIAL = {
    "longer than every buffer": "word é " * 1_000_000,
    "one word longer than every buffer": "a" * 3_000_000,
    "names of control tokens": "<s>a</s><pad><unk><turn><0x41>",
    "NUL bytes": "\0a\0\0b\0",
    "CRLF": "a\r\nb\r\n\r\n\r",
    "combining marks": "e\u0301\u0323 a\u030a\u0327 \u0300\u0300\u0300" + "\u0301" * 500,
    "emoji sequences": "👩‍👩‍👧‍👦👍🏽🇫🇷🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "spaces of all kinds": "\u00a0\u2003\u200b\u3000\t \u2581\u2581 \u2028\u2029\x85",
    "right to left and joiners": "שלום\u200f العربية\u200d\u200c ﷽",
    "beyond the basic plane": "𝒳𝓎\U0001f600\U0010ffff\U00020000",
    "noncharacters and specials": "\ufffe\uffff\ufffd\ufeff\U0001fffe",
    "not normalized": "ﬁ Å Å A\u030a 한 \u1112\u1161\u11ab",
    "only newlines": "\n" * 1000,
}


@pytest.mark.parametrize("engine", ["gigatoken", "sentencepiece"])
def test_unusual_text_keeps_its_ids_and_comes_back_to_the_letter(
    tmp_path: Path, tokenizer_dir: Path, engine: str
) -> None:
    tokenizer = load_tokenizer(tokenizer_dir)
    path = tmp_path / "a.jsonl"
    texts = list(ADVERSARIAL.values())
    # With and without escapes, so that surrogates appear as escapes too.
    rows = [json.dumps({"text": text}, ensure_ascii=ascii_only) for ascii_only in (True, False) for text in texts]
    path.write_text("\n".join(rows), encoding="utf-8", newline="\n")
    encode(tokenizer_dir, [path], tmp_path / "shard", engine=engine)
    shard = open_shard(tmp_path / "shard")
    for number, text in enumerate(texts * 2):
        ids = shard.document(number)[1:-1].tolist()
        assert ids == tokenizer.processor.Encode(text), list(ADVERSARIAL)[number % len(texts)]
        assert not set(ids) & set(tokenizer.control_ids)
        # U+2581 is SentencePiece's own sign for a space (see spec.py).
        assert tokenizer.decode(ids) == text.replace("\u2581", " ")


def test_the_command_says_what_it_left_out_and_stops_without_being_told_to(tmp_path: Path, tokenizer_dir: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "tw\n{"text": "\xc3("}\n')
    words = [sys.executable, "-m", "tokenizer", "encode", "--tokenizer", str(tokenizer_dir), "--input", str(path)]
    words += ["--output", str(tmp_path / "shard")]
    stopped = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    assert stopped.returncode == 2
    assert stopped.stderr.startswith(f"error: {path}:2: not a line of JSON in UTF-8")
    assert not list(tmp_path.glob("shard*"))
    skipped = subprocess.run([*words, "--on-error", "skip"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert skipped.returncode == 0
    assert "left out 2 documents that cannot be read:" in skipped.stderr
    assert f"{path}:2: not a line" in skipped.stderr and f"{path}:3: not a line" in skipped.stderr
    assert open_shard(tmp_path / "shard").num_documents == 1
