"""Goldfish loss, against a definition by plain loops, and its two properties: repeated text, and one token in k."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pretrain.config.load import load_run
from pretrain.config.schema import GoldfishConfig, RunConfig
from pretrain.data.objectives import goldfish
from pretrain.data.objectives.goldfish import Goldfish, context_hashes
from pretrain.data.objectives.samples import Samples, new_counts
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from tests.unit.data.objective_runs import GOLDFISH, kept_by_goldfish, take, write_documents
from tokenizer.vocabulary.load import load_tokenizer


@pytest.fixture(scope="module")
def documents(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_documents(data_folder, tmp_path_factory.mktemp("goldfish"), longest=40)


def opened(small_run: Path, *overrides: str) -> tuple[RunConfig, TrainData]:
    run = load_run(small_run, [GOLDFISH, *overrides])
    return run, TrainData(open_sources(run), run.data)


def assert_as_defined(run: RunConfig, data: TrainData) -> None:
    """1,000 samples against the loops."""
    config = run.objective.goldfish
    assert config is not None
    exempt = set(load_tokenizer(run.data.tokenizer).control_ids)
    taken = take(data)
    assert np.array_equal(taken.tokens, taken.read), "nothing becomes another token"
    for number, (row, starts, counted) in enumerate(
        zip(taken.tokens.tolist(), taken.starts, taken.counted, strict=True)
    ):
        expected = kept_by_goldfish(
            row, starts, k=config.k, h=config.h, exempt=exempt, within_documents=run.data.document_mask
        )
        assert counted.tolist() == expected, f"sample {number}"


@pytest.mark.parametrize("apart", ["true", "false"])
def test_what_is_left_out_of_1000_samples_is_what_the_definition_says(
    apart: str, small_run: Path, documents: list[str]
) -> None:
    run, data = opened(small_run, *documents, f"data.document_mask={apart}")
    assert_as_defined(run, data)


def test_a_context_one_token_late_would_be_noticed(
    small_run: Path, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = opened(small_run, *documents)
    monkeypatch.setattr(goldfish, "context_hashes", lambda tokens, h: np.roll(context_hashes(tokens, h), -1, axis=1))
    with pytest.raises(AssertionError, match="sample"):
        assert_as_defined(run, data)


def test_special_tokens_that_are_left_out_would_be_noticed(small_run: Path, documents: list[str]) -> None:
    run, data = opened(small_run, *documents)
    fault = Goldfish(k=4, h=7, exempt=np.zeros(2000, dtype=bool), within_documents=False)
    data.sources = replace(data.sources, objectives=replace(data.sources.objectives, training=(fault,)))
    with pytest.raises(AssertionError, match="sample"):
        assert_as_defined(run, data)


def test_contexts_that_cross_documents_would_be_noticed(small_run: Path, documents: list[str]) -> None:
    run, data = opened(small_run, *documents, "data.document_mask=true")
    _, crossing = opened(small_run, *documents)
    data.sources = replace(data.sources, objectives=crossing.sources.objectives)
    with pytest.raises(AssertionError, match="sample"):
        assert_as_defined(run, data)


def left_out(tokens: np.ndarray, *, k: int, h: int) -> np.ndarray:
    samples = Samples(
        numbers=np.arange(len(tokens)), tokens=tokens, counted=new_counts(tokens), document_starts=None, shards=[],
        pieces=[[(0, 0)]] * len(tokens),
    )  # fmt: skip
    Goldfish(k=k, h=h, exempt=np.zeros(60_000, dtype=bool), within_documents=False).apply(samples)
    return ~samples.counted


@pytest.mark.parametrize(("k", "h"), [(2, 1), (4, 13), (50, 50), (1000, 3)])
def test_one_token_in_k_is_left_out(k: int, h: int) -> None:
    tokens = np.random.default_rng(k).integers(0, 60_000, (40, 10_000 + h), dtype=np.uint16)
    found = left_out(tokens, k=k, h=h)
    assert not found[:, : h - 1].any(), "the first h tokens have too little before them"
    # With h = 1 the 60,000 tokens decide, not the 400,000 places.
    draws = min(400_000, 60_000) if h == 1 else 400_000
    share, deviation = found[:, h - 1 :].mean(), np.sqrt((1 / k) * (1 - 1 / k) / draws)
    assert abs(share - 1 / k) < 5 * deviation


def test_a_text_loses_the_same_tokens_wherever_it_is_repeated() -> None:
    random = np.random.default_rng(0)
    text = random.integers(0, 60_000, 500, dtype=np.uint16)
    rows = random.integers(0, 60_000, (3, 2_001), dtype=np.uint16)
    for row, at in enumerate((0, 700, 1_501)):
        rows[row, at : at + 500] = text
    found = left_out(rows, k=4, h=13)
    lost = [found[row, at + 12 : at + 499].tolist() for row, at in enumerate((0, 700, 1_501))]
    assert lost[0] == lost[1] == lost[2] and any(lost[0])


def test_the_order_of_the_context_and_the_token_0_in_it_both_matter() -> None:
    rows = np.array([[5, 6, 7, 9], [6, 5, 7, 9], [0, 5, 6, 9], [0, 0, 6, 9], [1, 5, 6, 9]])
    assert len(set(context_hashes(rows, 3)[:, 0].tolist())) == 5
    assert context_hashes(np.array([[5, 6, 7, 9]]), 3) == context_hashes(np.array([[5, 6, 7, 1000]]), 3), (
        "the token itself has no part in it"
    )


def test_a_run_without_keys_has_none(small_run: Path) -> None:
    run = load_run(small_run)
    data = TrainData(open_sources(run), run.data)
    numbers = np.arange(3)
    assert run.objective.goldfish is None and data.sources.objectives.training == ()
    assert data.apply_objectives(numbers, *data.places(numbers), data.read(numbers), None) is None
    assert GoldfishConfig() == GoldfishConfig(k=50, h=50), "Apertus's"
