"""Every layout trains the same model on the same batches, and the comparison catches a fault in each of them."""

import dataclasses
import statistics
from pathlib import Path

import pytest

from pretrain.checkpoint.saving.replicas import ReplicaDriftError
from pretrain.inspect.bounds import BF16
from tests.dist.harness import Trace, assert_same_stability, assert_same_training, make_run, run_and_trace
from tests.runs.cases import DP2, LAYOUTS, PP2, TIED, TIED_LAYOUTS, TP2, Layout

REPORTS = "log.stability_interval=3"
"""Steps 3, 6 and 9."""


@pytest.fixture(scope="session")
def tp1(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return run_and_trace(make_run(small_run, tmp_path_factory.mktemp("tp1"), REPORTS))


@pytest.fixture(scope="session")
def tied_tp1(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return run_and_trace(make_run(small_run, tmp_path_factory.mktemp("tied-tp1"), *TIED, REPORTS))


def unless_noticed_at_the_save(trace: Trace) -> Trace:
    """A fault after which replicas differ stops the run at its last save; what it has trained is compared all the same."""
    noticed = trace.failure is not None and isinstance(trace.failure.error, ReplicaDriftError)
    return dataclasses.replace(trace, exit_code=0) if noticed else trace


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_trains_what_one_rank_trains(layout: Layout, small_run: Path, tmp_path: Path, tp1: Trace) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *layout.overrides, REPORTS))
    assert_same_training(trace, tp1)
    assert_same_stability(trace, tp1)
    assert trace.validation[10] == pytest.approx(tp1.validation[10], rel=2e-6)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_planted_fault_breaks_parity(layout: Layout, small_run: Path, tmp_path: Path, tp1: Trace) -> None:
    trace = unless_noticed_at_the_save(run_and_trace(make_run(small_run, tmp_path, *layout.overrides), layout.fault))
    assert trace.exit_code == 0, f"the fault must go unnoticed until the last save: {trace.failure}"
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of step \d+: .* more than"):
        assert_same_training(trace, tp1)


@pytest.mark.parametrize("layout", TIED_LAYOUTS, ids=lambda layout: layout.name)
def test_tied_embeddings_train_alike_in_every_layout(
    layout: Layout, small_run: Path, tmp_path: Path, tied_tp1: Trace
) -> None:
    sound = run_and_trace(make_run(small_run, tmp_path / "sound", *TIED, *layout.overrides, REPORTS))
    assert_same_training(sound, tied_tp1)
    assert_same_stability(sound, tied_tp1)
    broken = run_and_trace(make_run(small_run, tmp_path / "broken", *TIED, *layout.overrides), layout.fault)
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of step \d+: .* more than"):
        assert_same_training(unless_noticed_at_the_save(broken), tied_tp1)


@pytest.mark.parametrize("overrides", [(), TP2 + PP2], ids=["one rank", "tp2-pp2"])
def test_rows_above_the_tokenizer_s_vocabulary_change_nothing(
    overrides: tuple[str, ...], small_run: Path, tmp_path: Path, tp1: Trace
) -> None:
    """All of the second rank's columns stand for no token."""
    trace = run_and_trace(make_run(small_run, tmp_path, "model.vocab_size=4096", *overrides))
    assert_same_training(trace, tp1)
    assert trace.validation[10] == pytest.approx(tp1.validation[10], rel=2e-6)
    assert "rows 2,000 to 4,095 stand for no token and take no part in the loss" in trace.output


def test_rows_above_the_tokenizer_s_vocabulary_that_take_part_would_be_noticed(
    small_run: Path, tmp_path: Path, tp1: Trace
) -> None:
    counted = run_and_trace(make_run(small_run, tmp_path, "model.vocab_size=4096"), "rows_without_a_token_counted")
    assert counted.exit_code == 0, counted.failure
    with pytest.raises(AssertionError, match=r"loss of step 1: .* more than"):
        assert_same_training(counted, tp1)


def test_uneven_loss_masks_weigh_every_token_alike_in_every_layout(small_run: Path, tmp_path: Path, tp1: Trace) -> None:
    reference = run_and_trace(make_run(small_run, tmp_path / "one"), "uneven_masks")
    assert reference.losses[1] != tp1.losses[1], "the masks must matter"
    small = run_and_trace(make_run(small_run, tmp_path / "micro", "train.micro_batch_size=1"), "uneven_masks")
    assert_same_training(small, reference)
    wide = run_and_trace(make_run(small_run, tmp_path / "wide", *DP2, *PP2), "uneven_masks")
    assert_same_training(wide, reference)


def assert_follows_in_bf16(trace: Trace, reference: Trace) -> None:
    assert_same_training(trace, reference, loss=BF16.loss, grad_norm=float("inf"))
    pairs = zip(trace.grad_norms.values(), reference.grad_norms.values(), strict=True)
    deviation = statistics.median(abs(found / expected - 1) for found, expected in pairs)
    assert deviation < BF16.grad_norm, (
        f"the gradient norm of the median step is {deviation:.1e} off, more than {BF16.grad_norm:.1e}"
    )


def test_bf16_follows_one_rank_within_rounding_and_learns(small_run: Path, tmp_path: Path) -> None:
    bf16 = ("train.precision=bf16", "train.train_steps=30")
    reference = run_and_trace(make_run(small_run, tmp_path / "tp1", *bf16))
    trace = run_and_trace(make_run(small_run, tmp_path / "tp2-pp2", *bf16, *TP2, *PP2))
    assert_follows_in_bf16(trace, reference)
    assert trace.losses[30] < trace.losses[1] - 1.0, "the loss must fall"
    broken = run_and_trace(
        make_run(small_run, tmp_path / "broken", *bf16, *TP2, *PP2), "half_the_heads_dead_on_one_rank"
    )
    with pytest.raises(AssertionError, match="more than"):
        assert_follows_in_bf16(broken, reference)


def test_adamw_in_one_pass_trains_alike_where_replicas_split_the_masters(small_run: Path, tmp_path: Path) -> None:
    bf16 = ("train.precision=bf16", *DP2)
    reference = run_and_trace(make_run(small_run, tmp_path / "by-torch", *bf16))
    trace = run_and_trace(make_run(small_run, tmp_path / "one-pass", *bf16), "adamw_in_one_pass")
    assert_follows_in_bf16(trace, reference)
    assert trace.losses != reference.losses  # not the same bits: it was another code
    broken = run_and_trace(make_run(small_run, tmp_path / "broken", *bf16), "adamw_in_one_pass_and_copies_lost")
    with pytest.raises(AssertionError, match="more than"):
        assert_follows_in_bf16(broken, reference)
