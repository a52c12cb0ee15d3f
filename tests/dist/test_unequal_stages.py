"""Pipeline stages of unequal layers train the same model, resume one another's checkpoints, and are exported."""

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fanal.run_folder import checkpoints_dir, step_name
from tests.dist.export_faults import Case
from tests.dist.harness import Trace, assert_same_stability, assert_same_training, make_run, run_and_trace
from tests.dist.test_export import in_a_process
from tests.dist.test_layout_parity import unless_noticed_at_the_save
from tests.dist.test_reshard_grid import last_five
from tests.runs.cases import (
    DP2,
    FAMILY_RUNS,
    FULL_RECOMPUTE,
    LIGHT_ENDS,
    ONE_AND_THREE,
    OVERLAP,
    PP2,
    PP3,
    PP4,
    SP,
    TP2,
    VP2,
)

ALL = ("train.validation_interval=10", "log.stability_interval=5", "checkpoint.interval=5")
MODELS = {
    "llama": (),
    "smollm3": FAMILY_RUNS["smollm3"].overrides,
    "olmo3": (*FAMILY_RUNS["olmo3"].overrides, "model.num_layers=6", "model.full_attention_layer_interval=3"),
}
"""Four layers, the same with tied embeddings and one without rotary positions, and six of which two see everything."""
TWO_ONE_ONE_TWO = ("parallel.pipeline_layers=[2,1,1,2]",)
LIGHT_FIRST = ("parallel.num_layers_in_first_pipeline_stage=2",)


@dataclass(frozen=True)
class Unequal:
    """A layout of a model, and a fault in it."""

    model: str
    overrides: tuple[str, ...]
    fault: str
    said: str
    """Layers of its stages, as the run's first line says them."""


LAYOUTS = {
    "pp2": Unequal("llama", (*PP2, *ONE_AND_THREE), "layers_begin_as_the_ones_before_them_on_the_last_stage", "1 + 3"),
    "tp2-sp-pp2": Unequal(
        "llama", (*TP2, *SP, *PP2, *ONE_AND_THREE), "layers_begin_as_the_ones_before_them_on_the_last_stage", "1 + 3"
    ),
    "pp2-dp2-overlap": Unequal(
        "llama",
        (*PP2, *DP2, *OVERLAP, *ONE_AND_THREE),
        "layers_begin_as_the_ones_before_them_on_the_last_stage",
        "1 + 3",
    ),
    "pp3-light-ends": Unequal(
        "llama", (*PP3, *LIGHT_ENDS), "layers_begin_as_the_ones_before_them_on_the_last_stage", "1 + 2 + 1"
    ),
    "pp2-heavy-first": Unequal(
        "smollm3", (*PP2, "parallel.pipeline_layers=[3,1]"), "rotary_positions_left_out_of_another_layer", "3 + 1"
    ),
    "pp2-vp2": Unequal("olmo3", (*PP2, *VP2, *TWO_ONE_ONE_TWO), "windows_in_the_wrong_layers", "2 + 2 x 1 + 2"),
    "pp2-vp2-light-first": Unequal("olmo3", (*PP2, *VP2, *LIGHT_FIRST), "windows_in_the_wrong_layers", "1 + 2 + 1 + 2"),
    "pp4-light-ends-recompute": Unequal(
        "olmo3", (*PP4, *LIGHT_ENDS, *FULL_RECOMPUTE), "windows_in_the_wrong_layers", "1 + 2 x 2 + 1"
    ),
}
Trained = Callable[[str], Trace]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unequal")


@pytest.fixture(scope="module")
def reference(small_run: Path, folder: Path) -> Trained:
    """A model's run on one rank."""
    return functools.cache(lambda model: run_and_trace(make_run(small_run, folder / model, *MODELS[model], *ALL)))


@pytest.fixture(scope="module")
def trained(small_run: Path, folder: Path) -> Trained:
    """The run of a layout."""

    @functools.cache
    def train(name: str) -> Trace:
        layout = LAYOUTS[name]
        return run_and_trace(make_run(small_run, folder / name, *MODELS[layout.model], *layout.overrides, *ALL))

    return train


@pytest.mark.parametrize("name", LAYOUTS)
def test_unequal_stages_train_what_one_rank_trains(name: str, trained: Trained, reference: Trained) -> None:
    trace, expected = trained(name), reference(LAYOUTS[name].model)
    assert_same_training(trace, expected)
    assert_same_stability(trace, expected)
    assert trace.validation[10] == pytest.approx(expected.validation[10], rel=2e-6)
    assert f"layers {LAYOUTS[name].said}) x DP" in trace.output


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_planted_fault_breaks_parity(name: str, small_run: Path, tmp_path: Path, reference: Trained) -> None:
    layout = LAYOUTS[name]
    run = make_run(small_run, tmp_path, *MODELS[layout.model], *layout.overrides, "train.validation_interval=10")
    trace = unless_noticed_at_the_save(run_and_trace(run, layout.fault))
    assert trace.exit_code == 0, f"the fault must go unnoticed until the last save: {trace.failure}"
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of .*: .* more than"):
        assert_same_training(trace, reference(layout.model))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("pp2-vp2", ()),
        ("pp2-vp2", (*PP2, "parallel.pipeline_layers=[1,5]")),
        ("pp4-light-ends-recompute", (*PP2, *VP2, *TWO_ONE_ONE_TWO)),
        ("pp4-light-ends-recompute", PP3),
    ],
    ids=["virtual to one rank", "virtual to other unequal", "light ends to virtual", "light ends to equal"],
)
def test_a_run_goes_on_with_other_stages(
    source: str,
    target: tuple[str, ...],
    small_run: Path,
    tmp_path: Path,
    trained: Trained,
    folder: Path,
    reference: Trained,
) -> None:
    assert trained(source).exit_code == 0
    saved = checkpoints_dir(folder / source) / step_name(5)
    run = make_run(small_run, tmp_path, *MODELS["olmo3"], *target, *ALL)
    copy = checkpoints_dir(run.run_dir) / step_name(5)
    shutil.copytree(saved, copy)
    trace = run_and_trace(run, fresh=False)
    assert trace.losses.keys() == {6, 7, 8, 9, 10}
    assert_same_training(trace, last_five(reference("olmo3")))


def test_a_run_of_unequal_stages_is_exported_with_a_certificate(trained: Trained, folder: Path) -> None:
    assert trained("pp2-vp2").exit_code == 0
    (folder / "out").mkdir()
    cases = [
        Case("sound", str(folder / "pp2-vp2"), str(folder / "out" / "sound"), {"dtype": "fp32"}),
        Case("broken", str(folder / "pp2-vp2"), str(folder / "out" / "broken"), {"dtype": "fp32"}, (),
             FAMILY_RUNS["olmo3"].export_fault),
    ]  # fmt: skip
    code, failure = in_a_process(cases, folder)
    assert code == 0, failure
    results = json.loads((folder / "results.json").read_text())
    assert results["sound"]["code"] == 0, results["sound"]["text"]
    certificate = json.loads((folder / "out" / "sound" / "certificate.json").read_text())
    assert certificate["figures"]["top1_agreement"] == 1.0
    card = (folder / "out" / "sound" / "README.md").read_text()
    assert "pipeline 2 with 2 virtual stages per rank (stages of 2 + 2 x 1 + 2 layers)" in card
    assert results["broken"]["code"] == 76 and "the export is not the model in" in results["broken"]["text"]
