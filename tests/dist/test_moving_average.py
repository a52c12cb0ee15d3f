"""The moving average of the weights is a plain average in fp64 of what each step left, in every layout and across resumes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fanal.run_folder import checkpoints_dir, step_name
from fanal.run_progress import metrics
from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.tensors import read_whole
from tests.dist.harness import Trace, make_run, run_and_trace
from tests.runs.cases import DP2, NO_DISTRIBUTED_OPTIMIZER, OVERLAP, PP2, SP, TP2

DECAY, STEPS, SKIPPED = 0.7, 6, 3
AVERAGED = (
    f"optim.ema_decay={DECAY}", f"train.train_steps={STEPS}", "optim.lr_decay_samples=80", "checkpoint.interval=1",
    "optim.lr_warmup_samples=0", "data.validation=[]",
)  # fmt: skip
BOUND = 2e-6
LAYOUTS = {
    "one rank": (),
    "tp2-sp": (*TP2, *SP),
    "pp2": PP2,
    "dp2": DP2,
    "tp2-pp2": (*TP2, *PP2),
    "dp2-overlap": (*DP2, *OVERLAP),
    "dp2-replicated-bf16": (*DP2, *NO_DISTRIBUTED_OPTIMIZER, "train.precision=bf16"),
}
Runs = Callable[[str], Path]


@pytest.fixture(scope="module")
def straight(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The folder of a run of six steps in a layout, with each checkpoint; its third step is skipped. Not to be changed."""
    folder = tmp_path_factory.mktemp("averaged")

    def run_dir(name: str) -> Path:
        if not (folder / name).exists():
            trace = run_and_trace(make_run(small_run, folder / name, *AVERAGED, *LAYOUTS[name]), "step_3_is_skipped")
            assert trace.exit_code == 0, trace.failure
        return folder / name

    return run_dir


def held(run_dir: Path, step: int, state: str) -> dict[str, np.ndarray]:
    checkpoint = checkpoints_dir(run_dir) / step_name(step)
    return {
        name.removesuffix(f"/{state}"): values for name, values in read_whole(checkpoint) if name.endswith(f"/{state}")
    }


def largest_difference(run_dir: Path) -> float:
    """Of every average after every step from an average in fp64 of the weights that were saved, relative to each tensor's size."""
    expected = {name: values.astype(np.float64) for name, values in held(run_dir / "start", 0, "param").items()}
    worst = 0.0
    for step in range(1, STEPS + 1):
        if step == SKIPPED:  # no checkpoint is written after it; what it did to the average is seen in the next one
            continue
        weights, found = held(run_dir, step, "param"), held(run_dir, step, "ema")
        assert weights.keys() == found.keys() == expected.keys() != set()
        for name, values in expected.items():
            values += (1 - DECAY) * (weights[name] - values)
            worst = max(worst, float(np.abs(found[name] - values).max() / np.abs(values).max()))
    return worst


def same_bits(ours: Path, theirs: Path, step: int) -> bool:
    left, right = (dict(read_whole(checkpoints_dir(run) / step_name(step))) for run in (ours, theirs))
    assert left.keys() == right.keys() and any(name.endswith("/ema") for name in left)
    return all(values.tobytes() == right[name].tobytes() for name, values in left.items())


def resumed(small_run: Path, source: Path, step: int, target: Path, *overrides: str, fault: str | None = None) -> Trace:
    """A run that goes on from another one's checkpoint as if it were its own."""
    shutil.copytree(
        checkpoints_dir(source) / step_name(step), checkpoints_dir(target) / step_name(step), dirs_exist_ok=True
    )
    trace = run_and_trace(make_run(small_run, target, *AVERAGED, *overrides), fault, fresh=False)
    assert trace.exit_code == 0, trace.failure
    return trace


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_average_is_that_of_fp64_after_each_step(name: str, straight: Runs) -> None:
    run_dir = straight(name)
    assert largest_difference(run_dir) <= BOUND
    average = held(run_dir, STEPS, "ema")
    weights = held(run_dir, STEPS, "param")
    apart = max(float(np.abs(average[name] - values).max() / np.abs(values).max()) for name, values in weights.items())
    assert apart > 1e-3, "the average must be something else than the weights"


def test_an_average_that_moves_on_a_skipped_step_would_be_noticed(small_run: Path, tmp_path: Path) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *AVERAGED, *DP2), "average_updated_on_a_skipped_step")
    assert trace.exit_code == 0, trace.failure
    assert largest_difference(tmp_path) > 100 * BOUND


