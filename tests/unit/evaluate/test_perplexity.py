"""Perplexity and bits per byte by language, domain and source: those of a loop that predicts one token at a time."""

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fanal.errors import UserError
from pretrain.convert.open_model import open_model
from pretrain.evaluate import perplexity
from pretrain.evaluate.perplexity import ALL, PerplexityRequest, evaluate_perplexity
from pretrain.evaluate.windows import batches_of, windows_of
from pretrain.inspect.generate import load_decoder
from pretrain.log.evaluation_file import EvaluationFile, read_evaluations
from tests.unit.evaluate.conftest import TEXTS, V1, Made
from tokenizer.vocabulary.load import load_tokenizer

BOUND = 1e-5


Right = dict[str, dict[str, float]]


@pytest.fixture(scope="session")
def right(encoded: Path) -> Right:
    """Bits per byte by language, domain and source, from the texts themselves: no shard, no window, no batch."""
    tokenizer = load_tokenizer(V1 / "tokenizer")
    with open_model(V1 / "checkpoint", tokenizer=V1 / "tokenizer") as opened:
        decoder, length = load_decoder(opened, torch.device("cpu")), opened.max_length
    nats, num_bytes = defaultdict[tuple[str, str], float](float), defaultdict[tuple[str, str], int](int)
    for language, domain, text in TEXTS:
        ids = [tokenizer.bos_id, *tokenizer.encode_batch([text], num_threads=1)[0].tolist()]
        # A shard of several languages says so, and that counts for a document that says nothing.
        labels = {"language": language or "mul", "domain": domain, "source": str(encoded / domain)}
        total = 0.0
        for place in range(1, len(ids)):
            end = min(
                ((place - 1) // length + 1) * length + 1, len(ids)
            )  # of the window that the token is predicted in
            context = ids[max(0, end - 1 - length) : place]
            total -= decoder.logits(torch.tensor([context]))[0, -1].log_softmax(-1)[ids[place]].item()
        for group in [*labels.items(), *((by, ALL) for by in labels)]:
            nats[group] += total
            num_bytes[group] += len(tokenizer.decode(ids[1:]).encode())
    found: Right = defaultdict(dict)
    for by, name in nats:
        found[by][name] = nats[by, name] / math.log(2) / num_bytes[by, name]
    return found


def bits(found: EvaluationFile) -> dict[str, float | None]:
    return {figure.task: figure.value for figure in found.figures if figure.metric == "bits_per_byte"}


@pytest.mark.parametrize("by", ["language", "domain", "source"])
def test_figures_are_those_of_one_token_at_a_time(made: Made, by: str, right: Right) -> None:
    found, _ = evaluate_perplexity(made.run_dir, PerplexityRequest(by=by, overrides=made.overrides))
    assert bits(found) == pytest.approx(right[by], rel=BOUND)
    groups = {figure.task: figure for figure in found.figures if figure.metric == "loss"}
    assert {name: one.num_samples for name, one in groups.items() if name == ALL} == {ALL: len(TEXTS)}
    assert groups[ALL].num_bytes == sum(len(text.encode()) for _, _, text in TEXTS)
    loss = groups[ALL].value
    assert loss is not None
    assert next(f.value for f in found.figures if f.metric == "perplexity") == pytest.approx(math.exp(loss))


def _next_label(real, *arguments) -> Iterator[str]:
    labels = list(real(*arguments))
    return iter([*labels[1:], labels[0]])


def test_labels_of_other_documents_would_be_noticed(made: Made, right: Right, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: each document has the label of the next."""
    real = perplexity.labels_of
    monkeypatch.setattr(perplexity, "labels_of", lambda *arguments: _next_label(real, *arguments))
    found, _ = evaluate_perplexity(made.run_dir, PerplexityRequest(by="language", overrides=made.overrides))
    assert bits(found)["en"] != pytest.approx(right["language"]["en"], rel=BOUND) and bits(found)[ALL] == pytest.approx(
        right["language"][ALL], rel=BOUND
    )


def test_a_bos_too_many_would_be_noticed(made: Made, right: Right, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: every document begins with one more BOS."""
    real = perplexity.windows_of

    def with_another(ids, **options):
        return real([ids[0], *ids], **options)

    monkeypatch.setattr(perplexity, "windows_of", with_another)
    found, _ = evaluate_perplexity(made.run_dir, PerplexityRequest(by="source", overrides=made.overrides))
    assert bits(found)[ALL] != pytest.approx(right["source"][ALL], rel=BOUND)


def test_the_same_question_is_answered_from_the_record(made: Made) -> None:
    wanted = PerplexityRequest(by="domain", limit=2, overrides=made.overrides)
    first, was_there = evaluate_perplexity(made.run_dir, wanted)
    again, was_there_again = evaluate_perplexity(made.run_dir, wanted)
    assert (was_there, was_there_again) == (False, True) and again.figures == first.figures
    assert len(read_evaluations(made.run_dir)) == 1 and first.figures[0].num_samples == 4, "two of each shard"
    evaluate_perplexity(made.run_dir, PerplexityRequest(by="domain", limit=2, overrides=made.overrides, again=True))
    assert len(read_evaluations(made.run_dir)) == 2


def test_a_run_without_held_out_text_says_what_names_some(made: Made) -> None:
    overrides = [*made.overrides[:2], "data.validation=[]"]
    with pytest.raises(UserError, match=r"data\.validation=\[\{prefix: PREFIX\}\] names some"):
        evaluate_perplexity(made.run_dir, PerplexityRequest(by="domain", overrides=tuple(overrides)))


def test_a_step_without_a_checkpoint_is_refused_with_one_that_works(made: Made) -> None:
    with pytest.raises(UserError, match="--step 8 works"):
        evaluate_perplexity(made.run_dir, PerplexityRequest(by="domain", step=7, overrides=made.overrides))
    found, _ = evaluate_perplexity(
        made.run_dir, PerplexityRequest(by="domain", step=8, limit=1, overrides=made.overrides)
    )
    assert found.step == 8


@pytest.mark.parametrize("length", [1, 2, 5, 8, 9, 24, 25])
def test_windows_predict_every_token_once_with_all_the_context_that_fits(length: int) -> None:
    ids = list(range(100, 100 + length))
    found = list(windows_of(ids, max_length=8))
    assert [token for window in found for token in window.targets] == ids[1:]
    for window in found:
        assert len(window.targets) <= len(window.inputs) <= 8
        assert window.inputs[-1] == window.targets[-1] - 1
        assert len(window.inputs) == min(8, window.targets[-1] - 100)


def test_batches_lose_no_window_and_are_of_like_length() -> None:
    windows = [window for length in (9, 2, 7, 3, 5) for window in windows_of(list(range(length)), max_length=100)]
    batches = list(batches_of(windows, rows=2, ahead=10))
    assert [[len(window.inputs) for window in batch] for batch in batches] == [[1, 2], [4, 6], [8]]
