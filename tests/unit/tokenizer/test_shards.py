import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tokenizer.manifests import edit_manifest
from tokenizer.shards.manifest import DamagedShardError
from tokenizer.shards.shard import EncodeOptions, ShardError, ShardManifest, ShardWriter, open_shard
from tokenizer.verify_shards import verify

SHA = "ab" * 32
OPTIONS = EncodeOptions(append_bos=True, append_eos=True, text_field="text")
PROVENANCE = {"domain": "code", "licence": "CC0-1.0", "source": None, "input_files": [], "options": OPTIONS}
DOCUMENTS = [[0, 5, 6, 1], [0, 1], [0, 99, 98, 97, 1]]


def write_shard(prefix: Path, documents=DOCUMENTS, vocab_size: int = 100) -> ShardManifest:
    with ShardWriter(prefix, vocab_size=vocab_size, tokenizer_sha256=SHA) as writer:
        for document in documents:
            writer.add_document(document)
        return writer.finish(**PROVENANCE)


def edit_bytes(path: Path, offset: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65499, "uint16"), (65500, "int32"), (200_000, "int32")])
def test_files_are_those_of_megatrons_builder_and_its_reader_opens_them(
    tmp_path: Path, vocab_size: int, dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

    random = np.random.default_rng(0)
    documents = [random.integers(0, vocab_size, size) for size in (1, 7, 1000, 3)]
    documents[1][0] = vocab_size - 1
    write_shard(tmp_path / "ours", documents, vocab_size)
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=DType.optimal_dtype(vocab_size))
    for document in documents:
        builder.add_document(torch.from_numpy(document), [len(document)])
    builder.finalize(str(tmp_path / "theirs.idx"))

    assert open_shard(tmp_path / "ours").manifest.dtype == dtype
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (tmp_path / f"theirs.{suffix}").read_bytes()
    read = IndexedDataset(str(tmp_path / "ours"))
    assert len(read) == 4
    assert all(np.array_equal(read[i], documents[i]) for i in range(4))


@given(documents=st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=9))
def test_a_shard_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, documents) -> None:
    prefix = tmp_path_factory.mktemp("shard") / "name.with.dots"
    write_shard(prefix, documents)
    shard = open_shard(prefix)
    flat = [token for document in documents for token in document]
    assert shard.tokens.tolist() == flat
    assert shard.document_offsets.tolist() == [0, *np.cumsum([len(document) for document in documents]).tolist()]
    assert [shard.document(i).tolist() for i in range(shard.num_documents)] == documents
    assert (shard.num_documents, shard.num_tokens) == (len(documents), len(flat))
    assert shard.manifest.highest_token_id == max(flat)
    assert verify([prefix], deep=True)[0].problems == ()


def test_tokens_are_a_read_only_map_and_open_nothing_before_use(tmp_path: Path) -> None:
    write_shard(tmp_path / "a")
    shard = open_shard(tmp_path / "a")
    assert "tokens" not in vars(shard)
    assert isinstance(shard.tokens, np.memmap)
    assert shard.tokens.dtype == shard.dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        shard.tokens[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        shard.document_offsets[0] = 1


def test_a_pickled_shard_carries_its_name_and_not_its_tokens(tmp_path: Path) -> None:
    write_shard(tmp_path / "a", [[1] * 100_000])
    shard = open_shard(tmp_path / "a")
    assert shard.tokens[0] == 1
    pickled = pickle.dumps(shard)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).tokens.tolist() == shard.tokens.tolist()


def test_nothing_is_left_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), ShardWriter(tmp_path / "a", vocab_size=9, tokenizer_sha256=SHA) as writer:
        writer.add_document([1])
        names = {p.name for p in tmp_path.iterdir()}
        assert names == {"a.bin.part", "a.lengths.part", "a.order.part", "a.lock.part"}
        raise KeyError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", ["sync_path", "record_bytes", "write_index"])
