"""Ranks that share each sequence train what one rank trains on it, and the comparison catches a fault in each part of it."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.config.schema import RunConfig
from tests.dist.context_ranks import traces
from tests.dist.harness import Trace, assert_same_stability, assert_same_training, make_run, run_and_trace
from tests.dist.short_documents import write_short_documents
from tests.dist.test_layout_parity import assert_follows_in_bf16, unless_noticed_at_the_save
from tests.runs.cases import NO_DISTRIBUTED_OPTIMIZER, PP2
from tests.runs.context_cases import ALL_CASES, CASES, CONTEXT_LAYOUTS, CP2, FAULTS, KINDS, ONE_RANK, UNEQUAL_LAYOUTS
from tests.unit.data.objective_runs import write_documents

COMPARED = ALL_CASES if os.environ.get("FANAL_ALL_CONTEXTS") else CASES
LAST_VALIDATION_ALONE = ("train.validation_interval=10",)
REPORTS = "log.stability_interval=3"
"""Steps 3, 6 and 9."""

Make = Callable[[str, str, Path], RunConfig]
Trained = Callable[[str], dict[str, Trace]]


@pytest.fixture(scope="module")
def run_of(small_run: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A run of a kind in a layout."""
    folder = tmp_path_factory.mktemp("context-shards")
    marked = write_documents(data_folder, folder, longest=60, marks=True)
    shards = {
        "small": [],
        "short documents": write_short_documents(data_folder, tmp_path_factory.mktemp("short-documents")),
        "documents between marks": marked,
    }

    def make(layout: str, kind: str, folder: Path) -> RunConfig:
        chosen = KINDS[kind]
        laid_out = {**CONTEXT_LAYOUTS, **UNEQUAL_LAYOUTS}.get(layout, ())
        return make_run(
            small_run, folder, *shards[chosen.shards], *chosen.overrides, *laid_out, *LAST_VALIDATION_ALONE, REPORTS
        )

    return make


@pytest.fixture(scope="module")
def trained(run_of: Make, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What each kind logged in a layout, or on one rank: all are trained when a test first asks for one."""
    folder = tmp_path_factory.mktemp("trained")

    @functools.cache
    def train(layout: str) -> dict[str, Trace]:
        kinds = [kind for kind in KINDS if any(kind == k and layout in (one, ONE_RANK) for one, k in COMPARED)]
        return traces({kind: run_of(layout, kind, folder / layout / str(list(KINDS).index(kind))) for kind in kinds})

    return train


@pytest.mark.parametrize(("layout", "kind"), COMPARED)
def test_ranks_of_a_sequence_train_what_one_rank_trains(layout: str, kind: str, trained: Trained) -> None:
    trace, reference = trained(layout)[kind], trained(ONE_RANK)[kind]
    assert_same_training(trace, reference)
    assert_same_stability(trace, reference)
    assert trace.validation[10] == pytest.approx(reference.validation[10], rel=2e-6)
    assert trace.z_losses.keys() == reference.z_losses.keys()
    for step, expected in reference.z_losses.items():
        assert trace.z_losses[step] == (expected if expected is None else pytest.approx(expected, rel=2e-6))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_breaks_parity(fault: str, run_of: Make, tmp_path: Path, trained: Trained) -> None:
    layout, kind = FAULTS[fault]
    trace = unless_noticed_at_the_save(run_and_trace(run_of(layout, kind, tmp_path), fault))
    assert trace.exit_code == 0, f"the fault must go unnoticed until the last save: {trace.failure}"
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of .*: .* more than"):
        assert_same_training(trace, trained(ONE_RANK)[kind])


def test_weights_counted_by_each_context_rank_break_the_stability_report(
    small_run: Path, tmp_path: Path, trained: Trained
) -> None:
    overrides = (*KINDS["rows"].overrides, *CP2, *NO_DISTRIBUTED_OPTIMIZER, *LAST_VALIDATION_ALONE, REPORTS)
    sound = run_and_trace(make_run(small_run, tmp_path / "sound", *overrides))
    assert_same_stability(sound, trained(ONE_RANK)["rows"])
    broken = run_and_trace(make_run(small_run, tmp_path / "broken", *overrides), "masters_of_context_ranks_counted")
    assert_same_training(broken, trained(ONE_RANK)["rows"])
    with pytest.raises(AssertionError, match="more than"):
        assert_same_stability(broken, trained(ONE_RANK)["rows"])


def test_bf16_follows_one_rank_within_rounding_and_learns(small_run: Path, tmp_path: Path) -> None:
    bf16 = ("train.precision=bf16", "train.train_steps=30", "data.validation=[]")
    reference = run_and_trace(make_run(small_run, tmp_path / "one", *bf16))
    trace = run_and_trace(make_run(small_run, tmp_path / "cp2-pp2", *bf16, *CP2, *PP2))
    assert_follows_in_bf16(trace, reference)
    assert trace.losses[30] < trace.losses[1] - 1.0, "the loss must fall"
    broken = run_and_trace(make_run(small_run, tmp_path / "broken", *bf16, *CP2, *PP2), "angles_of_other_chunks")
    with pytest.raises(AssertionError, match="more than"):
        assert_follows_in_bf16(broken, reference)
