"""Overlap of training shards with held-out text is what its definition says, at every border, and without a false finding."""

import errno
import itertools
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fanal.errors import UserError
from tests.unit.every_bit import unnoticed_bits
from tests.unit.tokenizer.overlap_by_hand import VOCAB_SIZE, ByHand, ngrams_of, overlap_by_hand, write_shard
from tokenizer.__main__ import main
from tokenizer.encoding.encode import encode
from tokenizer.overlap import ngrams, scan, units
from tokenizer.overlap.check import OverlapOptions, check_overlap
from tokenizer.overlap.ngrams import BASE, NgramIndex, mixed_units, ngram_hashes
from tokenizer.overlap.report import OverlapReport, overlap_path, read_note
from tokenizer.shards.exclude import exclude
from tokenizer.shards.manifest import DamagedShardError, read_manifest
from tokenizer.shards.selection import Selection
from tokenizer.shards.shard import open_shard
from tokenizer.verify_shards import verify
from tokenizer.vocabulary.load import load_tokenizer


def weak(num_values: int) -> Callable[[int], np.ndarray]:
    """A mixing of units to so few values that many n-grams have one hash."""
    return lambda num_units: mixed_units(num_values)[np.arange(num_units) % num_values]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 16, 31])
def test_the_hash_of_an_ngram_is_the_polynomial_of_its_mixed_units(n: int) -> None:
    tokens, mixed = np.random.default_rng(n).integers(0, 50, 60).astype(np.uint16), mixed_units(50)
    expected = []
    for ngram in ngrams_of(tokens.tolist(), n):
        value = 0
        for token in ngram:
            value = (value * BASE + int(mixed[token])) % 2**64
        expected.append(value)
    assert ngram_hashes(tokens, n, mixed).tolist() == expected
    assert ngram_hashes(tokens[: n - 1], n, mixed).tolist() == []


def found_by_index(
    index: NgramIndex, held_out: Sequence[int], text: Sequence[int]
) -> list[tuple[int, tuple[int, ...]]]:
    """Places in a text, and the n-gram that the index says begins there."""
    first = {ngram: int(np.flatnonzero(index.ngram_of == ngram)[0]) for ngram in range(index.num_ngrams)}
    places, found = index.find(np.array(text, dtype=np.uint16))
    return [
        (place, tuple(held_out[first[ngram] :][: index.n]))
        for place, ngram in zip(places.tolist(), found.tolist(), strict=True)
    ]


@pytest.mark.parametrize("mixing", [mixed_units, weak(2), weak(1)], ids=["hashes", "two values", "one value"])
@pytest.mark.parametrize("seed", range(4))
def test_the_index_finds_what_is_there_and_nothing_else_even_where_hashes_collide(
    seed: int, mixing: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngrams, "mixed_units", mixing)
    draw, n = random.Random(seed), 3
    held_out, text = draw.choices(range(5), k=60), draw.choices(range(6), k=120)
    offsets = np.array([0, 2, 30, 60])
    documents = [held_out[begin:end] for begin, end in itertools.pairwise(offsets)]
    wanted = {ngram for document in documents for ngram in ngrams_of(document, n)}
    expected = [(at, ngram) for at, ngram in enumerate(ngrams_of(text, n)) if ngram in wanted]
    index = NgramIndex(np.array(held_out, dtype=np.int32), offsets, n, num_units=6)
    assert index.num_ngrams == len(wanted)
    assert found_by_index(index, held_out, text) == expected
    monkeypatch.setattr(ngrams, "_equal", lambda here, at, *_: np.ones(len(at), dtype=bool))
    without_comparing = found_by_index(index, held_out, text)
    assert (without_comparing == expected) == (mixing is mixed_units), "the comparison is what makes it exact"


def random_sides(seed: int, *, num_shards: int = 2) -> tuple[list[list[list[int]]], list[list[int]]]:
    """Training shards and held-out documents of few ids, with passages of one side in the other; some are short."""
    draw = random.Random(seed)

    def text(longest: int) -> list[int]:
        return draw.choices(range(4), k=draw.randint(1, longest))

    held_out = [text(25) for _ in range(12)]
    shards = []
    for _ in range(num_shards):
        shards.append([text(40) for _ in range(20)])
        for document in draw.sample(shards[-1], 6):
            at = draw.randint(0, len(document))
            document[at:at] = draw.choice(held_out)
    held_out[5] = held_out[4] * 2  # n-grams twice in a document
    return shards, held_out


