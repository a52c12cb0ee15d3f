"""Predictions that a run leaves out, in training and in validation: behind the end of a document, and spans."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fanal.errors import UserError
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data.batch import MicroBatch, validation_micro_batches
from pretrain.data.objectives import masked_spans
from pretrain.data.objectives.end_of_document import EndOfDocument
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.data.validation import ValidationSamples
from pretrain.parallel.world import World
from tests.unit.data.objective_runs import (
    END,
    END_OF_DOCUMENT,
    GOLDFISH,
    MASKED_SPANS,
    START,
    kept_outside_spans,
    take,
    write_documents,
)
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.spec import BOS_ID, EOS_ID

ALONE = World(
    rank=0, size=1, device=torch.device("cpu"), tp_rank=0, pp_rank=0, dp_rank=0,
    tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def documents(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Documents several samples long, and short ones, with spans of which some cross the start of a sample."""
    return write_documents(data_folder, tmp_path_factory.mktemp("spans"), longest=300, marks=True)


def opened(small_run: Path, *overrides: str) -> tuple[RunConfig, TrainData]:
    run = load_run(small_run, list(overrides))
    return run, TrainData(open_sources(run), run.data)


def marks_of(run: RunConfig) -> tuple[int, int]:
    tokenizer = load_tokenizer(run.data.tokenizer)
    ids = {tokenizer.piece(token): token for token in range(tokenizer.vocab_size)}
    return ids[START], ids[END]


def assert_spans_as_defined(run: RunConfig, data: TrainData, count: int = 1_000) -> int:
    """Samples against the shard read from its first token on; how many began inside a span."""
    taken, marks, began_inside = take(data, count), marks_of(run), 0
    for number, ((prefix, first), counted) in enumerate(zip(taken.places, taken.counted, strict=True)):
        expected = kept_outside_spans(prefix, first, 65, *marks)
        assert counted.tolist() == expected, f"sample {number}"
        began_inside += not expected[0] and taken.tokens[number, 1] not in marks
    return began_inside


def test_spans_of_1000_samples_are_those_of_their_documents(small_run: Path, documents: list[str]) -> None:
    run, data = opened(small_run, *documents, MASKED_SPANS)
    assert assert_spans_as_defined(run, data) > 50, "samples must begin inside spans"


def test_a_search_in_small_parts_finds_the_same(
    small_run: Path, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = opened(small_run, *documents, MASKED_SPANS)
    monkeypatch.setattr(masked_spans, "LOOK_BACK_TOKENS", 3)
    assert_spans_as_defined(run, data, 200)


@pytest.mark.parametrize("fault", ["not looked back", "across documents"])
def test_a_fault_in_spans_would_be_noticed(
    fault: str, small_run: Path, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = opened(small_run, *documents, MASKED_SPANS)
    spans = masked_spans.MaskedSpans
    if fault == "not looked back":
        monkeypatch.setattr(spans, "is_open_before", lambda *_: False)
    else:
        inside = spans._inside
        none = np.empty(0, np.int64)
        monkeypatch.setattr(spans, "_inside", lambda self, row, _, goes_on: inside(self, row, none, goes_on))
    with pytest.raises(AssertionError, match="sample"):
        assert_spans_as_defined(run, data)


def test_what_stands_behind_the_end_of_a_document_is_not_predicted_and_the_end_is(
    small_run: Path, documents: list[str]
) -> None:
    _, data = opened(small_run, *documents, END_OF_DOCUMENT)
    taken, left_out = take(data), 0
    for row, counted in zip(taken.tokens.tolist(), taken.counted.tolist(), strict=True):
        for at in range(1, len(row)):
            assert counted[at - 1] == (row[at - 1] != EOS_ID)
            left_out += row[at] == BOS_ID
    assert left_out > 100 and np.array_equal(taken.tokens, taken.read)


def test_an_end_that_is_itself_left_out_would_be_noticed(small_run: Path, documents: list[str]) -> None:
    class Fault(EndOfDocument):
        def apply(self, samples):
            samples.counted[samples.tokens[:, 1:] == self.eos_id] = False

    _, data = opened(small_run, *documents, END_OF_DOCUMENT)
    sound = take(data).counted
    data.sources = replace(data.sources, objectives=replace(data.sources.objectives, training=(Fault(EOS_ID),)))
    assert not np.array_equal(take(data).counted, sound)


def validation_masks(run: RunConfig) -> torch.Tensor:
    sources = open_sources(run)
    samples = ValidationSamples(sources.validation, run.data, samples_per_source=40, objectives=sources.objectives)
    batches = [
        batch for batch in validation_micro_batches(samples, run.data, run.train, ALONE, count=40)
        if isinstance(batch, MicroBatch)
    ]  # fmt: skip
    return torch.cat([batch.loss_mask for batch in batches])


def test_validation_leaves_out_what_is_no_text_to_predict_and_nothing_of_goldfish(
    small_run: Path, documents: list[str]
) -> None:
    masked = load_run(small_run, [*documents, END_OF_DOCUMENT, MASKED_SPANS])
    both = load_run(small_run, [*documents, END_OF_DOCUMENT, MASKED_SPANS, GOLDFISH])
    none, goldfish = load_run(small_run, documents), load_run(small_run, [*documents, GOLDFISH])
    assert torch.equal(validation_masks(masked), validation_masks(both))
    assert validation_masks(none).min() == validation_masks(goldfish).min() == 1
    expected = []
    for source in open_sources(masked).validation:
        for draw in range(min(40, source.order.chunks_per_epoch)):
            first = source.start_token(draw)
            tokens = np.asarray(source.shard.tokens[first : first + 65])
            kept = kept_outside_spans(source.shard.prefix, first, 65, *marks_of(masked))
            expected.append(np.array(kept) & (tokens[:-1] != EOS_ID))
    found = validation_masks(masked)[: len(expected)]
    assert np.array_equal(found.numpy() == 1, expected) and found.mean() < 0.9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('objective.mask_between=[{start_token: "<|user|>", end_token: "</s>"}]',
         r"objective\.mask_between\[0\]\.start_token \('?<\|user\|>'?\) must be a token of data\.tokenizer .*'<s>', '</s>'"),
        ("objective.fill_in_the_middle={}", r"objective\.fill_in_the_middle\.prefix_token \('?<fim_prefix>'?\) must be a token"),
        ("objective.span_corruption={}", r"objective\.span_corruption\.sentinel_token \('?<extra_id_0>'?\) must be a token"),
        ('objective.span_corruption={sentinel_token: "<0x0{}>"}',
         r"num_sentinels \(100\) must be at most the sentinels of data\.tokenizer, and it has no <0x010>; num_sentinels=10 works"),
        ('objective.fill_in_the_middle={prefix_token: "<0x11>", suffix_token: "</s>", middle_token: "<0x12>"}',
         r"fill_in_the_middle\.suffix_token \('?</s>'?\) must be a token of its own"),
    ],
)  # fmt: skip
def test_a_name_that_no_token_has_or_none_of_its_own_is_refused(override: str, message: str, small_run: Path) -> None:
    with pytest.raises(UserError, match=message):
        open_sources(load_run(small_run, [override]))
