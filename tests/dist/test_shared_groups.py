"""Fewer key/value groups than tensor-parallel ranks: every layout trains what one rank trains, and each fault in it is noticed."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.dist.harness import Trace, assert_same_stability, assert_same_training, make_run, run_and_trace
from tests.dist.test_layout_parity import assert_follows_in_bf16, unless_noticed_at_the_save
from tests.runs.cases import DP2, NO_DISTRIBUTED_OPTIMIZER, OVERLAP, PP2, SP, TP2, VP2

TP4 = ("parallel.tensor_model_parallel_size=4",)
TWO, ONE = ("model.num_query_groups=2",), ("model.num_query_groups=1",)
"""Of eight query heads."""
BIASES, NORMS = ("model.add_qkv_bias=true",), ("model.qk_layernorm=true",)
FULL = (*NORMS, "model.qk_layernorm_scope=full")
STABLE = ("optim.name=stable_adamw", "optim.adam_beta2=0.99")
MUON = ("optim.name=muon",)
LAST_VALIDATION_ALONE = ("train.validation_interval=10",)
REPORTS = ("log.stability_interval=5",)


@dataclass(frozen=True)
class Case:
    """A model, the layout in which ranks share its groups, and functions of group_faults.py that show in it."""

    model: tuple[str, ...]
    layout: tuple[str, ...]
    faults: tuple[str, ...] = ()


CASES = {
    "two groups at TP4": Case(
        TWO, TP4,
        ("key_value_gradients_not_summed", "copies_counted_for_each_holder_in_the_norm", "key_heads_of_the_wrong_group_on_the_last_rank"),
    ),
    "two groups at TP4 + SP, biases, norms of heads": Case((*TWO, *BIASES, *NORMS), (*TP4, *SP), ("key_value_gradients_not_summed",)),
    "two groups at TP4 + SP, norms over all heads": Case(
        (*TWO, *FULL), (*TP4, *SP), ("squares_of_key_copies_added_for_each_holder",),
    ),
    "one group at TP2 x DP2, overlap": Case(
        ONE, (*TP2, *DP2, *OVERLAP), ("key_value_gradients_not_summed", "copies_counted_for_each_holder_in_the_norm"),
    ),
    "one group at TP2 x DP2, replicated optimizer": Case(ONE, (*TP2, *DP2, *NO_DISTRIBUTED_OPTIMIZER)),
    "one group at TP2 + SP x PP2, virtual stages": Case((*ONE, *BIASES), (*TP2, *SP, *PP2, *VP2), ("key_value_gradients_not_summed",)),
    "two groups at TP4, recomputation": Case(TWO, (*TP4, "train.recompute=full")),
    "two groups at TP4, StableAdamW": Case((*TWO, *STABLE), TP4, ("updates_clipped_by_copies_too",)),
    "one group at TP2 x DP2, StableAdamW": Case((*ONE, *STABLE), (*TP2, *DP2, *OVERLAP)),
    "two groups at TP4 + SP, Muon": Case((*TWO, *MUON), (*TP4, *SP), ("keys_of_each_rank_orthogonalized_for_themselves",)),
    "one group at TP2 x DP2, Muon": Case((*ONE, *MUON), (*TP2, *DP2, *OVERLAP)),
    "one group at TP2 x DP2, Muon, replicated optimizer": Case((*ONE, *MUON), (*TP2, *DP2, *NO_DISTRIBUTED_OPTIMIZER)),
    "two groups at TP4, a moving average": Case((*TWO, "optim.ema_decay=0.9", "train.validate_ema=true"), TP4),
}  # fmt: skip
FAULTS = [(name, fault) for name, case in CASES.items() for fault in case.faults]

Reference = Callable[[tuple[str, ...]], Trace]


@pytest.fixture(scope="module")
def one_rank(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A model trained by one rank, when a test first asks for it."""
    folder = tmp_path_factory.mktemp("one-rank")

    @functools.cache
    def train(model: tuple[str, ...]) -> Trace:
        run = make_run(small_run, folder / str(len(list(folder.iterdir()))), *model, *LAST_VALIDATION_ALONE, *REPORTS)
        return run_and_trace(run)

    return train


@pytest.mark.parametrize("name", CASES)
def test_ranks_that_share_groups_train_what_one_rank_trains(
    name: str, small_run: Path, tmp_path: Path, one_rank: Reference
) -> None:
    case, reference = CASES[name], one_rank(CASES[name].model)
    trace = run_and_trace(make_run(small_run, tmp_path, *case.model, *case.layout, *LAST_VALIDATION_ALONE, *REPORTS))
    assert_same_training(trace, reference)
    assert_same_stability(trace, reference)
    assert trace.validation[10] == pytest.approx(reference.validation[10], rel=2e-6)


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_fault_in_what_ranks_share_breaks_parity(
    name: str, fault: str, small_run: Path, tmp_path: Path, one_rank: Reference
) -> None:
    case = CASES[name]
    run = make_run(small_run, tmp_path, *case.model, *case.layout, *LAST_VALIDATION_ALONE)
    trace = unless_noticed_at_the_save(run_and_trace(run, fault))
    assert trace.exit_code == 0, f"the fault must go unnoticed until the last save: {trace.failure}"
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of .*: .* more than"):
        assert_same_training(trace, one_rank(case.model))


def test_a_report_that_counts_copies_for_each_holder_is_noticed(
    small_run: Path, tmp_path: Path, one_rank: Reference
) -> None:
    run = make_run(small_run, tmp_path, *TWO, *TP4, *LAST_VALIDATION_ALONE, *REPORTS)
    trace = run_and_trace(run, "copies_counted_for_each_holder_in_the_report")
    assert_same_training(trace, one_rank(TWO))
    with pytest.raises(AssertionError, match="more than"):
        assert_same_stability(trace, one_rank(TWO))


@pytest.mark.parametrize("fault", ["key_value_gradients_not_summed", "key_heads_of_the_wrong_group_on_the_last_rank"])
def test_copies_that_drift_stop_the_run_before_they_reach_a_checkpoint(
    fault: str, small_run: Path, tmp_path: Path
) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *TWO, *TP4, "train.train_steps=2", "data.validation=[]"), fault)
    assert trace.exit_code == 70 and trace.failure is not None
    message = str(trace.failure.error)
    assert "weights that must be equal have drifted apart, in 4 parameters: " in message
    ranks = "rank 0 has " if fault == "key_value_gradients_not_summed" else "rank 2 has "
    assert f"decoder.layers.0.self_attention.linear_qkv.weight (among tensor-parallel ranks): {ranks}" in message


def test_bf16_follows_one_rank_within_rounding(small_run: Path, tmp_path: Path) -> None:
    bf16 = (*TWO, "train.precision=bf16", "train.train_steps=30", "data.validation=[]")
    reference = run_and_trace(make_run(small_run, tmp_path / "tp1", *bf16))
    trace = run_and_trace(make_run(small_run, tmp_path / "tp4", *bf16, *TP4, *SP))
    assert_follows_in_bf16(trace, reference)
    assert trace.losses[30] < trace.losses[1] - 1.0, "the loss must fall"
    fault = "copies_counted_for_each_holder_in_the_norm"
    broken = run_and_trace(make_run(small_run, tmp_path / "broken", *bf16, *TP4, *SP), fault)
    with pytest.raises(AssertionError, match="more than"):
        assert_follows_in_bf16(broken, reference)
