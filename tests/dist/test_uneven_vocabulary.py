"""A vocabulary that does not divide among tensor-parallel ranks: every layout trains what one rank trains."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dist.harness import Trace, assert_same_stability, assert_same_training, make_run, run_and_trace
from tests.dist.test_layout_parity import assert_follows_in_bf16
from tests.runs.cases import DP2, OVERLAP, PP2, SP, TIED, TP2

TP4 = ("parallel.tensor_model_parallel_size=4",)
ODD = ("model.make_vocab_size_divisible_by=1", "model.vocab_size=2001")
"""One more than the tokenizer's: the last row stands for no token, and TP2 has a row past the end, TP4 three."""
PADDED = ("model.make_vocab_size_divisible_by=2003",)
"""2000 tokens and 3 padding rows; TP2 and TP4 have one row past them."""
CHUNKS = ("train.loss_chunk_tokens=50", "train.z_loss_weight=0.01")
REPORTS = ("log.stability_interval=5", "train.validation_interval=10")

CASES = {
    "TP2": (ODD, TP2),
    "TP4 + SP": (PADDED, (*TP4, *SP)),
    "TP2, tied": ((*ODD, *TIED), TP2),
    "TP4, tied, loss in chunks": ((*ODD, *TIED, "train.z_loss_weight=0.01"), (*TP4, *CHUNKS)),
    "TP4 + SP, loss in chunks": ((*PADDED, "train.z_loss_weight=0.01"), (*TP4, *SP, *CHUNKS)),
    "TP2 x PP2, tied": ((*ODD, *TIED), (*TP2, *PP2)),
    "TP2 x DP2, overlap": (ODD, (*TP2, *DP2, *OVERLAP)),
    "TP2 x DP2, StableAdamW": ((*ODD, *TIED, "optim.name=stable_adamw", "optim.adam_beta2=0.99"), (*TP2, *DP2)),
}

Reference = Callable[[tuple[str, ...]], Trace]


@pytest.fixture(scope="module")
def one_rank(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A model trained by one rank, when a test first asks for it."""
    folder = tmp_path_factory.mktemp("one-rank")

    @functools.cache
    def train(model: tuple[str, ...]) -> Trace:
        return run_and_trace(make_run(small_run, folder / str(len(list(folder.iterdir()))), *model, *REPORTS))

    return train


@pytest.mark.parametrize("name", CASES)
def test_ranks_with_uneven_parts_train_what_one_rank_trains(
    name: str, small_run: Path, tmp_path: Path, one_rank: Reference
) -> None:
    model, layout = CASES[name]
    trace, reference = run_and_trace(make_run(small_run, tmp_path, *model, *layout, *REPORTS)), one_rank(model)
    assert_same_training(trace, reference)
    assert_same_stability(trace, reference)
    assert trace.validation[10] == pytest.approx(reference.validation[10], rel=2e-6)


@pytest.mark.parametrize("fault", ["rows_past_the_end_take_part", "vocabulary_cut_as_if_it_divided"])
@pytest.mark.parametrize("name", ["TP2", "TP4, tied, loss in chunks"])
def test_a_fault_in_uneven_parts_breaks_parity(
    name: str, fault: str, small_run: Path, tmp_path: Path, one_rank: Reference
) -> None:
    model, layout = CASES[name]
    trace = run_and_trace(make_run(small_run, tmp_path, *model, *layout, *REPORTS), fault)
    assert trace.exit_code == 0, trace.failure
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of .*: .* more than"):
        assert_same_training(trace, one_rank(model))


def test_bf16_follows_one_rank_within_rounding(small_run: Path, tmp_path: Path) -> None:
    bf16 = (*ODD, *TIED, "train.precision=bf16", "train.train_steps=30", "data.validation=[]")
    reference = run_and_trace(make_run(small_run, tmp_path / "tp1", *bf16))
    trace = run_and_trace(make_run(small_run, tmp_path / "tp2", *bf16, *TP2, *SP))
    assert_follows_in_bf16(trace, reference)
    assert trace.losses[30] < trace.losses[1] - 1.0, "the loss must fall"
