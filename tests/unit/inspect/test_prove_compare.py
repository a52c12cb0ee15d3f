"""A comparison must be able to fail: every kind of difference, planted one at a time, is named."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fanal.run_progress import parse_metrics
from pretrain.checkpoint.disk.manifest import FileEntry, Manifest
from pretrain.checkpoint.disk.verify import Finding
from pretrain.data.position import DataPosition, StepPosition
from pretrain.inspect.bounds import BF16, FP32
from pretrain.inspect.compare import PropertyComparison, compare, optimizer_tensors
from pretrain.inspect.evidence import Evidence, StepReader
from pretrain.inspect.layouts import Layout
from pretrain.inspect.prove_report import ProvedRun, _json

STEPS = 8


def record(step: int) -> dict:
    return {
        "kind": "step", "step": step, "consumed_samples": 8 * step, "consumed_tokens": 512 * step,
        "global_batch_size": 8, "loss": 7.6 - step / 10, "loss_by_domain": {"code": 7.5 - step / 10},
        "learning_rate": 1e-3 * step, "grad_norm": 1.0 + step, "skipped_steps": 0,
    }  # fmt: skip


def evidence() -> Evidence:
    checkpoint = Path("run/checkpoints/step-00000008")
    position = DataPosition(
        consumed_samples=64, tokenizer_sha256="0" * 64, seq_length=64, seed=42, sources=(), phases=(),
        consumed_hash="1" * 32, last_step=StepPosition(first_sample=56, num_samples=8, hash="2" * 32),
    )  # fmt: skip
    files = tuple(
        FileEntry(path=path, bytes=3, hash=f"blake3:{digit * 64}")
        for path, digit in (("config.yaml", "a"), ("shards/rank-00000.safetensors", "c"))
    )
    return Evidence(
        run_dir=Path("run"),
        steps=[record(step) for step in range(1, STEPS + 1)],
        validations=[
            {"kind": "validation", "step": step, "validation_loss": {"code": 7.0 - step}} for step in (0, 3, 8)
        ],
        checkpoint=checkpoint,
        finding=Finding(folder=checkpoint, manifest=Manifest(step=8, files=files), problems=()),
        position=position,
    )


def problems(run: Evidence, *, bounds=None, first_step: int = 1) -> dict[str, str]:
    found = compare(run, evidence(), steps=STEPS, bounds=bounds, first_step=first_step)
    return {comparison.what: "; ".join(comparison.problems) for comparison in found if comparison.holds is False}


def test_a_run_equals_itself_in_every_way() -> None:
    found = compare(evidence(), evidence(), steps=STEPS, bounds=None)
    assert [comparison.holds for comparison in found] == [True] * 5
    assert not problems(evidence(), bounds=FP32) and not problems(evidence(), bounds=BF16)
    across = compare(evidence(), evidence(), steps=STEPS, bounds=FP32)
    assert "optimizer" not in {comparison.what for comparison in across}, "its bytes depend on the layout"


def changed(**fields) -> Evidence:
    """The evidence with one field of step 5 changed."""
    run = copy.deepcopy(evidence())
    run.steps[4].update(fields)
    return run


def test_a_single_bit_of_a_loss_counts_in_the_same_layout_and_not_in_another() -> None:
    loss = float(np.nextafter(record(5)["loss"], 8))
    assert "loss of step 5: 7.1000" in problems(changed(loss=loss))["loss"]
    assert not problems(changed(loss=loss), bounds=FP32)


def test_what_is_outside_a_bound_is_named() -> None:
    assert "more than 2e-06" in problems(changed(loss=7.1001), bounds=FP32)["loss"]
    assert "loss of code of step 5" in problems(changed(loss_by_domain={"code": 7.01}), bounds=FP32)["loss"]
    assert (
        "loss of prose of step 5" in problems(changed(loss_by_domain={"code": 7.0, "prose": 7.0}), bounds=FP32)["loss"]
    )
    assert "gradient norm of step 5" in problems(changed(grad_norm=6.001), bounds=FP32)["gradient norm"]
    assert "None is inf from" in problems(changed(loss=None), bounds=FP32)["loss"], "not finite here, finite there"
    assert problems(changed(loss=7.2), bounds=BF16).keys() == {"loss"}


def test_in_bf16_the_median_of_the_gradient_norms_is_held() -> None:
    assert not problems(changed(grad_norm=7.0), bounds=BF16)
    run = evidence()
    for step in run.steps:
        step["grad_norm"] *= 1.01
    assert "gradient norm of the median step is 1.00e-02 off" in problems(run, bounds=BF16)["gradient norm"]


def test_a_record_of_a_step_that_was_trained_twice_counts_each_time() -> None:
    run = evidence()
    run.steps.insert(5, {**record(5), "loss": 7.2})
    assert "loss of step 5: 7.2 is" in problems(run)["loss"]


def test_other_data_is_found_by_counters_and_by_hash() -> None:
    assert "consumed_samples of step 5: 41, straight 40" in problems(changed(consumed_samples=41))["data order"]
    assert "learning_rate of step 5" in problems(changed(learning_rate=0.1), bounds=FP32)["data order"]
    run = evidence()
    assert run.position is not None
    other = replace(run, position=replace(run.position, consumed_hash="3" * 32))
    assert f"consumed_hash in data.json: {'3' * 32}, straight {'1' * 32}" in problems(other, bounds=FP32)["data order"]
    assert "has no checkpoint of step 8" in problems(replace(run, position=None))["data order"]


def test_a_step_that_is_missing_or_one_too_many_is_found() -> None:
    run = evidence()
    del run.steps[4]
    assert problems(run) == {"data order": "step 5 was never logged"}
    assert problems(replace(evidence(), steps=[])).keys() >= {"loss", "gradient norm", "data order"}
    assert "step 2 was trained again: not resumed" in problems(evidence(), first_step=5)["data order"]


def test_validation_losses_count_from_the_first_step_on() -> None:
    run = evidence()
    del run.validations[1]
    assert "validation loss after step 3: None" in problems(run)["validation loss"]
    later = replace(evidence(), steps=evidence().steps[4:], validations=evidence().validations[2:])
    assert not problems(later, bounds=FP32, first_step=5)
    run.validations[-1] = {"kind": "validation", "step": 8, "validation_loss": {"code": -1.1}}
    assert "loss of code validation, after step 8" in problems(run, bounds=FP32)["validation loss"]


def with_files(*files: FileEntry, found: tuple[str, ...] = ()) -> Evidence:
    run = evidence()
    assert run.finding is not None
    return replace(run, finding=replace(run.finding, manifest=Manifest(step=8, files=files), problems=found))


def test_optimizer_bytes_are_compared_by_hash_below_shards_alone() -> None:
    shard = FileEntry(path="shards/rank-00000.safetensors", bytes=3, hash="blake3:" + "c" * 64)
    assert not problems(with_files(shard)), "the config may differ"
    assert (
        "shards/rank-00000.safetensors has hash blake3:dddd"
        in problems(with_files(replace(shard, hash="blake3:" + "d" * 64)))["optimizer"]
    )
    assert "is only in the straight run's checkpoint" in problems(with_files())["optimizer"]
    more = replace(shard, path="shards/rank-00001.safetensors")
    assert (
        "rank-00001.safetensors is only in the resumed run's checkpoint"
        in problems(with_files(shard, more))["optimizer"]
    )
    damaged = problems(with_files(shard, found=("its bytes changed",)))
    assert damaged == {"optimizer": "its bytes changed"}, "equal hashes in two manifests say nothing about the files"


def tensors(**changes: np.ndarray) -> list[tuple[str, np.ndarray]]:
    made = {"a.weight": np.ones(4, np.float32), "a.weight/exp_avg": np.zeros(4, np.float32)}
    return list((made | changes).items())


def test_whole_tensors_are_held_to_a_bound() -> None:
    near = np.float32([1, 1, 1, 1.00001])
    good = optimizer_tensors(tensors(**{"a.weight": near}), tensors(), bound=2e-5)
    assert good.holds and good.deviation == pytest.approx(5e-6, rel=1e-2)
    for broken, message in (
        ({"a.weight": np.float32([1, 1, 1, 2])}, "a.weight is 5.00e-01 off, more than 2e-05"),
        ({"a.weight/exp_avg": np.float32([0, 0, 0, 1e-9])}, "a.weight/exp_avg is inf off"),
        ({"a.weight": np.float32([1, 1, 1, np.nan])}, "a.weight is inf off"),
        ({"a.weight": np.ones(5, np.float32)}, "the checkpoints hold different tensors"),
        (
            {"b.weight": np.ones(4, np.float32)},
            "the checkpoints hold different tensors: b.weight where the straight run has None",
        ),
    ):
        found = optimizer_tensors(tensors(**broken), tensors(), bound=2e-5)
        assert found.holds is False and message in found.problems[0]


def test_one_difference_among_many_makes_the_run_fail_and_infinity_is_written_as_a_word() -> None:
    good, bad = (
        PropertyComparison(what="loss", holds=holds, figure="", deviation=float("inf")) for holds in (True, False)
    )
    layout = Layout(name="TP2", overrides=(), num_ranks=2)
    assert ProvedRun(run_dir=Path("x"), layout=layout, same=True, comparisons=[good, good]).holds
    assert not ProvedRun(run_dir=Path("x"), layout=layout, same=True, comparisons=[good, bad, good]).holds
    assert json.dumps(_json(bad), allow_nan=False)


def test_a_torn_line_costs_no_record_that_was_written_whole(tmp_path: Path) -> None:
    lines = [json.dumps(record(step)) for step in (1, 2, 3)]
    text = f"{lines[0]}\n{lines[1][:40]}{lines[2]}\n"
    assert parse_metrics(text) == [record(1), record(3)]
    (tmp_path / "metrics.jsonl").write_text(lines[0] + "\n" + lines[1][:40])
    reader = StepReader(tmp_path)
    reader.read()
    assert reader.last_step == 1, "the line that is still being written is read when it is whole"
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write(lines[1][40:] + "\n")
    reader.read()
    assert reader.last_step == 2