def check_report(report: OverlapReport, expected: ByHand, prefixes: Sequence[Path]) -> None:
    """Everything that a report says, against the definition."""
    by_place = {one.place: one for one in report.documents}
    assert sorted(map(int, by_place)) == [number for number, found in enumerate(expected.found) if found]
    for place, one in by_place.items():
        number = int(place)
        assert (one.num_ngrams, one.found_ngrams) == (expected.num_ngrams[number], expected.found[number])
        assert one.share == one.found_ngrams / one.num_ngrams
        assert one.training_documents == expected.sharing[number]
        most = [(place.shared_ngrams, prefixes.index(Path(place.shard)), place.document) for place in one.most]
        assert most == expected.most[number]
    shares = [one.share for one in report.documents]
    assert shares == sorted(shares, reverse=True)
    counts, pairs = report.counts, list(zip(expected.found, expected.num_ngrams, strict=True))
    assert (counts.found_ngrams, counts.num_ngrams) == (sum(expected.found), sum(expected.num_ngrams))
    assert (counts.num_documents, counts.too_short) == (len(pairs), expected.num_ngrams.count(0))
    for percent, said in ((0, counts.found_documents), (20, counts.found_20_percent), (80, counts.found_80_percent)):
        assert said == sum(found > 0 and 100 * found >= percent * of for found, of in pairs)
    assert [one.check.overlapping_documents for one in report.training] == list(map(len, expected.overlapping))


@pytest.mark.parametrize("stretch_tokens", [1, 2, 5, 7, 64, 1 << 18])
@pytest.mark.parametrize(("n", "min_ngrams"), [(1, 1), (3, 1), (5, 2), (8, 4)])
def test_a_report_is_what_the_definition_says(
    tmp_path: Path, n: int, min_ngrams: int, stretch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "STRETCH_TOKENS", stretch_tokens)
    if stretch_tokens < 64:
        monkeypatch.setattr(scan, "PENDING_NGRAMS", 3)
        monkeypatch.setattr(scan, "PAIRS_AT_ONCE", 5)
        monkeypatch.setattr(ngrams, "COMPARED_NGRAMS", 4)
    shards, held_out = random_sides(n + stretch_tokens)
    prefixes = [write_shard(tmp_path / f"train-{number}", shard) for number, shard in enumerate(shards)]
    write_shard(tmp_path / "held-out", held_out)
    options = OverlapOptions(ngram=n, min_ngrams=min_ngrams)
    report = check_overlap(prefixes, [tmp_path / "held-out"], options, documents_out=tmp_path / "list")
    expected = overlap_by_hand(shards, held_out, n, min_ngrams)
    check_report(report, expected, prefixes)
    numbers: list[list[int]] = []
    heads = []
    for line in (tmp_path / "list").read_text().splitlines():
        if line.startswith("shard "):
            heads.append(line.split()[1])
            numbers.append([])
        elif not line.startswith("#"):
            numbers[-1].append(int(line))
    identities = [read_manifest(prefix).bin_sha256 for prefix in prefixes]
    assert dict(zip(heads, numbers, strict=True)) == {
        identity: documents for identity, documents in zip(identities, expected.overlapping, strict=True) if documents
    }


@pytest.mark.parametrize("fault", ["no overlap of stretches", "across documents", "documents cut"])
def test_a_search_that_errs_at_borders_is_caught(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "STRETCH_TOKENS", 7)
    monkeypatch.setattr(scan, "PENDING_NGRAMS", 3)
    if fault == "no overlap of stretches":
        monkeypatch.setattr("tokenizer.overlap.check.token_stretches", lambda shard, n: units.token_stretches(shard, 1))
    elif fault == "across documents":
        monkeypatch.setattr(
            units.Stretch,
            "documents",
            lambda self: (self.shard.documents_over(self.first_token, 1).start, np.empty(0, np.int64)),
        )
    else:
        take = scan._Pending.take
        monkeypatch.setattr(scan._Pending, "take", lambda self, *, but_last: take(self, but_last=False))
    shards, held_out = random_sides(3)
    prefixes = [write_shard(tmp_path / f"train-{number}", shard) for number, shard in enumerate(shards)]
    write_shard(tmp_path / "held-out", held_out)
    report = check_overlap(prefixes, [tmp_path / "held-out"], OverlapOptions(ngram=3))
    with pytest.raises(AssertionError):
        check_report(report, overlap_by_hand(shards, held_out, 3, 1), prefixes)


