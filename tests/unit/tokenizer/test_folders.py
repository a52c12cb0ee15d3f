"""A folder of inputs: every usual name is read, whatever else is there is named, and nothing comes in by a link unseen."""

import gzip
import json
import os
from pathlib import Path

import pytest
import zstandard

from fanal.errors import UserError
from tokenizer.__main__ import main
from tokenizer.documents.blocks import Part
from tokenizer.documents.input_files import find_inputs
from tokenizer.documents.parse import DocumentReader
from tokenizer.encoding.encode import encode
from tokenizer.encoding.merge import merge
from tokenizer.shards.manifest import read_manifest


def line(text: str) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


def put(folder: Path, names: dict[str, bytes] | list[str]) -> Path:
    """Write files by their names below a folder; without contents, a document that is the name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(names[name] if isinstance(names, dict) else line(name))
    return folder


def found(*inputs: Path) -> list[str]:
    return [str(path.relative_to(inputs[0])) for path in find_inputs(inputs).paths]


def left_out(*inputs: Path) -> dict[str, str]:
    return {str(Path(one.path).relative_to(inputs[0])): one.reason for one in find_inputs(inputs).left_out}


def test_every_usual_name_of_a_file_of_documents_is_read_from_a_folder(tmp_path: Path) -> None:
    names = {
        "a.jsonl": line("1"),
        "b.json.gz": gzip.compress(line("2")),
        "c.jsonl.zstd": zstandard.compress(line("3")),
        "d.json": line("4"),
        "c4-train.00000-of-01024.json.gz": gzip.compress(line("c4")),
        "e.JSONL.GZ": gzip.compress(line("5")),
        "f.ndjson.gzip": gzip.compress(line("6")),
        "g.jsonlines": line("7"),
        "h.txt.zst": zstandard.compress(b"8"),
        "sub/deep/v1_7_00.json.zst": zstandard.compress(line("dolma")),
    }
    put(tmp_path, names)
    assert sorted(document.text for document in DocumentReader([tmp_path])) == sorted([*"12345678", "c4", "dolma"])
    assert left_out(tmp_path) == {}


def test_files_of_editors_and_systems_are_left_out_and_named(tmp_path: Path) -> None:
    odd = {
        "._a.jsonl": "hidden", ".a.jsonl.swp": "hidden", ".snapshot": "hidden", ".ipynb_checkpoints": "hidden",
        "__MACOSX": "a folder of the system", "_temporary": "a folder of the system", "a.jsonl~": "a backup of an editor",
        "#a.jsonl#": "a backup of an editor", "a.jsonl.bak": "a backup of an editor", "b.jsonl.part": "unfinished, by its name",
        "b.txt.TMP": "unfinished, by its name", "dataset_info.json": "a description, not documents",
        "README.md": "the suffix .md is not one of documents", "_SUCCESS": "a name without a suffix",
        "t.csv": "the suffix .csv is not one of documents",
    }  # fmt: skip
    folders = (".snapshot", ".ipynb_checkpoints", "__MACOSX", "_temporary")
    put(tmp_path, ["a.jsonl", *(f"{name}/a.jsonl" if name in folders else name for name in odd)])
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert found(tmp_path) == ["a.jsonl"]
    assert left_out(tmp_path) == odd | {"pipe.jsonl": "not a file"}


def test_shards_and_a_launch_folder_among_the_text_are_no_text(tmp_path: Path) -> None:
    put(tmp_path, ["a.jsonl", "shards/x.bin", "shards/x.idx", "shards/x.json", "x.launch/encode.sbatch"])
    put(tmp_path, ["x.launch/jobs.jsonl", "x.launch/encode.json", "shards/y.json"])
    assert found(tmp_path) == ["a.jsonl", "shards/y.json"]


def test_a_hidden_folder_or_file_that_is_named_itself_is_read(tmp_path: Path) -> None:
    put(tmp_path, [".cache/a.jsonl", ".b.jsonl"])
    assert found(tmp_path / ".cache") == ["a.jsonl"]
    assert find_inputs([tmp_path / ".b.jsonl"]).paths == (tmp_path / ".b.jsonl",)


def test_a_compression_that_is_not_read_is_refused_since_its_text_would_be_lost(tmp_path: Path) -> None:
    for name in ("e.jsonl.xz", "e.json.bz2", "e.txt.lz4", "e.jsonl.zip"):
        put(tmp_path / name, ["a.jsonl", name])
        with pytest.raises(
            UserError, match=rf"{name}/{name} (has a compression that is not supported|is an archive): `"
        ):
            find_inputs([tmp_path / name])


def test_a_file_with_several_names_in_a_folder_counts_once_under_its_own(tmp_path: Path) -> None:
    put(tmp_path, ["z/real.jsonl", "b.jsonl"])
    (tmp_path / "a.jsonl").symlink_to("z/real.jsonl")
    (tmp_path / "linked").symlink_to("z")
    (tmp_path / "z" / "loop").symlink_to(tmp_path)
    os.link(tmp_path / "b.jsonl", tmp_path / "hard.jsonl")
    assert found(tmp_path) == ["b.jsonl", "z/real.jsonl"]
    assert left_out(tmp_path) == {
        "a.jsonl": f"the same file as {tmp_path / 'z/real.jsonl'}",
        "linked": f"the same folder as {tmp_path / 'z'}",
        "z/loop": f"the same folder as {tmp_path}",
        "hard.jsonl": f"the same file as {tmp_path / 'b.jsonl'}",
    }


def test_a_link_to_what_is_hidden_in_the_folder_is_the_file(tmp_path: Path) -> None:
    put(tmp_path, [".store/1", ".data/x.jsonl"])
    (tmp_path / "a.jsonl").symlink_to(".store/1")
    (tmp_path / "data").symlink_to(".data")
    assert found(tmp_path) == ["a.jsonl", "data/x.jsonl"]


def test_a_link_to_a_folder_outside_is_refused_until_that_is_named_too(tmp_path: Path) -> None:
    corpus, other = put(tmp_path / "corpus", ["a.jsonl"]), put(tmp_path / "other", ["sub/b.jsonl"])
    for target in (other, tmp_path):
        (corpus / "link").symlink_to(target)
        with pytest.raises(
            UserError, match=rf"link is a link to a folder outside .* or name {target} as an --input too"
        ):
            find_inputs([corpus])
        (corpus / "link").unlink()
    (corpus / "link").symlink_to(other / "sub")
    for named in (other, other / "sub"):
        inputs = find_inputs([corpus, named])
        assert [path.name for path in inputs.paths] == ["a.jsonl", "b.jsonl"]
        (link,) = inputs.left_out
        assert link.reason == f"a link to {other / 'sub'}, which the input {named} holds"


def test_a_link_to_a_file_outside_is_read_and_named(
    tmp_path: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, store = put(tmp_path / "corpus", ["a.jsonl"]), put(tmp_path / "store", ["5f3c"])
    (corpus / "b.jsonl").symlink_to(store / "5f3c")
    assert [document.text for document in DocumentReader([corpus])] == ["a.jsonl", "5f3c"]
    words = ["--tokenizer", str(tokenizer_dir), "--input", str(corpus), "--output", str(tmp_path / "x")]
    assert main(["encode", *words]) == 0
    assert f"1 file read is a link to one outside its folder: {corpus / 'b.jsonl'}" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["not-there", "circle.jsonl"])
def test_a_link_that_leads_to_no_file_is_refused_by_its_target(tmp_path: Path, target: str) -> None:
    put(tmp_path, ["a.jsonl"])
    (tmp_path / "circle.jsonl").symlink_to(target)
    for given in (tmp_path, tmp_path / "circle.jsonl"):
        with pytest.raises(UserError, match=rf"circle.jsonl is a link to {target}, which leads to no file; bring"):
            find_inputs([given])


def test_a_folder_of_other_files_alone_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    put(tmp_path, ["t.csv", ".a.jsonl", "README.md", "x.bin", "y"])
    with pytest.raises(
        UserError, match=r"holds no file of documents named .*\*\.parquet; what it holds: .*hidden.*; and 2 more"
    ):
        find_inputs([tmp_path])


@pytest.mark.parametrize("command", ["encode", "train", "check"])
def test_what_is_left_out_is_counted_and_named_in_the_output(
    tmp_path: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    corpus = put(
        tmp_path / "corpus", {"a.jsonl": line("the cat sat on the mat " * 20), "t.csv": b"x", ".b.jsonl": b"x"}
    )
    (tmp_path / "spec.yaml").write_text("vocab_size: 275\n")
    words = {
        "encode": ["encode", "--tokenizer", str(tokenizer_dir), "--output", str(tmp_path / "out")],
        "train": ["train", str(tmp_path / "spec.yaml"), "--output", str(tmp_path / "out")],
        "check": ["check", "--tokenizer", str(tokenizer_dir)],
    }[command]
    assert main([*words, "--input", str(corpus)]) == 0
    err = capsys.readouterr().err.splitlines()
    assert [text for text in err if "cat" not in text][-3:] == [
        "left out 2 of what the input folders hold:",
        f"  {corpus / '.b.jsonl'}: hidden",
        f"  {corpus / 't.csv'}: the suffix .csv is not one of documents",
    ]


def test_the_manifest_says_what_was_left_out_and_a_merge_keeps_it(tmp_path: Path, tokenizer_dir: Path) -> None:
    corpus = put(tmp_path / "corpus", ["a.jsonl", "b.jsonl", "t.csv", ".c.jsonl"])
    whole = encode(tokenizer_dir, [corpus], tmp_path / "whole").manifest
    assert whole.num_left_out == 2
    assert [(Path(one.path).name, one.reason) for one in whole.left_out] == [
        (".c.jsonl", "hidden"), ("t.csv", "the suffix .csv is not one of documents"),
    ]  # fmt: skip
    for number in (1, 2):
        encode(tokenizer_dir, [corpus], tmp_path / str(number), part=Part(number=number, count=2))
    assert merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged") == whole == read_manifest(tmp_path / "whole")


def test_a_long_list_is_counted_whole_and_named_in_part(
    tmp_path: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenizer.encoding.encode.MAX_LEFT_OUT", 30)
    corpus = put(tmp_path / "corpus", ["a.jsonl", *(f"{number:02}.md" for number in range(40))])
    words = ["--tokenizer", str(tokenizer_dir), "--input", str(corpus), "--output", str(tmp_path / "x")]
    assert main(["encode", *words]) == 0
    manifest = read_manifest(tmp_path / "x")
    assert (manifest.num_left_out, len(manifest.left_out)) == (40, 30)
    assert "left out 40 of what" in (err := capsys.readouterr().err) and "  and 20 more" in err


def test_a_manifest_of_an_earlier_version_is_read(tmp_path: Path, tokenizer_dir: Path) -> None:
    encode(tokenizer_dir, [put(tmp_path / "c", ["a.jsonl"])], tmp_path / "x")
    content = json.loads((tmp_path / "x.json").read_text())
    for name in ("num_left_out", "left_out", "num_repeated_fields", "manifest_sha256"):
        del content[name]
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert read_manifest(tmp_path / "x").left_out == ()


def test_copies_of_a_file_are_read_and_named(
    tmp_path: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = put(tmp_path / "corpus", {"a.jsonl": line("x"), "copy/a (1).jsonl": line("x"), "b.jsonl": line("y")})
    words = ["--tokenizer", str(tokenizer_dir), "--input", str(corpus), "--output", str(tmp_path / "x")]
    assert main(["encode", *words]) == 0
    copies = f"{corpus / 'a.jsonl'} and {corpus / 'copy/a (1).jsonl'}"
    assert f"x: warning: {copies} hold the same bytes, and the shard has them as often" in capsys.readouterr().err


def test_one_name_in_several_compressions_is_said(
    tmp_path: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = put(
        tmp_path / "corpus", {"a.jsonl": line("x"), "a.jsonl.gz": gzip.compress(line("x")), "b.jsonl": line("y")}
    )
    words = ["--tokenizer", str(tokenizer_dir), "--input", str(corpus), "--output", str(tmp_path / "x")]
    assert main(["encode", *words]) == 0
    both = f"{corpus / 'a.jsonl'} and {corpus / 'a.jsonl.gz'}"
    assert f"x: warning: {both} have one name in several compressions" in capsys.readouterr().err
