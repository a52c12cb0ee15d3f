"""An index of a shard is whole or absent, of that shard, as it was written, and skips what cannot hold a text."""

import json
import multiprocessing
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from fanal.errors import DamageError, UserError
from tests.unit.tokenizer.searched import by_brute_force, places_of, small_sizes, texts_of, write_shard
from tokenizer.__main__ import main
from tokenizer.encoding.encode import encode
from tokenizer.search import scan
from tokenizer.search.build import build_index
from tokenizer.search.candidates import candidate_ranges
from tokenizer.search.find import find_text
from tokenizer.search.index_file import END, SearchIndex, index_path
from tokenizer.shards.manifest import prefix_of
from tokenizer.shards.shard import open_shard
from tokenizer.verify_shards import verify
from tokenizer.vocabulary.folder import Tokenizer
from tokenizer.vocabulary.load import load_tokenizer


@pytest.fixture(scope="module")
def small(tokenizer_dir: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_dir)


@pytest.fixture
def code(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> Path:
    """A shard of code with its index."""
    encode(tokenizer_dir, [corpus / "validation" / "code.jsonl"], tmp_path / "code")
    build_index(tmp_path / "code", load_tokenizer(tokenizer_dir))
    return tmp_path / "code"


def opened(prefix: Path) -> SearchIndex:
    return SearchIndex(prefix, open_shard(prefix).manifest, remedy="build it again")


def test_a_search_with_an_index_reads_only_the_blocks_that_may_hold_the_text(
    small: Tokenizer, corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "larger"
    encode(tokenizer_dir, [corpus / "train" / "code.jsonl"], code)
    build_index(code, small)
    texts = texts_of(code, small)
    wanted = max(re.findall(rb"def \w+\(.*\):", b"\n".join(texts)), key=len).decode()
    ranges = candidate_ranges(opened(code), wanted.encode())
    shard = open_shard(code)
    read = sum(end - start for start, end in ranges)
    assert 0 < read < shard.num_tokens / 2, "the text lies in one place, in one of several blocks"
    looked_at: list[tuple[int, int]] = []
    pieces_of = scan.pieces_of
    monkeypatch.setattr(scan, "pieces_of", lambda given: (looked_at.append(each) or each for each in pieces_of(given)))
    assert places_of(find_text(code, small, text=wanted)) == by_brute_force(texts, wanted)
    assert sum(end - start for start, end in looked_at) == read
    looked_at.clear()
    assert not list(find_text(code, small, text="\u4e2d\u6587 that no code holds"))
    assert not looked_at


def test_memory_does_not_grow_with_the_shard(small: Tokenizer, tmp_path: Path) -> None:
    import tracemalloc

    random = np.random.default_rng(1)
    peaks = []
    for number, num_documents in enumerate((200, 2000)):
        ids = [random.integers(300, 600, 2000).tolist() for _ in range(num_documents)]
        prefix = write_shard(tmp_path / str(number), small, ids)
        del ids
        tracemalloc.start()
        build_index(prefix, small)
        list(find_text(prefix, small, text="no such text is in it"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0], f"ten times the tokens took {peaks} bytes"


@pytest.mark.parametrize("at", [0.0, 0.3, 0.7, 0.97, "tables", "footer", "end"])
def test_a_flipped_bit_is_refused_and_never_loses_a_text(
    small: Tokenizer, tmp_path: Path, at: float | str, tokenizer_dir: Path
) -> None:
    random = np.random.default_rng(2)
    with small_sizes():
        prefix = write_shard(tmp_path / "shard", small, [random.integers(300, 600, 40).tolist() for _ in range(40)])
        path = build_index(prefix, small)
        index = opened(prefix)
        groups, size = index.footer.group_bytes, path.stat().st_size
        places = {"tables": groups + 5, "footer": size - 40, "end": size - 3}
        content = bytearray(path.read_bytes())
        place = places[at] if isinstance(at, str) else int(at * groups)
        content[place] ^= 4
        path.write_bytes(content)
        with pytest.raises(DamageError, match="is not as it was written") as refused:
            opened(prefix).check_pages()
        assert str(path) in str(refused.value)
        texts = texts_of(prefix, small)
        for start in range(0, 60, 3):  # a search sees the page it reads, and only that
            wanted = texts[start % 40][start : start + 12].decode("utf-8", "ignore") or "e"
            try:
                assert places_of(find_text(prefix, small, text=wanted)) == by_brute_force(texts, wanted)
            except DamageError as problem:
                command = re.findall("`(.*?)`", str(problem))[0]
        if isinstance(at, str):
            assert main(shlex.split(command)[2:]) == 0, "the advice works"
            assert places_of(find_text(prefix, small, text=wanted)) == by_brute_force(texts, wanted)


def test_a_search_that_needs_a_flipped_page_is_refused(small: Tokenizer, code: Path) -> None:
    path = Path(f"{code}.search")
    content = bytearray(path.read_bytes())
    for place in range(0, opened(code).footer.group_bytes, 4096):
        content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamageError, match=r"bytes .* to "):
        list(find_text(code, small, text="import os"))


@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_a_cut_index_is_refused(small: Tokenizer, code: Path, kept: float) -> None:
    path = Path(f"{code}.search")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(DamageError, match="is not as it was written"):
        list(find_text(code, small, text="import os"))


def test_the_index_of_another_shard_is_refused_and_the_advice_replaces_it(
    small: Tokenizer, code: Path, corpus: Path, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path(f"{code}.search").read_bytes()
    encode(tokenizer_dir, [corpus / "validation" / "prose.jsonl"], tmp_path / "prose")
    stale = Path(f"{tmp_path / 'prose'}.search")
    stale.write_bytes(old)
    with pytest.raises(UserError, match="is the index of another shard") as refused:
        list(find_text(tmp_path / "prose", small, text="the"))
    (command,) = re.findall("`(.*)`", str(refused.value))
    assert main(shlex.split(command)[2:]) == 0
    texts = texts_of(tmp_path / "prose", small)
    assert places_of(find_text(tmp_path / "prose", small, text="the")) == by_brute_force(texts, "the")
    assert main(shlex.split(command)[2:]) == 0
    assert "is there, and is as it was written" in capsys.readouterr().out


def test_a_format_of_tomorrow_is_refused(small: Tokenizer, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer.search.build.FORMAT_VERSION", 2)
    build_index(code, small)
    monkeypatch.undo()
    with pytest.raises(UserError, match="has format_version 2, but this program reads 1"):
        list(find_text(code, small, text="the"))


def test_a_shard_that_changed_gets_no_index_and_the_old_one_stays(small: Tokenizer, code: Path) -> None:
    before = Path(f"{code}.search").read_bytes()
    path = Path(f"{code}.bin")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamageError, match="is not what its manifest says, first in its block 0"):
        build_index(code, small)
    assert Path(f"{code}.search").read_bytes() == before
    assert not list(code.parent.glob("*.part"))


@pytest.mark.parametrize("token", [601, -3])
def test_ids_outside_the_vocabulary_are_damage(small: Tokenizer, tmp_path: Path, token: int) -> None:
    prefix = write_shard(tmp_path / "shard", small, [[5] * 10_000] * 3, vocab_size=70_000)
    tokens = np.memmap(f"{prefix}.bin", dtype="<i4", mode="r+")
    tokens[17_000] = token
    tokens.flush()
    with pytest.raises(DamageError, match="not in its vocabulary"):
        list(find_text(prefix, small, text="abc"))
    with pytest.raises(DamageError, match="not in its vocabulary"):
        build_index(prefix, small)


def _build_until_killed(prefix: Path, directory: Path) -> None:
    os.environ["PYTHONUNBUFFERED"] = "1"

    def die(num_bytes: int) -> None:
        if num_bytes > 100_000:
            os.kill(os.getpid(), 9)

    build_index(prefix, load_tokenizer(directory), progress=die)


def test_a_killed_build_leaves_no_index_and_the_next_one_is_whole(
    small: Tokenizer, code: Path, tokenizer_dir: Path
) -> None:
    whole = Path(f"{code}.search").read_bytes()
    Path(f"{code}.search").unlink()
    process = multiprocessing.get_context("spawn").Process(target=_build_until_killed, args=(code, tokenizer_dir))
    process.start()
    process.join()
    assert process.exitcode == -9 and not Path(f"{code}.search").exists()
    build_index(code, small)
    assert Path(f"{code}.search").read_bytes() == whole
    assert not list(code.parent.glob("*.part"))


def test_two_builders_do_not_write_one_index(small: Tokenizer, code: Path) -> None:
    def build_again(num_bytes: int) -> None:
        with pytest.raises(UserError, match="is being built by another process"):
            build_index(code, small)

    build_index(code, small, progress=build_again)


def test_the_commands_index_and_search(
    small: Tokenizer, corpus: Path, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefixes, words = [str(tmp_path / name) for name in ("code", "prose")], ["--tokenizer", str(tokenizer_dir)]
    for name, prefix in zip(("code", "prose"), prefixes, strict=True):
        encode(tokenizer_dir, [corpus / "validation" / f"{name}.jsonl"], prefix)
    expected = [
        (prefix, *place) for prefix in prefixes for place in by_brute_force(texts_of(Path(prefix), small), "the ")
    ]
    for notes in (2, 0):
        capsys.readouterr()
        assert main(["search", *prefixes, *words, "--text", "the ", "--json"]) == 0
        said = capsys.readouterr()
        rows = [json.loads(line) for line in said.out.splitlines()]
        assert [(row["prefix"], row["document"], row["start_byte"], row["end_byte"]) for row in rows] == expected
        assert said.err.count("has no index") == notes
        assert f"{len(expected):,} occurrences in " in said.err
        assert main(["index", *prefixes, *words]) == 0
    capsys.readouterr()
    assert main(["search", f"{prefixes[0]}.json", prefixes[1], *words, "--regex", r"the\s", "--max", "3"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3 and "the first 3 occurrences, of --max 3" in said.err
    assert said.out.startswith(f"{prefixes[0]}: document ")


def flipped(content: bytes, at: int) -> bytes:
    return content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :]


def test_verify_finds_an_altered_index_and_its_advice_mends_it(code: Path, tokenizer_dir: Path) -> None:
    path, sound = index_path(code), index_path(code).read_bytes()
    footer_bytes = END.unpack(sound[-END.size :])[0] + END.size
    footer = range(8 * (len(sound) - footer_bytes), 8 * len(sound), 7)
    groups = range(0, 8 * opened(code).footer.group_bytes, 20_011)
    tables = range(8 * opened(code).footer.group_bytes, footer.start, 11)
    assert len(groups) > 5 and len(tables) > 5
    assert prefix_of(path) == code and main(["verify", str(path), "--deep"]) == 0
    for bits, deep in ((footer, False), (tables, False), (groups, True)):
        for at in bits:
            path.write_bytes(flipped(sound, at))
            (problem,) = verify([code], deep=deep)[0].problems
            assert problem.startswith(f"{path} "), f"bit {at}"
    (advised,) = re.findall("`(.*?)`", problem)
    words = [str(tokenizer_dir) if word == "DIR" else word for word in shlex.split(advised)]
    assert main(words[2:]) == 0 and path.read_bytes() == sound
    assert not verify([code], deep=True)[0].problems


def test_verify_finds_the_index_of_another_shard(
    code: Path, corpus: Path, tokenizer_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = index_path(code).read_bytes()
    encode(tokenizer_dir, [corpus / "validation" / "prose.jsonl"], code.with_name("prose"))
    index_path(code.with_name("prose")).write_bytes(index)
    assert main(["verify", str(code), str(code.with_name("prose"))]) == 76
    assert "prose.search is the index of another shard: it has idx_sha256" in capfd.readouterr().err