@pytest.mark.parametrize("shift", range(-14, 3))
def test_a_passage_over_the_border_of_two_stretches_is_found_whole(
    tmp_path: Path, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "STRETCH_TOKENS", 100)
    passage = list(range(200, 215))
    text = [token % 50 for token in range(300)]
    text[100 + shift : 100 + shift] = passage
    write_shard(tmp_path / "train", [[7, 8], text, [9]])
    write_shard(tmp_path / "held-out", [[1, *passage, 2]], bos=True, eos=True)
    (one,) = check_overlap([tmp_path / "train"], [tmp_path / "held-out"], OverlapOptions()).documents
    assert (one.num_ngrams, one.found_ngrams, one.share) == (3, 3, 1.0), "BOS and EOS are not of the text"
    assert [(place.document, place.shared_ngrams) for place in one.most] == [(1, 3)]


def test_a_passage_that_two_documents_make_together_is_not_found(tmp_path: Path) -> None:
    passage = list(range(200, 220))
    write_shard(tmp_path / "train", [passage[:10], passage[10:], passage])
    write_shard(tmp_path / "held-out", [passage])
    report = check_overlap(
        [tmp_path / "train"], [tmp_path / "held-out"], OverlapOptions(), documents_out=tmp_path / "list"
    )
    assert (tmp_path / "list").read_text().splitlines()[2:] == ["2"]
    assert report.documents[0].training_documents == 1


WORDS = (
    "It was the best of times, it was the worst of times; it was the age of wisdom, it was the first age of foolishness"
)
SAME_WORDS = (
    "IT WAS the Best -- of\ntimes it was\n\n“the worst” of times:  it was the age of wisdom! it was the ﬁrst AGE"
)


def test_words_are_found_through_case_punctuation_and_lines(
    tmp_path: Path, tokenizer_dir: Path, write_documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "STRETCH_BYTES", 40)
    others = [
        f"number {number} is another text of some words, none of them in the order of that one" for number in range(9)
    ]
    train = [*others[:4], SAME_WORDS, *others[4:]]
    encode(tokenizer_dir, [write_documents(tmp_path / "train.jsonl", train)], tmp_path / "train", num_workers=1)
    held_out = [
        "too short",
        "some words of the age of wisdom which are nowhere else, so that nothing can be found",
        WORDS,
    ]
    path = write_documents(tmp_path / "held-out.jsonl", held_out)
    options = OverlapOptions(tokenizer=tokenizer_dir)
    report = check_overlap([tmp_path / "train"], [path], options)
    expected = overlap_by_hand([list(map(units.words_of, train))], list(map(units.words_of, held_out)), 13, 1)
    (one,) = report.documents
    assert report.by == "words" and one.place == f"{path}:3"
    assert [one.num_ngrams, one.found_ngrams] == [expected.num_ngrams[2], expected.found[2]] == [13, 11]
    assert [(place.shared_ngrams, place.document) for place in one.most] == [(11, 4)]
    assert report.counts.too_short == 1
    as_tokens = OverlapOptions(tokenizer=tokenizer_dir, by="tokens")
    assert check_overlap([tmp_path / "train"], [path], as_tokens).documents == (), "no 13 tokens are the same"


