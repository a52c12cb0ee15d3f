"""Fill-in-the-middle and span corruption, against definitions by plain loops on Python's integers."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.config.derive import num_spans
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig, SpanCorruptionConfig
from pretrain.data.forensics import sample_as_trained
from pretrain.data.objectives import span_corruption
from pretrain.data.objectives.fill_in_the_middle import NUM_MARKS, FillInTheMiddle
from pretrain.data.objectives.pieces import Words
from pretrain.data.objectives.span_corruption import SpanCorruption, composition
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from tests.unit.data.objective_runs import (
    FILL_IN_THE_MIDDLE,
    MIDDLE,
    PREFIX,
    SPAN_CORRUPTION,
    SUFFIX,
    Taken,
    pieces_of,
    take,
    word,
    write_documents,
)
from tokenizer.vocabulary.folder import Tokenizer
from tokenizer.vocabulary.load import load_tokenizer

Opened = tuple[RunConfig, TrainData, Tokenizer, dict[str, int]]


@pytest.fixture(scope="module")
def documents(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_documents(data_folder, tmp_path_factory.mktemp("rearranged"), longest=90)


@pytest.fixture
def open_run(small_run: Path, documents: list[str]) -> Callable[..., Opened]:
    def opened(*overrides: str) -> Opened:
        run = load_run(small_run, [*documents, *overrides])
        tokenizer = load_tokenizer(run.data.tokenizer)
        ids = {tokenizer.piece(token): token for token in range(tokenizer.vocab_size)}
        return run, TrainData(open_sources(run), run.data), tokenizer, ids

    return opened


def fim_of(text: list[int], words: list[int], spm_rate: float, marks: list[int]) -> list[int]:
    """A text of more than three tokens, rearranged."""
    prefix, suffix, middle = marks
    kept = text[:-3]
    one, two = sorted([words[1] % (len(kept) + 1), words[2] % (len(kept) + 1)])
    if words[3] < Fraction(spm_rate) * 2**64:
        return [prefix, suffix, *kept[two:], middle, *kept[:one], *kept[one:two]]
    return [prefix, *kept[:one], suffix, *kept[two:], middle, *kept[one:two]]


def parts_of(total: int, parts: int, words: list[int]) -> list[int]:
    gaps = sorted(range(total - 1), key=lambda gap: (words[gap], gap))[: parts - 1]
    edges = [0, *sorted(gap + 1 for gap in gaps), total]
    return [after - before for before, after in pairwise(edges)]


def corrupted_of(
    text: list[int], next_word: Callable[[int], int], config: SpanCorruptionConfig, sentinels: list[int]
) -> tuple[list[int], list[int]]:
    """A text's inputs and targets."""
    ratio = config.noise_density / (config.mean_span_length + 2 * config.noise_density)
    spans = min(max(1, int(len(text) * ratio + 0.5)), len(text) // 4)
    kept = text[: len(text) - 2 * spans]
    noise = min(max(spans, int(config.noise_density * len(kept) + 0.5)), len(kept) - spans)
    words = [next_word(4 + number) for number in range(len(kept) - 2)]
    noises = parts_of(noise, spans, words[: noise - 1])
    cleans = parts_of(len(kept) - noise, spans, words[noise - 1 :])
    inputs: list[int] = []
    targets: list[int] = []
    for sentinel, clean, masked in zip(sentinels, cleans, noises, strict=False):
        inputs += [*kept[:clean], sentinel]
        targets += [sentinel, *kept[clean : clean + masked]]
        kept = kept[clean + masked :]
    return inputs, targets


def assert_as_defined(run: RunConfig, data: TrainData, tokenizer: Tokenizer, ids: dict[str, int]) -> dict[str, int]:
    """1,000 samples against the loops; how many texts there are, and how many of each kind."""
    middle, spans = run.objective.fill_in_the_middle, run.objective.span_corruption
    marks = [ids[name] for name in (PREFIX, SUFFIX, MIDDLE)]
    sentinels = [ids[f"<0x0{number}>"] for number in range(9)]
    fim_rate = Fraction(middle.rate) if middle else Fraction(0)
    noise_rate = Fraction(spans.rate) if spans else Fraction(0)
    counts = {"text": 0, "fim": 0, "spans": 0}
    taken = take(data)
    for number, (row, starts) in enumerate(zip(taken.read.tolist(), taken.starts, strict=True)):
        expected, counted = list(row), [True] * (len(row) - 1)
        for first, begin, end in pieces_of(row, starts, set(tokenizer.control_ids)):
            text, draw = row[begin:end], Fraction(word(run.data.seed, number, first, 0), 2**64)
            counts["text"] += 1
            if draw < fim_rate:
                counts["fim"] += 1
                if middle and len(text) > 3:
                    words = [word(run.data.seed, number, first, index) for index in range(4)]
                    expected[begin:end] = fim_of(text, words, middle.spm_rate, marks)
            elif draw < fim_rate + noise_rate:
                counts["spans"] += 1
                if spans and len(text) > 3:
                    inputs, targets = corrupted_of(
                        text, lambda index, at=first, of=number: word(run.data.seed, of, at, index), spans, sentinels
                    )
                    expected[begin:end] = inputs + targets
                    if not spans.loss_on_inputs:
                        for at in range(begin, begin + len(inputs)):
                            counted[max(0, at - 1)] = counted[max(0, at - 1)] and at == 0
        assert taken.tokens[number].tolist() == expected, f"sample {number}"
        assert taken.counted[number].tolist() == counted, f"what counts in sample {number}"
    return counts


@pytest.mark.parametrize(
    "overrides",
    [(FILL_IN_THE_MIDDLE,), (SPAN_CORRUPTION,), (FILL_IN_THE_MIDDLE, SPAN_CORRUPTION),
     (SPAN_CORRUPTION, "objective.span_corruption.loss_on_inputs=true")],
    ids=["middle", "spans", "both", "loss on inputs"],
)  # fmt: skip
def test_1000_samples_become_what_the_definition_says_in_the_stated_shares(
    overrides: tuple[str, ...], open_run: Callable[..., Opened]
) -> None:
    run, data, tokenizer, ids = open_run(*overrides)
    counts = assert_as_defined(run, data, tokenizer, ids)
    for kind, config in (("fim", run.objective.fill_in_the_middle), ("spans", run.objective.span_corruption)):
        rate = config.rate if config is not None else 0.0
        deviation = np.sqrt(counts["text"] * rate * (1 - rate))
        assert abs(counts[kind] - counts["text"] * rate) <= 4 * deviation, "a binomial's bound"
    assert counts["text"] > 2_000


def plant(name: str, monkeypatch: pytest.MonkeyPatch, data: TrainData) -> None:
    if name == "the sample's number is forgotten":
        init = Words.__init__
        monkeypatch.setattr(Words, "__init__", lambda self, key, sample, first: init(self, key, 0, first))
    elif name == "the middle is cut":
        whole = FillInTheMiddle._rearranged
        monkeypatch.setattr(
            FillInTheMiddle, "_rearranged", lambda self, text, words: np.append(whole(self, text, words)[1:], text[-1:])
        )
    elif name == "a span begins one token late":
        shift: Any = lambda total, parts, words: composition(total, parts, np.roll(words, 1))  # noqa: E731
        monkeypatch.setattr(span_corruption, "composition", shift)
    else:
        assert name == "inputs count"
        spans = data.sources.objectives.training[-1]
        assert isinstance(spans, SpanCorruption)
        fault = replace(spans, config=replace(spans.config, loss_on_inputs=True))
        data.sources = replace(data.sources, objectives=replace(data.sources.objectives, training=(fault,)))


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("the sample's number is forgotten", FILL_IN_THE_MIDDLE),
        ("the middle is cut", FILL_IN_THE_MIDDLE),
        ("a span begins one token late", SPAN_CORRUPTION),
        ("inputs count", SPAN_CORRUPTION),
    ],
)
def test_a_fault_would_be_noticed(
    name: str, override: str, open_run: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data, tokenizer, ids = open_run(override)
    plant(name, monkeypatch, data)
    with pytest.raises(AssertionError, match="sample"):
        assert_as_defined(run, data, tokenizer, ids)


def changed_texts(taken: Taken, tokenizer: Tokenizer) -> list[tuple[np.ndarray, np.ndarray]]:
    """(as read, as trained on) of every text that is changed."""
    control, found = set(tokenizer.control_ids), []
    for read, trained, starts in zip(taken.read, taken.tokens, taken.starts, strict=True):
        for _, begin, end in pieces_of(read.tolist(), starts, control):
            if not np.array_equal(read[begin:end], trained[begin:end]):
                found.append((read[begin:end], trained[begin:end]))
    return found


@pytest.mark.parametrize("override", [FILL_IN_THE_MIDDLE, SPAN_CORRUPTION], ids=["middle", "spans"])
def test_the_text_comes_back_and_everything_else_stays_where_it_is(
    override: str, open_run: Callable[..., Opened]
) -> None:
    _, data, tokenizer, _ = open_run(override)
    (objective,) = data.sources.objectives.training
    assert isinstance(objective, FillInTheMiddle | SpanCorruption)
    taken = take(data)
    changed = changed_texts(taken, tokenizer)
    assert len(changed) > 500
    for read, trained in changed:
        restored = objective.restored(trained)
        is_of_spans = isinstance(objective, SpanCorruption)
        lost = 2 * num_spans(objective.config, len(read)) if is_of_spans else NUM_MARKS
        assert restored.tolist() == read[: len(read) - lost].tolist()
        text = tokenizer.decode(restored.tolist())
        assert text and tokenizer.decode(read.tolist()).startswith(text.rstrip("\ufffd"))
    control = np.array(tokenizer.control_ids)
    ends = np.isin(taken.read, control)
    assert np.array_equal(taken.tokens[ends], taken.read[ends]), "documents begin and end where they did"
    assert not np.isin(taken.tokens[~ends], control).any()


def test_documents_of_another_epoch_are_cut_elsewhere(open_run: Callable[..., Opened]) -> None:
    _, data, _, _ = open_run(FILL_IN_THE_MIDDLE.replace("rate: 0.4", "rate: 1.0"))
    numbers = np.arange(2)
    row = data.read(numbers[:1]).repeat(2, axis=0)
    sources, starts = (places.repeat(2) for places in data.places(numbers[:1]))
    data.apply_objectives(numbers, sources, starts, row, data.document_starts(sources, starts))
    assert not np.array_equal(*row)


def test_a_sample_is_shown_as_it_was_read_and_as_it_was_trained_on(open_run: Callable[..., Opened]) -> None:
    _, data, _, _ = open_run(FILL_IN_THE_MIDDLE, SPAN_CORRUPTION, "data.document_mask=true")
    taken = take(data, 40)
    for number in range(40):
        shown = sample_as_trained(data, number)
        assert np.array_equal(shown.read, taken.read[number]) and np.array_equal(shown.tokens, taken.tokens[number])
        first_of_documents = np.array(taken.starts[number], np.int64) - 1
        counted = taken.counted[number].copy()
        counted[first_of_documents] = False
        assert np.array_equal(shown.counted, counted)


@pytest.mark.parametrize("num_tokens", [*range(70), 4097])
def test_a_text_keeps_its_length_whatever_that_is(num_tokens: int) -> None:
    config = SpanCorruptionConfig()
    spans = num_spans(config, num_tokens)
    assert (spans == 0) == (num_tokens < 4)
    kept = num_tokens - 2 * spans
    assert kept >= 2 * spans, "each span stands behind text"
    if num_tokens == 4097:
        noise = int(kept * config.noise_density + 0.5)
        assert spans == 186 and noise / spans == pytest.approx(config.mean_span_length, rel=0.01)