def test_nothing_is_left_when_finishing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def fail(*_) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(f"tokenizer.shards.writer.{failing}", fail)
    with pytest.raises(OSError, match="disk full"):
        write_shard(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_block_left_without_finish_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="left without finish"),
        ShardWriter(tmp_path / "a", vocab_size=9, tokenizer_sha256=SHA) as writer,
    ):
        writer.add_document([1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["bin", "idx", "json"])
def test_an_existing_file_is_refused_and_left_alone(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").write_text("precious")
    with pytest.raises(ShardError, match=rf"a\.{suffix} exists.* overwritten"):
        write_shard(tmp_path / "a")
    assert (tmp_path / f"a.{suffix}").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        ([0, 100], ShardError, "document 1 of .*a holds id 100, expected 0 to vocab_size - 1 = 99"),
        ([-1, 5], ShardError, "document 1 of .*a holds id -1, expected 0 to"),
        ([], AssertionError, "leave out empty documents"),
        ([[1, 2]], AssertionError, r"shape \(1, 2\)"),
        ([1.0], AssertionError, "is float64"),
    ],
)
def test_a_document_that_does_not_fit_is_refused(
    tmp_path: Path, document, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_shard(tmp_path / "a", [[1], document])
    assert not list(tmp_path.iterdir())


def test_a_shard_without_documents_or_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="would hold no document"):
        write_shard(tmp_path / "a", [])
    with pytest.raises(AssertionError, match=r"tokenizer_sha256 \('abc'\) 64 hexadecimal digits"):
        ShardWriter(tmp_path / "a", vocab_size=3, tokenizer_sha256="abc")
    assert not list(tmp_path.iterdir())


# 34 header bytes, then 3 int32 lengths, 3 int64 pointers, 4 int64 document indices; tokens are 2 bytes.
FAULTS = {
    "cut bin": (
        lambda p: Path(f"{p}.bin").write_bytes(Path(f"{p}.bin").read_bytes()[:-2]),
        r"a\.bin has 20 bytes, expected 22",
    ),
    "long bin": (
        lambda p: Path(f"{p}.bin").write_bytes(bytes(24)),
        r"a\.bin has 24 bytes, expected 22 bytes \(11 tokens",
    ),
    "no bin": (lambda p: Path(f"{p}.bin").unlink(), r"a\.bin does not exist, expected 22 bytes"),
    "no idx": (lambda p: Path(f"{p}.idx").unlink(), r"a\.idx does not exist, expected 102 bytes \(3 documents\)"),
    "no json": (lambda p: Path(f"{p}.json").unlink(), r"a\.json does not exist; give the PREFIX"),
    "cut idx": (lambda p: Path(f"{p}.idx").write_bytes(Path(f"{p}.idx").read_bytes()[:-8]), r"a\.idx has 94 bytes"),
    "magic": (lambda p: edit_bytes(Path(f"{p}.idx"), 0, b"X"), r"header is \(b'XMIDIDX"),
    "dtype code": (
        lambda p: edit_bytes(Path(f"{p}.idx"), 17, b"\x04"),
        r"header is .* 1, 4, 3, 4\), expected .* 1, 8, 3, 4\)",
    ),
    "first length": (lambda p: edit_bytes(Path(f"{p}.idx"), 34, b"\x05"), "second byte offset is 8, expected 10"),
    "last length": (
        lambda p: edit_bytes(Path(f"{p}.idx"), 42, b"\x06"),
        "end of the last document in bytes is 24, expected 22",
    ),
    "first pointer": (lambda p: edit_bytes(Path(f"{p}.idx"), 46, b"\x02"), "first byte offset is 2, expected 0"),
    "last pointer": (
        lambda p: edit_bytes(Path(f"{p}.idx"), 62, b"\x0a"),
        "end of the last document in bytes is 20, expected 22",
    ),
    "first document": (lambda p: edit_bytes(Path(f"{p}.idx"), 70, b"\x01"), "first document index is 1, expected 0"),
    "last document": (lambda p: edit_bytes(Path(f"{p}.idx"), 94, b"\x02"), "last document index is 2, expected 3"),
    "tokens": (lambda p: edit_manifest(p, num_tokens=12), "a.bin has 22 bytes, expected 24"),
    "documents": (lambda p: edit_manifest(p, num_documents=2), "a.idx has 102 bytes, expected 82"),
    "dtype": (lambda p: edit_manifest(p, dtype="int32"), "a.bin has 22 bytes, expected 44"),
    "highest": (
        lambda p: edit_manifest(p, highest_token_id=100),
        r"highest_token_id is 100, expected 0 to vocab_size - 1 = 99",
    ),
    "version": (lambda p: edit_manifest(p, format_version=1), "format_version is 1, expected 2"),
    "tokenizer": (lambda p: edit_manifest(p, tokenizer_sha256=""), "tokenizer_sha256 is '', expected 64 hexadecimal"),
    "unknown key": (lambda p: edit_manifest(p, colour="red"), "unknown key 'colour'"),
    "json": (lambda p: Path(f"{p}.json").write_text("{"), "cannot be read as JSON"),
}