def test_words_of_shards_are_those_of_their_text_and_of_tokens_those_of_the_shard(
    tmp_path: Path, corpus: Path, tokenizer_dir: Path
) -> None:
    """Each way to give the same held-out text finds the same documents in it."""
    train, validation = (corpus / split / "prose.jsonl" for split in ("train", "validation"))
    encode(tokenizer_dir, [train], tmp_path / "train", num_workers=1)
    encode(tokenizer_dir, [validation], tmp_path / "validation", num_workers=1)
    tokenizer, shards = load_tokenizer(tokenizer_dir), [open_shard(tmp_path / name) for name in ("train", "validation")]
    for by in ("words", "tokens"):
        of_shard, of_file = (
            check_overlap([tmp_path / "train"], [against], OverlapOptions(by=by, tokenizer=tokenizer_dir, ngram=8))
            for against in (tmp_path / "validation", validation)
        )
        found = [(one.num_ngrams, one.found_ngrams, one.training_documents) for one in of_shard.documents]
        assert found == [(one.num_ngrams, one.found_ngrams, one.training_documents) for one in of_file.documents]
        assert of_shard.counts == of_file.counts and found
        sides = []
        for shard in shards:
            ids = [shard.document(number).tolist()[1:-1] for number in range(shard.num_documents)]
            sides.append([units.words_of(tokenizer.decode(one)) for one in ids] if by == "words" else ids)
        expected = overlap_by_hand(sides[:1], sides[1], 8, 1)
        assert {int(one.place): one.found_ngrams for one in of_shard.documents} == {
            number: count for number, count in enumerate(expected.found) if count
        }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop_it: 3.5 km²", ["don", "t", "stop", "it", "3", "5", "km2"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("日本語 text", ["日", "本", "語", "text"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("", []),
    ],
)
def test_words_are_letters_and_digits_without_case(text: str, words: list[str]) -> None:
    assert units.words_of(text) == words


def test_what_the_list_names_can_be_excluded_and_then_nothing_overlaps(tmp_path: Path) -> None:
    shards, held_out = random_sides(1)
    prefixes = [write_shard(tmp_path / f"train-{number}", shard) for number, shard in enumerate(shards)]
    write_shard(tmp_path / "held-out", held_out)
    options = OverlapOptions(ngram=6)
    before = check_overlap(prefixes, [tmp_path / "held-out"], options, documents_out=tmp_path / "list")
    clean = [tmp_path / f"clean-{number}" for number in range(2)]
    for prefix, output, training in zip(prefixes, clean, before.training, strict=True):
        selection = Selection(lists=[tmp_path / "list"])
        manifest = exclude(prefix, output, selection, reason="overlaps with held-out text").manifest
        assert manifest.exclusions[0].num_documents == training.check.overlapping_documents > 0
    assert all(result.problems == () for result in verify(clean, deep=True))
    after = check_overlap(clean, [tmp_path / "held-out"], options)
    assert before.documents and after.documents == () and after.counts.found_ngrams == 0


def test_a_note_beside_the_shard_holds_both_hashes_and_one_check_for_each_question(tmp_path: Path) -> None:
    shards, held_out = random_sides(2, num_shards=1)
    train = write_shard(tmp_path / "train", shards[0])
    for number in range(2):
        write_shard(tmp_path / f"held-out-{number}", held_out[number * 3 :])
    manifest = read_manifest(train)
    for against, ngram in ((0, 6), (1, 6), (0, 8), (0, 6)):
        report = check_overlap([train], [tmp_path / f"held-out-{against}"], OverlapOptions(ngram=ngram))
    note = read_note(train, manifest)
    assert note is not None and (note.bin_sha256, note.idx_sha256) == (manifest.bin_sha256, manifest.idx_sha256)
    assert [(one.against[0].name[-1], one.ngram) for one in note.checks] == [("1", 6), ("0", 8), ("0", 6)]
    assert note.checks[-1] == report.training[0].check and note.checks[-1].counts == report.counts
    assert note.checks[0].against[0].sha256 == read_manifest(tmp_path / "held-out-1").bin_sha256
    assert unnoticed_bits(overlap_path(train), lambda: read_note(train, manifest), every=7) == []
    other = write_shard(tmp_path / "other", shards[0][1:])
    assert read_note(train, read_manifest(other)) is None, "a note of a shard that had this prefix before"
    assert read_note(other, read_manifest(other)) is None
    assert verify([train], deep=True)[0].problems == (), "the manifest is as it was"


