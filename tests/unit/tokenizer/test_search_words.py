"""What is no text or no expression to be found is refused with a line that helps, and no expression runs for ever."""

import re
import shlex
import threading
import time
from pathlib import Path

import pytest

from fanal.errors import UserError
from tests.unit.tokenizer.searched import by_finditer, places_of, texts_of, write_shard
from tokenizer.__main__ import main
from tokenizer.encoding.encode import encode
from tokenizer.search import regex as regex_module
from tokenizer.search.find import find_text
from tokenizer.search.literals import longest_literal
from tokenizer.search.time_limit import OutOfTimeError, time_limit
from tokenizer.vocabulary.load import load_tokenizer


@pytest.fixture
def prose(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> Path:
    encode(tokenizer_dir, [corpus / "validation" / "prose.jsonl"], tmp_path / "prose")
    return tmp_path / "prose"


@pytest.mark.parametrize(
    ("pattern", "literal"),
    [
        ("hello", "hello"), ("a?hello+", "hell"), (r"\bhello\b", "hello"), ("(hello)+ wor", "hello"), ("x|hello", ""),
        ("(?i)hello", ""), ("(?i:hello) wo", " wo"), ("h.llo", "llo"), ("hello{0,3}s", "hell"), ("(?:abc){2}d", "abc"),
        ("(?!hello)ab", "ab"), ("(?>hello)ab", "hello"), ("h[e]llo", "hello"), ("ab(?=hello)", "ab"), ("éé|é", "é"), ("", ""),
        ("(?x) he llo # why", "hello"), ("(hello)?wo", "wo"), ("a\ud800bcd", "bcd"), (r"(a)bcd\1", "bcd"), ("(?:hello)*?z", "z"),
        ("fox|form", "fo"), ("(?i)(?-i:hello)", ""), ("(?<=hello)ab", "ab"), ("hel{1}lo", "he"), ("a++hello", "hello"),
    ],
)  # fmt: skip
def test_the_literal_of_an_expression_is_in_every_match(pattern: str, literal: str) -> None:
    assert longest_literal(pattern) == literal


@pytest.mark.parametrize("pattern", ["(a", "[z-a]", "a**", "(?P<x>a)(?P<x>b)", "*", "\\", "(?<=a+)b", "a{99999999999}"])
def test_a_bad_expression_is_refused_and_the_advice_finds_its_characters(
    pattern: str, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load_tokenizer(tokenizer_dir)
    (tmp_path / "a.txt").write_text(f"one {pattern} two")
    encode(tokenizer_dir, [tmp_path / "a.txt"], tmp_path / "a")
    words = ["search", str(tmp_path / "a"), "--tokenizer", str(tokenizer_dir)]
    assert main([*words, "--regex", pattern]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: the regular expression ")
    (advice,) = re.findall("`(.*)`", said)
    assert main([*words, *shlex.split(advice)]) == 0
    assert len(list(find_text(tmp_path / "a", tokenizer, text=pattern))) == 1
    assert "1 occurrences" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--text", "a", "--regex", "a"],
        ["--text", ""],
        ["--regex", ""],
        ["--text", "\udcff"],
        ["--regex", "\udcff("],
    ],
)
def test_no_text_two_texts_and_no_characters_are_refused(
    words: list[str], prose: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(prose), "--tokenizer", str(tokenizer_dir), *words]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")
    (advice,) = re.findall("`(.*)`", said)
    assert main(["search", str(prose), "--tokenizer", str(tokenizer_dir), *shlex.split(advice)]) == 0


def test_another_tokenizer_is_refused(prose: Path, corpus: Path, tmp_path: Path) -> None:
    from tokenizer.vocabulary.spec import TokenizerSpec
    from tokenizer.vocabulary.train import train_tokenizer

    train_tokenizer(TokenizerSpec(vocab_size=400), [corpus / "train" / "prose.jsonl"], tmp_path / "other")
    with pytest.raises(UserError, match="the folder of the tokenizer that made the shard"):
        list(find_text(prose, load_tokenizer(tmp_path / "other"), text="the"))


def test_an_expression_that_takes_too_long_is_stopped_in_time_and_named(
    tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regex_module, "LIMIT_S", 1.0)
    tokenizer = load_tokenizer(tokenizer_dir)
    (ids,) = tokenizer.encode_batch(["a" * 60 + "!"], num_threads=1)
    prefix = write_shard(tmp_path / "a", tokenizer, [ids.tolist()])
    started = time.monotonic()
    with pytest.raises(UserError, match=r"'\(a\+\)\+b' takes more than 1 s for document 0 of .*as a\+ for \(a\+\)\+"):
        list(find_text(prefix, tokenizer, regex="(a+)+b"))
    assert time.monotonic() - started < 60
    assert not list(find_text(prefix, tokenizer, regex="a+b"))


def test_a_timer_that_was_set_before_goes_on_and_none_is_left() -> None:
    import signal

    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(OutOfTimeError), time_limit(0.05):
            time.sleep(5)
        time.sleep(0.5)
        assert rung == [signal.SIGALRM]
        with time_limit(5):
            pass
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_thread_other_than_the_first_cannot_be_stopped_and_is_refused(prose: Path, tokenizer_dir: Path) -> None:
    refused: list[BaseException] = []

    def act() -> None:
        try:
            list(find_text(prose, load_tokenizer(tokenizer_dir), regex="the"))
        except AssertionError as problem:
            refused.append(problem)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert len(refused) == 1


@pytest.mark.parametrize(
    "pattern", [r"\b[A-Z]\w+ [A-Z]\w+\b", "(?m)^    .*$", "the|The", "(?i)PYTHON", r"(\w)\1\w*", "Python.{0,40}", "x*"]
)
def test_expressions_find_what_finditer_finds(pattern: str, prose: Path, tokenizer_dir: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_dir)
    found = places_of(find_text(prose, tokenizer, regex=pattern))
    assert found == by_finditer(texts_of(prose, tokenizer), pattern) and found
