"""A shard without some documents has the bytes of an encoding of the others, and says which ones left, from which shard, and why."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from fanal.errors import UserError
from tests.unit.tokenizer.manifests import edit_manifest
from tokenizer.__main__ import main
from tokenizer.documents.blocks import Part
from tokenizer.documents.column_fields import ColumnFields
from tokenizer.encoding.encode import encode
from tokenizer.shards import exclude as exclude_module
from tokenizer.shards.document_columns import open_columns
from tokenizer.shards.document_lists import write_numbers
from tokenizer.shards.exclude import exclude
from tokenizer.shards.excluded_list import read_excluded
from tokenizer.shards.labels import Labels
from tokenizer.shards.manifest import (
    DamagedShardError,
    ShardError,
    ShardManifest,
    documents_path,
    excluded_path,
    read_manifest,
)
from tokenizer.shards.selection import Selection
from tokenizer.shards.shard import open_shard
from tokenizer.shards.shuffle import document_keys
from tokenizer.verify_shards import verify

REASON = "request 17"
TEXTS = [f"document {number} " + "some words of it " * (number % 7) for number in range(60)]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path, write_documents) -> Path:
    """A shard of 60 documents."""
    folder = tmp_path_factory.mktemp("whole")
    encode(tokenizer_dir, [write_documents(folder / "all.jsonl", TEXTS)], folder / "all", num_workers=1)
    return folder / "all"


def without(prefix: Path, output: Path, numbers: list[int] | str, **options: str) -> ShardManifest:
    path = output.with_name(f"{output.name}.txt")
    path.write_text(numbers if isinstance(numbers, str) else "".join(f"{number}\n" for number in numbers))
    return exclude(prefix, output, Selection(lists=[path]), reason=options.get("reason", REASON)).manifest


def data_of(prefix: Path) -> list[bytes]:
    return [Path(f"{prefix}.{suffix}").read_bytes() for suffix in ("bin", "idx")]


GONE = {
    "the first": [0],
    "the last": [59],
    "neighbours": [7, 8, 9],
    "some, unordered, one twice": [31, 2, 31, 58, 0],
    "all but one": [number for number in range(60) if number != 33],
    "at random": sorted(random.Random(5).sample(range(60), 25)),
}


@pytest.mark.parametrize("batch_tokens", [1, 50, 1 << 22])
@pytest.mark.parametrize("case", GONE)
def test_the_bytes_are_those_of_an_encoding_of_the_documents_that_stay(
    shard: Path, tokenizer_dir: Path, write_documents, tmp_path: Path, case: str, batch_tokens: int, monkeypatch
) -> None:
    monkeypatch.setattr(exclude_module, "BATCH_TOKENS", batch_tokens)
    gone = GONE[case]
    stay = [text for number, text in enumerate(TEXTS) if number not in gone]
    encode(tokenizer_dir, [write_documents(tmp_path / "rest.jsonl", stay)], tmp_path / "rest", num_workers=1)
    manifest, before = without(shard, tmp_path / "new", gone), read_manifest(shard)
    assert data_of(tmp_path / "new") == data_of(tmp_path / "rest")
    assert verify([tmp_path / "new"], deep=True)[0].problems == ()
    (said,) = manifest.exclusions
    assert (said.from_bin_sha256, said.from_idx_sha256) == (before.bin_sha256, before.idx_sha256)
    assert (said.num_documents, said.reason) == (len(set(gone)), REASON)
    assert said.num_tokens + manifest.num_tokens == before.num_tokens
    assert (manifest.input_files, manifest.options, manifest.licence) == (before.input_files, before.options, "CC0-1.0")


def test_a_shuffled_shard_keeps_its_order(shard: Path, tokenizer_dir: Path, write_documents, tmp_path: Path) -> None:
    lines = Path(f"{shard}.jsonl").read_text().splitlines(keepends=True)
    starts = np.cumsum([0, *(len(line) for line in lines[:-1])])
    order = np.argsort(document_keys(3, 0, starts))
    encode(tokenizer_dir, [Path(f"{shard}.jsonl")], tmp_path / "shuffled", shuffle_seed=3, num_workers=1)
    without(tmp_path / "shuffled", tmp_path / "new", [4, 5])
    stay = [TEXTS[number] for number in np.delete(order, [4, 5])]
    encode(tokenizer_dir, [write_documents(tmp_path / "rest.jsonl", stay)], tmp_path / "rest", num_workers=1)
    assert data_of(tmp_path / "new") == data_of(tmp_path / "rest")


def test_the_list_beside_the_shard_names_every_document_of_every_removal(shard: Path, tmp_path: Path) -> None:
    without(shard, tmp_path / "once", [3, 40], reason="request 17")
    manifest = without(tmp_path / "once", tmp_path / "twice", [3], reason="request 18")
    first, second = read_excluded(tmp_path / "twice", manifest)
    lengths = np.diff(open_shard(shard).document_offsets)
    assert (first.documents, first.tokens) == ((3, 40), tuple(lengths[[3, 40]].tolist()))
    assert (second.documents, second.tokens) == ((3,), (int(lengths[4]),)), "by its number in the shard it left"
    assert second.exclusion.from_bin_sha256 == read_manifest(tmp_path / "once").bin_sha256
    assert [one.reason for one in manifest.exclusions] == ["request 17", "request 18"]
    assert manifest.exclusions == (first.exclusion, second.exclusion)
    assert read_excluded(shard, read_manifest(shard)) == ()


@pytest.mark.parametrize("deep", [False, True])
def test_verify_finds_a_list_that_is_missing_or_changed(shard: Path, tmp_path: Path, deep: bool) -> None:
    manifest = without(shard, tmp_path / "new", [3])
    path = excluded_path(tmp_path / "new")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"17", b"18"))
    problems = verify([tmp_path / "new"], deep=deep)[0].problems
    assert len(problems) == deep and all("its bytes changed" in problem for problem in problems)
    with pytest.raises(DamagedShardError, match="its bytes changed"):
        read_excluded(tmp_path / "new", manifest)
    path.unlink()
    (problem,) = verify([tmp_path / "new"], deep=deep)[0].problems
    assert f"{path} does not exist" in problem
    with pytest.raises(ShardError, match="does not exist"):
        read_excluded(tmp_path / "new", manifest)


def test_every_flipped_byte_of_the_list_is_found(shard: Path, tmp_path: Path) -> None:
    manifest = without(shard, tmp_path / "new", [3])
    path = excluded_path(tmp_path / "new")
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DamagedShardError):
            read_excluded(tmp_path / "new", manifest)


def test_changed_bytes_get_no_new_hash(shard: Path, tmp_path: Path) -> None:
    for suffix in ("bin", "idx", "json"):
        Path(f"{tmp_path}/copy.{suffix}").write_bytes(Path(f"{shard}.{suffix}").read_bytes())
    content = bytearray((tmp_path / "copy.bin").read_bytes())
    content[100] ^= 1
    (tmp_path / "copy.bin").write_bytes(content)
    with pytest.raises(DamagedShardError, match="its bytes changed"):
        without(tmp_path / "copy", tmp_path / "new", [3])
    assert not Path(f"{tmp_path}/new.json").exists() and not excluded_path(tmp_path / "new").exists()


WRONG = {
    "no number": ("3\nfour\n", r":2: 'four' must be the number of a document .*, 0 to 59, alone on its line; 59 works"),
    "behind the end": ("60\n", r":1: '60' must be the number .* 0 to 59"),
    "below zero": ("-1\n", r":1: '-1' must be the number"),
    "two numbers": ("1 2\n", r":1: '1 2' must be the number"),
    "endless": ("9" * 5000 + "\n", r":1: '9+\S* must be the number"),
    "nothing": ("# nothing\n\n", "lists no document; write the number of one on each line, from 0 on"),
    "another shard's": (f"shard {'0' * 64} other\n3\n", "lists documents of the shard 000000000000, and none of"),
    "a head without a hash": ("shard train\n3\n", ":1: shard 'train' must be named by the sha256 of its tokens"),
    "all": ("".join(f"{number}\n" for number in range(60)), "all 60 documents of .* leave .* out of the mixture"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_list_is_refused(shard: Path, tmp_path: Path, case: str) -> None:
    content, message = WRONG[case]
    with pytest.raises(ShardError, match=message):
        without(shard, tmp_path / "new", content)
    assert not list(tmp_path.glob("new.*[!t]")), "nothing is left behind"


def test_a_list_serves_several_shards_and_each_takes_its_own(shard: Path, tmp_path: Path) -> None:
    without(shard, tmp_path / "other", [0])
    both = tmp_path / "both.txt"
    with both.open("wb") as stream:
        write_numbers(stream, open_shard(shard), [5, 6])
        write_numbers(stream, open_shard(tmp_path / "other"), [9])
    for prefix, gone in ((shard, (5, 6)), (tmp_path / "other", (9,))):
        manifest = exclude(prefix, tmp_path / f"without-{len(gone)}", Selection(lists=[both]), reason=REASON).manifest
        assert read_excluded(tmp_path / f"without-{len(gone)}", manifest)[-1].documents == gone


def test_a_part_and_a_reason_of_two_lines_are_refused(shard: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    part = Part(number=1, count=1)
    encode(tokenizer_dir, [Path(f"{shard}.jsonl")], tmp_path / "part", part=part, num_workers=1)
    with pytest.raises(ShardError, match=r"is part 1/1 of an encoding.*`fanal tokenizer merge`"):
        without(tmp_path / "part", tmp_path / "new", [3])
    with pytest.raises(UserError, match=r"--reason .* must be one line"):
        without(shard, tmp_path / "new", [3], reason="a\nb")


def test_the_command_names_what_left_and_a_star_passes_the_list_over(
    shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list").write_text("# by request\n3\n\n4\n")
    words = ["exclude", f"{shard}.json", "--documents", str(tmp_path / "list"), "--output", str(tmp_path / "new")]
    assert main(words) == 2, "a reason is needed"
    assert main([*words, "--reason", REASON]) == 0
    said = capsys.readouterr().out
    assert (
        "new: 58 documents" in said
        and f"new: without 2 documents, {read_manifest(tmp_path / 'new').exclusions[0].num_tokens:,}" in said
    )
    assert json.loads((tmp_path / "new.json").read_text())["exclusions"][0]["selected_by"] == [
        f"--documents {tmp_path / 'list'}"
    ]
    assert main(["verify", "--deep", *map(str, sorted(tmp_path.glob("*.json")))]) == 0
    assert main(["verify", f"{tmp_path}/new.excluded.json"]) == 0, "it stands for its shard"
    assert main([*words, "--reason", REASON]) == 2, "a shard is never overwritten"


def test_what_a_killed_writer_left_is_replaced_and_a_list_of_somebody_is_not(shard: Path, tmp_path: Path) -> None:
    without(shard, tmp_path / "new", [3])
    wanted = {path.name: path.read_bytes() for path in tmp_path.glob("new.*")}
    assert set(wanted) == {"new.txt", "new.bin", "new.idx", "new.json", "new.excluded.json"}
    for renamed in (("new.json",), ("new.json", "new.bin"), ("new.json", "new.bin", "new.idx", "new.excluded.json")):
        for name in renamed:
            (tmp_path / name).rename(tmp_path / f"{name}.part")
        without(shard, tmp_path / "new", [3])
        assert {path.name: path.read_bytes() for path in tmp_path.glob("new.*")} == wanted
    for name in ("new.json", "new.bin", "new.idx"):
        (tmp_path / name).unlink()
    with pytest.raises(ShardError, match=r"new.excluded.json exists without a manifest, and is not overwritten"):
        without(shard, tmp_path / "new", [3])
    assert (tmp_path / "new.excluded.json").read_bytes() == wanted["new.excluded.json"]


def test_a_manifest_that_says_another_list_is_caught_by_its_hash(shard: Path, tmp_path: Path) -> None:
    without(shard, tmp_path / "new", [3])
    edit_manifest(tmp_path / "new", excluded_sha256="0" * 64)
    (problem,) = verify([tmp_path / "new"], deep=True)[0].problems
    assert f"expected {'0' * 64}" in problem


SITES = ["https://www.example.com/a", "http://news.example.org/b", None, "https://other.net"]
LICENCES = ["CC0-1.0", "MIT", None]


@pytest.fixture(scope="module")
def with_columns(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path, write_documents) -> Path:
    """The same documents with ids, sites and licences, some without."""
    rows = [
        {
            "text": text,
            "id": f"doc/{number}" if number != 8 else None,
            "url": SITES[number % len(SITES)],
            "licence": LICENCES[number % len(LICENCES)],
        }
        for number, text in enumerate(TEXTS)
    ]
    folder = tmp_path_factory.mktemp("columns")
    path = write_documents(folder / "all.jsonl", rows)
    encode(tokenizer_dir, [path], folder / "all", columns=ColumnFields(), labels=Labels(licence="mixed"), num_workers=1)
    return folder / "all"


def rows_of(prefix: Path) -> list[dict[str, str | int | None]]:
    columns = open_columns(prefix, read_manifest(prefix))
    assert columns is not None
    return columns.rows(range(read_manifest(prefix).num_documents))


SELECTED = {
    "ids": (["doc/3", "doc/59", "doc/nowhere"], {}, [3, 59]),
    "a host": ([], {"host": ["example.com"]}, list(range(0, 60, 4))),
    "hosts and a licence": (
        [],
        {"host": ["example.org", "other.net"], "licence": ["MIT"]},
        [number for number in range(60) if number % 4 in (1, 3) or number % 3 == 1],
    ),
}


@pytest.mark.parametrize("case", SELECTED)
def test_columns_select_documents_and_go_with_those_that_stay(with_columns: Path, tmp_path: Path, case: str) -> None:
    ids, values, gone = SELECTED[case]
    lists = []
    if ids:
        (tmp_path / "ids").write_text("".join(f"{one}\n" for one in ids))
        lists = [tmp_path / "ids"]
    made = exclude(with_columns, tmp_path / "new", Selection(ids=lists, values=values), reason=REASON)
    before = rows_of(with_columns)
    (removed,) = read_excluded(tmp_path / "new", made.manifest)
    assert list(removed.documents) == gone
    assert removed.ids == tuple(before[number]["id"] for number in gone)
    assert made.missing_ids == (("doc/nowhere",) if ids else ())
    assert rows_of(tmp_path / "new") == [row for number, row in enumerate(before) if number not in gone]
    assert made.manifest.documents_columns == read_manifest(with_columns).documents_columns
    assert verify([tmp_path / "new"], deep=True)[0].problems == ()
    without(with_columns, tmp_path / "by-number", gone)
    assert data_of(tmp_path / "new") == data_of(tmp_path / "by-number")
    content = bytearray(documents_path(tmp_path / "new").read_bytes())
    content[len(content) // 2] ^= 1
    documents_path(tmp_path / "new").write_bytes(content)
    with pytest.raises(DamagedShardError):
        without(tmp_path / "new", tmp_path / "again", [0])


def test_a_selection_that_the_columns_cannot_answer_is_refused(shard: Path, with_columns: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("doc/nowhere\n")
    for prefix, selection, message in (
        (
            with_columns,
            Selection(ids=[tmp_path / "ids"]),
            r"no document of .* is selected by --ids .*ids; --documents LIST",
        ),
        (with_columns, Selection(values={"host": ["www.example.com"]}), "selected by --host www.example.com"),
        (with_columns, Selection(), "selected by nothing"),
        (
            with_columns,
            Selection(values={"language": ["fr"]}),
            r"--language needs the column 'language' of .*, which has .*host",
        ),
    ):
        with pytest.raises(ShardError, match=message):
            exclude(prefix, tmp_path / "new", selection, reason=REASON)
    with pytest.raises(ShardError, match=r"--host needs the columns of .*, and it has none"):
        exclude(shard, tmp_path / "new", Selection(values={"host": ["example.com"]}), reason=REASON)


def test_the_command_selects_by_column_and_names_ids_that_are_not_there(
    with_columns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ids").write_text("doc/1\ndoc/nowhere\n")
    words = ["exclude", str(with_columns), "--ids", str(tmp_path / "ids"), "--host", "example.com", "--licence", "MIT"]
    assert main([*words, "--host", "other.net", "--output", str(tmp_path / "new"), "--reason", REASON]) == 0
    said = capsys.readouterr()
    assert "note: 1 of the ids are of no document of" in said.err and "doc/nowhere" in said.err
    gone = [number for number in range(60) if number % 4 in (0, 3) or number % 3 == 1 or number == 1]
    assert f"new: without {len(gone)} documents" in said.out
    assert read_manifest(tmp_path / "new").exclusions[0].selected_by == (
        f"--ids {tmp_path / 'ids'}",
        "--host example.com",
        "--host other.net",
        "--licence MIT",
    )
