"""The memory that the plan computes is the one that rehearsals count, for every layout, family, config and recipe of their golden files."""

import json
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from bench.recipes import MEMORY, RECIPES, name_of
from fanal.kernels import products
from pretrain.config.derive import world_size
from pretrain.config.load import load_run
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.optim.registry import num_states
from pretrain.plan import memory
from pretrain.plan.memory import stage_memory
from pretrain.plan.shapes import Shapes, shapes_of, stage_parameters
from tests.golden.rehearsals import SETS, Case, golden_path

WORST, MEDIAN = 0.10, 0.05


def computed(case: Case) -> tuple[int, Shapes, int]:
    """The computed peak of a case's rank, its sizes and its stage."""
    shapes = shapes_of(case.run, case.num_ranks)
    stage = case.rank // (case.num_ranks // shapes.pipeline)
    return sum(stage_memory(case.run, shapes, stage, tensors_alone=True).values()), shapes, stage


def errors(name: str) -> dict[str, float]:
    """By how much each case is computed too high, as a part of what its rehearsal counts."""
    golden: dict[str, Any] = json.loads(golden_path(name).read_text())
    return {case.name: computed(case)[0] / golden[case.name]["memory"]["peak"] - 1 for case in SETS[name]()}


@pytest.mark.parametrize("name", SETS)
def test_the_computed_peak_is_the_rehearsed_one(name: str) -> None:
    found = errors(name)
    worst = max(found, key=lambda case: abs(found[case]))
    middle = statistics.median(map(abs, found.values()))
    print(f"{name}: worst {found[worst]:+.1%} ({worst}), median {middle:.1%}")
    assert abs(found[worst]) <= WORST / 2 and middle <= MEDIAN / 5, f"{worst}: {found[worst]:+.1%}, median {middle:.1%}"


def test_the_computed_peak_of_every_recipe_is_the_rehearsed_one() -> None:
    """First and last stage of models of 1 to 72 B parameters, with every kind of norm, activation, window and recomputation."""
    golden, found = json.loads(MEMORY.read_text()), {}
    for path in RECIPES:
        run = load_run(path)
        shapes = shapes_of(run, world_size(run.parallel))
        peaks = [
            sum(stage_memory(run, shapes, stage, tensors_alone=True).values())
            for stage in sorted({0, shapes.pipeline - 1})
        ]
        for stage, (peak, counted) in enumerate(zip(peaks, golden[name_of(path)]["peaks_gib"], strict=True)):
            found[f"{name_of(path)} {stage}"] = peak / 2**30 / counted - 1
    worst, middle = max(found, key=lambda one: abs(found[one])), statistics.median(map(abs, found.values()))
    assert abs(found[worst]) <= WORST and middle <= MEDIAN / 5, f"{worst}: {found[worst]:+.1%}, median {middle:.1%}"


def _twice_the_activations(run: Any, shapes: Shapes) -> memory.Parts:
    layer = _LAYER(run, shapes)
    return {kind: 2 * size for kind, size in layer.items()}


def _gradients_in_bf16(run: Any, shapes: Shapes, stage: int) -> memory.Parts:
    parts = _STATIC(run, shapes, stage)
    return {**parts, memory.GRADIENTS: parts[memory.GRADIENTS] // 2}


def _one_micro_batch(shapes: Shapes, stage: int) -> int:
    return 1


_LAYER, _STATIC = memory._layer, memory._static


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("_layer", _twice_the_activations),
        ("_static", _gradients_in_bf16),
        ("chunks_under_way", _one_micro_batch),
    ],
)
def test_a_wrong_factor_shows(what: str, fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, what, fault)
    found = errors("layouts")
    assert max(map(abs, found.values())) > WORST, f"{what}: {max(map(abs, found.values())):.1%}"


def test_the_parameters_of_all_ranks_are_those_of_the_run() -> None:
    for case in SETS["shipped"]():
        shapes = shapes_of(case.run, case.num_ranks)
        found = sum(stage_parameters(case.run.model, shapes, stage) for stage in range(shapes.pipeline))
        norms = (2 * case.run.model.num_layers + 1) * case.run.model.hidden_size  # every tensor rank has a copy
        whole = checkpoint_bytes(case.run.model, num_states=1) // 4  # padding included
        assert found * shapes.tensor - norms * (shapes.tensor - 1) == whole, case.name


def test_copies_of_a_library_count_where_it_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN copies the logits' gradient, which is as large as they are; in bf16, on a GPU, and with MKL nothing does."""
    alone = [
        "parallel.tensor_model_parallel_size=1",
        "parallel.pipeline_model_parallel_size=1",
        "parallel.sequence_parallel=false",
    ]

    def copies(*overrides: str) -> int:
        run = load_run("configs/tiny.yaml", [*alone, *overrides])
        shapes = shapes_of(run, 1)
        whole, tensors = (stage_memory(run, shapes, 0, tensors_alone=flag) for flag in (False, True))
        assert memory.COPIES not in tensors
        assert sum(whole.values()) - sum(tensors.values()) == whole.get(memory.COPIES, 0), "the moment is the same"
        return whole.get(memory.COPIES, 0)

    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    assert copies() == 4 * 256 * 2048 * 4
    assert copies("train.precision=bf16") == copies("parallel.device=cuda") == 0
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)
    assert copies() == 0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_states_are_those_that_a_checkpoint_has(optimizer: str) -> None:
    """Of matrices Muon keeps one, as a checkpoint does; fp32 weights are the masters, and the rest of the checkpoint is states."""
    alone = [
        "parallel.tensor_model_parallel_size=1",
        "parallel.pipeline_model_parallel_size=1",
        "parallel.sequence_parallel=false",
    ]
    run = load_run("configs/tiny.yaml", [*alone, f"optim.name={optimizer}", "train.precision=fp32"])
    planned = stage_memory(run, shapes_of(run, 1), 0)[memory.OPTIMIZER]
    kept = checkpoint_bytes(run.model, num_states=num_states(run.optim)) - checkpoint_bytes(run.model, num_states=1)
    assert planned == kept
