"""train.loss_chunk_tokens: with the loss in chunks ranks train what they train with all logits in memory, in every kind of layout."""

import dataclasses
from pathlib import Path

import pytest

from pretrain.checkpoint.saving.replicas import ReplicaDriftError
from tests.dist.harness import Trace, assert_same_stability, assert_same_training, make_run, run_and_trace
from tests.runs.cases import PP2, TIED, TP2

CHUNKS = "train.loss_chunk_tokens=50"
"""Divides no micro batch of the runs."""
REPORTS = "log.stability_interval=5"
LAYOUTS = {
    "one rank": (),
    "TP2": TP2,
    "TP2 + SP": (*TP2, "parallel.sequence_parallel=true"),
    "TP2 + SP x PP2": (*TP2, *PP2, "parallel.sequence_parallel=true"),
}


@pytest.fixture(scope="session")
def whole(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return run_and_trace(make_run(small_run, tmp_path_factory.mktemp("whole"), "train.z_loss_weight=0.01", REPORTS))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_chunks_train_what_whole_logits_train(
    layout: tuple[str, ...], small_run: Path, tmp_path: Path, whole: Trace
) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *layout, CHUNKS, "train.z_loss_weight=0.01", REPORTS))
    assert_same_training(trace, whole)
    assert_same_stability(trace, whole)
    assert trace.validation[10] == pytest.approx(whole.validation[10], rel=2e-6)


@pytest.mark.parametrize("layout", ["TP2", "TP2 + SP"])
def test_gradients_of_other_ranks_columns_left_out_break_parity(
    layout: str, small_run: Path, tmp_path: Path, whole: Trace
) -> None:
    overrides = (*LAYOUTS[layout], CHUNKS, "train.z_loss_weight=0.01")
    trace = run_and_trace(make_run(small_run, tmp_path, *overrides), "hidden_gradient_of_own_columns_alone")
    # Norms of two ranks differ then, which the last save notices; what was trained until then is compared all the same.
    assert trace.failure is None or isinstance(trace.failure.error, ReplicaDriftError)
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of step \d+: .* more than"):
        assert_same_training(dataclasses.replace(trace, exit_code=0), whole)


def test_tied_embeddings_in_chunks_train_what_they_train_whole(small_run: Path, tmp_path: Path) -> None:
    plain = run_and_trace(make_run(small_run, tmp_path / "plain", *TIED))
    for name, layout in {"one": (), "pp2": PP2}.items():
        assert_same_training(run_and_trace(make_run(small_run, tmp_path / name, *TIED, *layout, CHUNKS)), plain)
