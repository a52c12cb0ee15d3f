"""Parts encoded apart and merged are the shard that one machine writes; a shuffle has one order for all of them."""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from tokenizer.documents.blocks import Part, RawBlock
from tokenizer.encoding.encode import encode
from tokenizer.encoding.merge import merge
from tokenizer.shards.labels import Labels
from tokenizer.shards.manifest import DamagedShardError
from tokenizer.shards.shard import ShardError, ShardWriter, open_shard
from tokenizer.shards.shuffle import Shuffler, document_keys
from tokenizer.verify_shards import verify


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> list[Path]:
    """One file that is cut, a compressed one that is not, and a small one."""
    folder = tmp_path_factory.mktemp("inputs")
    prose = (corpus / "train" / "prose.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "a.jsonl").write_bytes(b"".join(prose[:60]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(prose[60:90])))
    (folder / "c.jsonl").write_bytes(b"".join(prose[90:93]))
    return sorted(folder.iterdir())


def files_of(prefix: Path) -> list[bytes]:
    return [Path(f"{prefix}.{suffix}").read_bytes() for suffix in ("bin", "idx", "json")]


@pytest.mark.parametrize("shuffle_seed", [None, 0, 7])
@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_parts_merge_to_the_very_bytes_of_one_run(
    tmp_path: Path, tokenizer_dir: Path, inputs: list[Path], shuffle_seed: int | None, count: int
) -> None:
    encode(tokenizer_dir, inputs, tmp_path / "whole", shuffle_seed=shuffle_seed, num_workers=1)
    parts = []
    for number in range(1, count + 1):
        parts.append(tmp_path / f"part-{number}")
        part = Part(number=number, count=count)
        encode(tokenizer_dir, inputs, parts[-1], shuffle_seed=shuffle_seed, part=part, num_workers=1)
    merge(parts[::-1], tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")
    assert verify([tmp_path / "merged"], deep=True)[0].problems == ()
    assert not list(tmp_path.glob("*.part"))


def test_a_shuffle_is_a_permutation_that_only_the_seed_changes(
    tmp_path: Path, tokenizer_dir: Path, inputs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = encode(tokenizer_dir, inputs, tmp_path / "plain").manifest
    encode(tokenizer_dir, inputs, tmp_path / "one", shuffle_seed=1, num_workers=1)
    monkeypatch.setattr("tokenizer.documents.blocks.BLOCK_BYTES", 9000)
    monkeypatch.setattr("tokenizer.shards.shuffle.BUCKET_BYTES", 5000)
    monkeypatch.setattr("tokenizer.shards.shuffle.BATCH_TOKENS", 700)
    encode(tokenizer_dir, inputs, tmp_path / "one again", shuffle_seed=1, num_workers=3)
    encode(tokenizer_dir, inputs, tmp_path / "two", shuffle_seed=2)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "one again")
    documents = {}
    for name in ("plain", "one", "two"):
        shard = open_shard(tmp_path / name)
        documents[name] = [shard.document(number).tobytes() for number in range(shard.num_documents)]
    assert documents["one"] != documents["two"] != documents["plain"] != documents["one"]
    assert sorted(documents["one"]) == sorted(documents["two"]) == sorted(documents["plain"])
    assert plain.num_documents == 93


def test_the_shuffle_mixes_evenly() -> None:
    keys = document_keys(3, 0, np.arange(100_000) * 1000)
    assert len(np.unique(keys)) == len(keys)
    ranks = np.argsort(np.argsort(keys))
    assert abs(np.corrcoef(np.arange(len(keys)), ranks)[0, 1]) < 0.02
    assert np.abs(np.bincount((keys >> np.uint64(60)).astype(int)) / 6250 - 1).max() < 0.06
    assert not np.intersect1d(keys, document_keys(4, 0, np.arange(100_000) * 1000)).size
    assert not np.intersect1d(keys, document_keys(3, 1, np.arange(100_000) * 1000)).size


def test_equal_keys_keep_the_order_of_the_input(tmp_path: Path) -> None:
    lengths = np.array([1, 2, 1], np.int32)
    with Shuffler(tmp_path / "a", np.dtype("<u2"), 100) as shuffler:
        for first, key in ((0, 5), (10, 5), (20, 4)):
            tokens = np.arange(first, first + 4, dtype=np.uint16)
            shuffler.add(np.full(3, key, np.uint64), lengths, tokens)
        tokens = np.concatenate([tokens for _, _, tokens, _ in shuffler.in_order()])
    assert tokens.tolist() == [20, 21, 22, 23, 0, 1, 2, 3, 10, 11, 12, 13]
    assert not list(tmp_path.iterdir())


def test_a_bad_set_of_parts_is_refused(tmp_path: Path, tokenizer_dir: Path, inputs: list[Path]) -> None:
    for number in (1, 2, 3):
        encode(tokenizer_dir, inputs, tmp_path / str(number), part=Part(number=number, count=3))
    encode(tokenizer_dir, inputs, tmp_path / "whole")
    encode(tokenizer_dir, inputs, tmp_path / "no eos", append_eos=False, part=Part(number=3, count=3))
    one, two, three = (tmp_path / str(number) for number in (1, 2, 3))
    for parts, message in (
        ([one, three], r"the parts given are 1/3, 3/3, expected each of 1/3 to 3/3 once; missing: 2/3"),
        ([one, two, three, two], r"expected each of 1/3 to 3/3 once"),
        ([one, two, tmp_path / "whole"], r"whole is a complete shard, expected one written with --part"),
        ([one, two, tmp_path / "no eos"], r"no eos has options .*append_eos=False.* parts of different runs"),
        ([one, two, tmp_path / "none"], r"none.json does not exist"),
    ):
        with pytest.raises(ShardError, match=message):
            merge(parts, tmp_path / "merged")
        assert not list(tmp_path.glob("merged*"))
    content = bytearray(Path(f"{two}.bin").read_bytes())
    content[40] ^= 1
    Path(f"{two}.bin").write_bytes(content)
    with pytest.raises(DamagedShardError, match=r"2.bin has sha256 .*; encode this part again"):
        merge([one, two, three], tmp_path / "merged")


def test_a_changed_order_of_a_shuffled_part_is_refused(tmp_path: Path, tokenizer_dir: Path, inputs: list[Path]) -> None:
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, prefix in enumerate(parts, start=1):
        encode(tokenizer_dir, inputs, prefix, shuffle_seed=1, part=Part(number=number, count=2))
    order = Path(f"{parts[0]}.order")
    keys = np.fromfile(order, "<u8")
    keys[[0, 1]] = keys[[1, 0]]
    keys.tofile(order)
    assert "1.order has sha256" in str(verify(parts[:1], deep=True)[0].problems)
    with pytest.raises(DamagedShardError, match=r"1.order has sha256"):
        merge(parts, tmp_path / "merged")
    order.unlink()
    with pytest.raises(ShardError, match=r"1.order has sha256 no file"):
        merge(parts, tmp_path / "merged")


def test_parts_of_other_labels_are_refused_and_languages_become_mul(tmp_path: Path, tokenizer_dir: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": "a" * 40, "language": "fr"}, {"text": "b" * 40, "language": "de"}]
    for key, values in (("domain", ("x", "y")), ("domain", ("x", "x"))):
        for row, value in zip(rows, values, strict=True):
            row[key] = value
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        prefixes = [tmp_path / f"{'-'.join(values)}-{number}" for number in (1, 2)]
        for number, prefix in enumerate(prefixes, start=1):
            encode(tokenizer_dir, [path], prefix, part=Part(number=number, count=2))
        if values[0] != values[1]:
            with pytest.raises(ShardError, match=r"the parts differ in domain: 'x' in .*, 'y' in "):
                merge(prefixes, tmp_path / "merged")
        else:
            assert merge(prefixes, tmp_path / "merged").language == "mul"
            assert encode(tokenizer_dir, [path], tmp_path / "whole").manifest.language == "mul"


def test_a_part_without_documents_merges_and_cannot_be_opened(tmp_path: Path, tokenizer_dir: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "' + "long " * 100 + '"}\n')
    for number in (1, 2):
        encode(tokenizer_dir, [path], tmp_path / str(number), part=Part(number=number, count=2))
    with pytest.raises(ShardError, match=r"highest_token_id is -1, expected 0 to"):
        open_shard(tmp_path / "2")
    assert verify([tmp_path / "2"], deep=True)[0].problems == (), "nothing is wrong with it"
    encode(tokenizer_dir, [path], tmp_path / "whole")
    merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")


def test_bad_parts_are_refused() -> None:
    for number, count in itertools.product((0, 4), (3,)):
        with pytest.raises(ValueError, match=rf"part {number}/{count} must be I/N with 1 <= I <= N"):
            Part(number=number, count=count)


def test_parts_of_other_inputs_or_options_are_refused(tmp_path: Path, tokenizer_dir: Path, inputs: list[Path]) -> None:
    def part(number: int, files: list[Path], **options) -> Path:
        prefix = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        encode(tokenizer_dir, files, prefix, part=Part(number=number, count=2), **options)
        return prefix

    first = part(1, inputs)
    for other in (
        part(2, inputs[::-1]),
        part(2, inputs[:2]),
        part(2, inputs, txt_documents="line"),
        part(2, inputs, on_error="skip"),
        part(2, inputs, labels=Labels(domain="x")),
    ):
        with pytest.raises(ShardError, match=r"were not given the same --input .* and options"):
            merge([first, other], tmp_path / "merged")
    merge([first, part(2, inputs)], tmp_path / "merged")


def test_merging_shuffled_parts_takes_few_documents_at_a_time(
    tmp_path: Path, tokenizer_dir: Path, inputs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixes = [tmp_path / "1", tmp_path / "2"]
    for number, prefix in enumerate(prefixes, start=1):
        encode(tokenizer_dir, inputs, prefix, shuffle_seed=1, part=Part(number=number, count=2))
    encode(tokenizer_dir, inputs, tmp_path / "whole", shuffle_seed=1)
    longest = np.diff(open_shard(tmp_path / "whole").document_offsets).max()
    batches = []
    add = ShardWriter.add_documents
    monkeypatch.setattr("tokenizer.encoding.merge.BATCH_TOKENS", 2000)
    monkeypatch.setattr(ShardWriter, "add_documents", lambda self, *a: batches.append(len(a[1])) or add(self, *a))
    merge(prefixes, tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")
    assert max(batches) <= 2000 + 2 * longest


def test_line_numbers_of_a_part_are_counted_only_for_a_message(
    tmp_path: Path, tokenizer_dir: Path, inputs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    monkeypatch.setattr("tokenizer.documents.blocks.BLOCK_BYTES", 3000)
    number = RawBlock.line_number
    monkeypatch.setattr(RawBlock, "line_number", lambda self, before: counted.append(1) or number(self, before))
    encode(tokenizer_dir, inputs[:1], tmp_path / "2", part=Part(number=2, count=2), num_workers=1)
    assert not counted


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(tmp_path: Path, tokenizer_dir: Path, inputs: list[Path], seed: int) -> None:
    with pytest.raises(ValueError, match=rf"shuffle_seed \({seed}\) must be from 0 to 2\*\*63 - 1"):
        encode(tokenizer_dir, inputs, tmp_path / "a", shuffle_seed=seed)