NOT_DAMAGE = {"no bin", "no idx", "no json", "highest", "version", "tokenizer", "unknown key", "json"}
"""What a wrong prefix, or a description that somebody wrote, looks like; all else is bytes that changed."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_the_ends_is_found_on_opening(tmp_path: Path, name: str) -> None:
    fault, message = FAULTS[name]
    write_shard(tmp_path / "a")
    open_shard(tmp_path / "a")
    fault(tmp_path / "a")
    with pytest.raises(ShardError if name in NOT_DAMAGE else DamagedShardError, match=message):
        open_shard(tmp_path / "a")


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    start=st.integers(0, 160),
    num_tokens=st.integers(0, 40),
)
def test_documents_in_a_range_of_tokens_are_found_without_the_whole_index(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], start: int, num_tokens: int
) -> None:
    prefix = tmp_path_factory.mktemp("shard") / "shard"
    write_shard(prefix, [[1] * length for length in lengths])
    shard = open_shard(prefix)
    offsets = np.cumsum([0, *lengths])[:-1]
    found = shard.documents_in(start, num_tokens)
    assert found.dtype == np.int64
    assert found.tolist() == [offset for offset in offsets.tolist() if start <= offset < start + num_tokens]
    assert "document_offsets" not in vars(shard), "the whole index must not be read"


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=30), data=st.data())
def test_the_documents_that_hold_a_range_of_tokens_are_found_by_number(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], data: st.DataObject
) -> None:
    prefix = tmp_path_factory.mktemp("shard") / "shard"
    write_shard(prefix, [[1] * length for length in lengths])
    start = data.draw(st.integers(0, sum(lengths) - 1))
    num_tokens = data.draw(st.integers(1, sum(lengths) - start))
    document_of_token = np.repeat(np.arange(len(lengths)), lengths)
    found = open_shard(prefix).documents_over(start, num_tokens)
    assert list(found) == sorted(set(document_of_token[start : start + num_tokens].tolist()))


def test_a_search_among_a_hundred_thousand_documents_looks_at_a_few_pointers(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", [[1] * 3 for _ in range(100_000)])
    shard = open_shard(tmp_path / "shard")

    class Counted:
        reads = 0

        def __init__(self, pointers: np.ndarray) -> None:
            self.pointers = pointers

        def __getitem__(self, index: int) -> np.ndarray:
            Counted.reads += 1
            return self.pointers[index]

        def __len__(self) -> int:
            return len(self.pointers)

    lengths, pointers = shard._mapped_tables
    vars(shard)["_mapped_tables"] = lengths, Counted(pointers)
    assert shard.documents_in(150_001, 64).tolist() == list(range(150_003, 150_065, 3))
    assert Counted.reads < 30
    Counted.reads = 0
    assert shard.documents_over(150_001, 64) == range(50_000, 50_022)
    assert Counted.reads < 40


@pytest.mark.parametrize(
    "pointers", [[50, 149, 1 << 40], [50, 99, -1], [50, 99, None]], ids=["far", "negative", "reversed"]
)
def test_a_search_in_a_damaged_index_is_refused(tmp_path: Path, pointers: list) -> None:
    write_shard(tmp_path / "a", [[1] * (1 + number % 5) for number in range(300)])
    first, end, value = pointers
    table = np.fromfile(tmp_path / "a.idx", "<i8", offset=34 + 4 * 300, count=300)
    table[first:end] = table[first:end][::-1] if value is None else value
    edit_bytes(tmp_path / "a.idx", 34 + 4 * 300, table.tobytes())
    shard = open_shard(tmp_path / "a")
    found = refused = 0
    for start in range(0, shard.num_tokens - 20, 3):
        expected = [n for n in offsets_of_cycle(300) if start <= n < start + 20]
        try:
            assert shard.documents_in(start, 20).tolist() == expected, "an answer is right, or there is none"
            found += 1
        except DamagedShardError as error:
            assert "a.idx does not say where the documents around token" in str(error)
            refused += 1
    assert found and refused


def offsets_of_cycle(count: int) -> list[int]:
    return [0, *np.cumsum([1 + number % 5 for number in range(count - 1)]).tolist()]
