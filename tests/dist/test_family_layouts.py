"""Each family trains alike in every layout."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.model.families import FAMILIES
from tests.dist.harness import Trace, assert_same_stability, assert_same_training, make_run, run_and_trace
from tests.dist.test_layout_parity import unless_noticed_at_the_save
from tests.runs.cases import FAMILY_FAULTS, FAMILY_LAYOUTS, FAMILY_RUNS

LAST_VALIDATION_ALONE = ("train.validation_interval=10",)
"""Beside the one before the first step: the last is compared, and others would cost a seventh of a run."""
ONE_RANK = "one rank"
REPORTS = "log.stability_interval=5"

Trained = Callable[[str, str], Trace]


@pytest.fixture(scope="module")
def trained(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A family's run in a layout, or on one rank: trained when a test first asks for it, and kept for those that follow."""
    folder = tmp_path_factory.mktemp("trained")

    @functools.cache
    def train(name: str, layout: str) -> Trace:
        laid_out = () if layout == ONE_RANK else FAMILY_LAYOUTS[layout]
        changes = (*FAMILY_RUNS[name].overrides, *laid_out, *LAST_VALIDATION_ALONE, REPORTS)
        run = make_run(small_run, folder / name / layout.replace(" ", "-"), *changes)
        return run_and_trace(run)

    return train


def test_every_family_that_is_exported_is_trained_here() -> None:
    assert {family.architecture for family in FAMILIES} == {family.architecture for family in FAMILY_RUNS.values()}


@pytest.mark.parametrize("layout", FAMILY_LAYOUTS)
@pytest.mark.parametrize("name", FAMILY_RUNS)
def test_a_layout_trains_what_one_rank_trains(name: str, layout: str, trained: Trained) -> None:
    trace, reference = trained(name, layout), trained(name, ONE_RANK)
    assert_same_training(trace, reference)
    assert_same_stability(trace, reference)
    assert trace.validation[10] == pytest.approx(reference.validation[10], rel=2e-6)


@pytest.mark.parametrize(("name", "fault"), FAMILY_FAULTS)
def test_a_fault_in_what_is_its_own_breaks_parity(
    name: str, fault: str, small_run: Path, tmp_path: Path, trained: Trained
) -> None:
    family = FAMILY_RUNS[name]
    changes = (*family.overrides, *FAMILY_LAYOUTS[family.faults[fault]], *LAST_VALIDATION_ALONE)
    run = make_run(small_run, tmp_path, *changes)
    trace = unless_noticed_at_the_save(run_and_trace(run, fault))
    assert trace.exit_code == 0, f"the fault must go unnoticed until the last save: {trace.failure}"
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of .*: .* more than"):
        assert_same_training(trace, trained(name, ONE_RANK))