def test_changed_tokens_are_damage_on_either_side(tmp_path: Path) -> None:
    shards, held_out = random_sides(2)
    for name, documents in (("train", shards[0]), ("held-out", held_out), ("good", shards[1])):
        write_shard(tmp_path / name, documents)
    for name in ("train", "held-out"):
        content = bytearray((tmp_path / f"{name}.bin").read_bytes())
        content[4] ^= 1
        (tmp_path / f"{name}.bin").write_bytes(content)
    for training, against in (("train", "good"), ("good", "held-out")):
        with pytest.raises(DamagedShardError, match="its bytes changed"):
            check_overlap([tmp_path / training], [tmp_path / against], OverlapOptions(ngram=3))
        assert not overlap_path(tmp_path / training).exists()


def test_wrong_input_is_refused_with_what_works(tmp_path: Path, tokenizer_dir: Path, write_documents) -> None:
    train = write_shard(tmp_path / "train", [[1, 2, 3, 4, 5]])
    held_out = write_shard(tmp_path / "held-out", [[1, 2, 3], [1, 2]])
    text = write_documents(tmp_path / "text.jsonl", ["one two three"])
    encode(tokenizer_dir, [text], tmp_path / "encoded", num_workers=1)
    for options, training, against, message in (
        (OverlapOptions(), train, train, "has the tokens of the training shard"),
        (
            OverlapOptions(),
            train,
            held_out,
            r"--ngram \(13\) must be at most the tokens of the longest document .*, 3; --ngram 3 works",
        ),
        (OverlapOptions(), train, text, "--tokenizer DIR is needed"),
        (OverlapOptions(by="words"), train, held_out, "--tokenizer DIR is needed"),
        (OverlapOptions(), train, tmp_path / "encoded", "were encoded with different tokenizers"),
        (OverlapOptions(tokenizer=tokenizer_dir), train, text, "name the tokenizer that made the shard"),
        (OverlapOptions(), train, tmp_path / "nothing", "nothing.json does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            check_overlap([training], [against], options)
    assert check_overlap([train], [held_out], OverlapOptions(ngram=3)).counts.found_documents == 1, "as advised"


def test_a_folder_that_takes_no_note_is_found_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("tokenizer.overlap.check.replacing", read_only)
    monkeypatch.setattr("tokenizer.overlap.check.read_held_out", None)
    train, held_out = write_shard(tmp_path / "train", [[1, 2, 3, 4]]), write_shard(tmp_path / "held-out", [[1, 2, 3]])
    with pytest.raises(UserError, match=r"Read-only file system.*; --no-note leaves out .*train.overlap.json"):
        check_overlap([train], [held_out], OverlapOptions(ngram=3))
    monkeypatch.undo()
    assert check_overlap([train], [held_out], OverlapOptions(ngram=3, writes_notes=False)).documents
    assert not overlap_path(train).exists()


def test_the_command_prints_a_table_and_writes_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passage = list(range(100, 130))
    first = write_shard(tmp_path / "first", [[1, 2, 3], [*passage, 4]])
    second = write_shard(tmp_path / "second", [[5] * 20])
    against = [write_shard(tmp_path / "a", [passage]), write_shard(tmp_path / "b", [[6, 7]])]
    words = ["check-overlap", f"{first}.json", str(second), "--against", *map(str, against)]
    report, numbers = tmp_path / "report", tmp_path / "list"
    assert main([*words, "--json", str(report), "--documents-out", str(numbers)]) == 0
    said = capsys.readouterr()
    assert f"{against[0]} document 0: 100.0% of 18 n-grams; 18 in document 1 of {first}" in said.out
    assert "note: 1 held-out documents have fewer than 13 tokens" in said.err
    content = json.loads(report.read_text())
    assert [one["check"]["overlapping_documents"] for one in content["training"]] == [1, 0]
    assert content["documents"][0]["most"] == [{"shard": str(first), "document": 1, "shared_ngrams": 18}]
    for suffix, option in (("report", "--json"), ("list", "--documents-out")):
        assert main([*words, option, str(tmp_path / suffix)]) == 2
        assert f"{option} {tmp_path / suffix} exists" in capsys.readouterr().err
    everything = [str(path) for path in sorted(tmp_path.glob("*.json"))]
    assert f"{first}.overlap.json" in everything and main(["verify", *everything]) == 0
    assert max(passage) < VOCAB_SIZE