@pytest.mark.parametrize("name", ["one rank", "tp2-pp2", "dp2-overlap", "dp2-replicated-bf16"])
def test_a_resumed_average_is_the_straight_one_bit_for_bit(
    name: str, straight: Runs, small_run: Path, tmp_path: Path
) -> None:
    resumed(small_run, straight(name), 4, tmp_path, *LAYOUTS[name])
    assert same_bits(tmp_path, straight(name), STEPS)


def test_an_average_that_is_forgotten_at_a_resume_would_be_noticed(
    straight: Runs, small_run: Path, tmp_path: Path
) -> None:
    resumed(small_run, straight("dp2"), 4, tmp_path, *DP2, fault="average_forgotten_at_a_resume")
    assert held(tmp_path, STEPS, "param").keys() == held(tmp_path, STEPS, "ema").keys()
    assert not same_bits(tmp_path, straight("dp2"), STEPS)


@pytest.mark.parametrize(("source", "target"), [("tp2-pp2", "dp2"), ("dp2", "tp2-sp")])
def test_an_average_goes_on_in_another_layout(
    source: str, target: str, straight: Runs, small_run: Path, tmp_path: Path
) -> None:
    resumed(small_run, straight(source), 4, tmp_path, *LAYOUTS[target])
    expected = held(straight(source), STEPS, "ema")
    for name, values in held(tmp_path, STEPS, "ema").items():
        difference = np.linalg.norm(values - expected[name]) / np.linalg.norm(expected[name])
        assert difference <= 2e-5, (
            f"{name}: {difference:.1e}"
        )  # what two layouts' weights are apart (inspect/bounds.py)


def test_an_average_is_dropped_at_a_resume_and_begins_with_the_weights_at_another(
    straight: Runs, small_run: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "without", tmp_path / "with"
    resumed(small_run, straight("dp2"), 4, first, *DP2, "optim.ema_decay=null", "train.train_steps=5")
    assert read_index(checkpoints_dir(first) / step_name(5)).states == ("param", "exp_avg", "exp_avg_sq")
    resumed(small_run, first, 5, second, *DP2)
    before, after, found = held(first, 5, "param"), held(second, 6, "param"), held(second, 6, "ema")
    for name, values in before.items():
        expected = values + (1 - DECAY) * (after[name].astype(np.float64) - values)
        assert np.abs(found[name] - expected).max() <= BOUND * np.abs(expected).max(), name
    unchanged = held(straight("dp2"), STEPS, "param")
    assert all(values.tobytes() == unchanged[name].tobytes() for name, values in after.items()), (
        "training is as without"
    )


def test_a_run_that_keeps_another_one_s_optimizer_keeps_its_average(
    straight: Runs, small_run: Path, tmp_path: Path
) -> None:
    keys = (*AVERAGED, *TP2, f"checkpoint.init_from={straight('dp2')}", "train.train_steps=1")
    trace = run_and_trace(make_run(small_run, tmp_path, *keys), "start_is_saved")
    assert trace.exit_code == 0, trace.failure
    expected = held(straight("dp2"), STEPS, "ema")
    assert all(
        values.tobytes() == expected[name].tobytes() for name, values in held(tmp_path / "start", 0, "ema").items()
    )


VALIDATED = (
    "optim.ema_decay=0.7", "train.train_steps=4", "train.validation_interval=2", "optim.lr_decay_samples=80", "checkpoint.interval=2",
)  # fmt: skip


def validations(run_dir: Path) -> dict[int, tuple[dict[str, float], dict[str, float] | None]]:
    """Losses of the weights and of their average, by domain, after each step that has some."""
    found = [record for record in metrics(run_dir) if record["kind"] == "validation"]
    return {record["step"]: (record["validation_loss"], record["ema_validation_loss"]) for record in found}


@pytest.mark.parametrize("name", ["tp2-pp2", "dp2-overlap", "dp2-replicated-bf16"])
def test_a_validation_of_the_average_leaves_no_trace_in_the_training(
    name: str, small_run: Path, tmp_path: Path
) -> None:
    for validates in ("false", "true"):
        keys = (*VALIDATED, *LAYOUTS[name], f"train.validate_ema={validates}")
        trace = run_and_trace(make_run(small_run, tmp_path / validates, *keys))
        assert trace.exit_code == 0, trace.failure
    without, found = (validations(tmp_path / validates) for validates in ("false", "true"))
    assert found.keys() == without.keys() == {0, 2, 4}
    assert all(found[step][0] == losses and average is None for step, (losses, average) in without.items())
    assert found[0][0] == found[0][1] != found[4][1] != found[4][0], "it begins with the weights"
    assert all(same_bits(tmp_path / "true", tmp_path / "false", step) for step in (2, 4))
