"""Published runs beside their plans: the committed table is what is computed, and a wrong factor in the plan shows in it."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.plan_published import (
    COUNTED,
    FACTS,
    LEFT_OUT,
    RESULTS,
    Row,
    factors_of_others,
    families,
    median_error,
    rows,
    step_factor,
)
from pretrain.config.schema import RunConfig
from pretrain.plan.estimate import StepEstimate, estimate_step
from pretrain.plan.machine import FigureConfig, MachineConfig, known_machines, load_machine

MEDIAN = 0.285
"""What the median error may be without a factor: that of the table, 28.4 %. Lower it when the plan gets better."""
MEDIAN_WITH_FACTOR = 0.12
"""The same with factors that were fitted to the other families: 11.8 %, of 15 % that were aimed at."""
NARROW = ("Megatron-LM", "InternEvo")
"""Families that the faults are tried on: pipelines on fast ports, replicas on slow ones."""


def committed() -> list[float]:
    """The ratios of the table, from first row to last."""
    lines = RESULTS.read_text().split("### Left out")[0].splitlines()
    found = [re.search(r"\| ([0-9.]+) \| (?:[0-9.,]+ %|\([a-z ]+\)) \| [0-9.,]+ % \|$", line) for line in lines]
    return [float(one[1]) for one in found if one]


def same(computed: list[Row], ratios: list[float]) -> bool:
    return [row.ratio for row in computed] == pytest.approx(ratios, rel=0.002)


def committed_of(name: str) -> list[float]:
    sizes = [(one.family.startswith(name), len(one.runs)) for one in families()]
    flags = [wanted for wanted, size in sizes for _ in range(size)]
    return [ratio for wanted, ratio in zip(flags, committed(), strict=True) if wanted]


@pytest.fixture(scope="module")
def computed() -> list[Row]:
    return rows()


def test_the_table_is_what_the_plan_says_now(computed: list[Row]) -> None:
    assert same(computed, committed()), "run python -m bench.plan_published"
    assert median_error(computed) <= MEDIAN
    assert f"| all | {sum(row.kind in COUNTED for row in computed)} |" in RESULTS.read_text()


def test_a_factor_fitted_to_the_other_families_brings_a_family_near_its_runs(computed: list[Row]) -> None:
    factors = factors_of_others(computed)
    assert median_error(computed, factors) <= MEDIAN_WITH_FACTOR
    assert median_error(computed, {name: factor * 1.15 for name, factor in factors.items()}) > MEDIAN_WITH_FACTOR
    without = [row for row in computed if row.family.family != "InternEvo, A100"]
    assert factors["InternEvo, A100"] == step_factor(without) != step_factor(computed), "its own runs are left out"


def test_the_machines_that_are_shipped_have_the_factor_of_all_families(computed: list[Row]) -> None:
    fitted = step_factor(computed)
    for name in known_machines():
        figure = load_machine(name).step_factor
        assert figure is not None and figure.value == pytest.approx(fitted, abs=0.005), name


def test_every_published_run_has_a_source_and_what_is_left_out_a_reason() -> None:
    assert {path.name for path in FACTS.iterdir()} > {LEFT_OUT}
    assert all(one.source and one.runs for one in families())
    assert all(row.note for one in families() if one.family == "whole runs" for row in one.runs)
    assert "Mamba" in RESULTS.read_text()


def times_ten(name: str) -> Callable[[MachineConfig], MachineConfig]:
    def changed(machine: MachineConfig) -> MachineConfig:
        figure: FigureConfig = getattr(machine, name)
        return replace(machine, **{name: replace(figure, value=figure.value * 10)})

    return changed


def without_bubble(run: RunConfig, machine: MachineConfig, num_gpus: int) -> StepEstimate:
    one = estimate_step(run, machine, num_gpus)
    rest = one.times.step / (one.times.step - one.times.bubble)
    return replace(
        one,
        times=replace(one.times, bubble=0.0),
        mfu_full=one.mfu_full * rest,
        mfu_causal=one.mfu_causal * rest,
    )


def test_a_wrong_factor_does_not_pass() -> None:
    megatron, slow = (committed_of(name) for name in NARROW)
    assert same(rows(only=NARROW[0]), megatron)
    assert not same(rows(only=NARROW[0], estimate=without_bubble), megatron)
    assert not same(rows(only=NARROW[0], changed=times_ten("node_gb_per_s")), megatron)
    assert not same(rows(only=NARROW[1], changed=times_ten("network_gb_per_s")), slow)


def test_torchtitan_s_eager_rows_are_planned_slower_than_its_compiled_ones() -> None:
    """By 6 %; published are 16 %, of which norms that are not fused are a part that no plan counts."""
    eager, compiled, *_ = rows(only="torchtitan, H100")
    assert 1.05 < compiled.estimate.tokens_per_second_per_gpu / eager.estimate.tokens_per_second_per_gpu < 1.08
    assert compiled.published / eager.published == pytest.approx(1.157, abs=0.001)
