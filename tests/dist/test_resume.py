"""Stop and resume: bit for bit in the same layout, within rounding in another; skipped steps; stopping on request."""

import json
import shutil
from pathlib import Path

import pytest

from fanal.run_folder import checkpoints_dir, step_name
from fanal.run_progress import metrics
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.data.position import read_position
from tests.dist.harness import Trace, assert_same_training, make_run, run_and_trace
from tests.runs.cases import DP2, NO_DISTRIBUTED_OPTIMIZER, OVERLAP, PP2, SP, TIED, TP2, VP2
from tests.unit.data.shards import copy_shard

TP2_PP2 = (*TP2, *PP2)
CHECKPOINT = ("checkpoint.interval=5",)


@pytest.fixture(scope="session")
def straight(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trace]:
    """Ten steps under TP2 x PP2 with a checkpoint at step 5."""
    folder = tmp_path_factory.mktemp("straight")
    trace = run_and_trace(make_run(small_run, folder, *TP2_PP2, *CHECKPOINT))
    assert trace.exit_code == 0, trace.failure
    return folder, trace


def cut_back_to_step_5(source: Path, target: Path) -> None:
    """A copy of a run that ended after its checkpoint of step 5."""
    checkpoint = checkpoints_dir(source) / step_name(5)
    shutil.copytree(checkpoint, checkpoints_dir(target) / step_name(5))


def after_step_5(trace: Trace) -> Trace:
    return Trace(
        exit_code=trace.exit_code,
        failure=trace.failure,
        losses={step: loss for step, loss in trace.losses.items() if step > 5},
        grad_norms={step: norm for step, norm in trace.grad_norms.items() if step > 5},
        skipped=trace.skipped,
        validation=trace.validation,
        loss_by_domain={step: losses for step, losses in trace.loss_by_domain.items() if step > 5},
    )


@pytest.mark.parametrize(
    "layout",
    [TP2_PP2, (*DP2, *NO_DISTRIBUTED_OPTIMIZER), (*PP2, *VP2), (*DP2, *OVERLAP), (*PP2, *TIED)],
    ids=["tp2-pp2", "dp2-replicated", "pp2-vp2", "dp2-overlap", "tied-pp2"],
)
def test_a_resumed_run_equals_the_straight_one_bit_for_bit(
    layout: tuple[str, ...], small_run: Path, tmp_path: Path
) -> None:
    straight = run_and_trace(make_run(small_run, tmp_path / "straight", *layout, *CHECKPOINT))
    cut_back_to_step_5(tmp_path / "straight", tmp_path / "resumed")
    resumed = run_and_trace(make_run(small_run, tmp_path / "resumed", *layout, *CHECKPOINT), fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    assert resumed.losses == after_step_5(straight).losses
    assert resumed.grad_norms == after_step_5(straight).grad_norms
    assert resumed.validation[10] == straight.validation[10]


@pytest.mark.parametrize("optimizer", [(), NO_DISTRIBUTED_OPTIMIZER], ids=["distributed", "replicated"])
def test_bf16_resumes_bit_for_bit_from_its_master_weights(
    optimizer: tuple[str, ...], small_run: Path, tmp_path: Path
) -> None:
    bf16 = ("train.precision=bf16", *DP2, *optimizer, *CHECKPOINT)
    straight = run_and_trace(make_run(small_run, tmp_path / "straight", *bf16))
    cut_back_to_step_5(tmp_path / "straight", tmp_path / "resumed")
    resumed = run_and_trace(make_run(small_run, tmp_path / "resumed", *bf16), fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    assert resumed.losses == after_step_5(straight).losses


@pytest.mark.parametrize("layout", [(), (*TP2, *SP), DP2, (*PP2, *VP2)], ids=["one rank", "tp2-sp", "dp2", "pp2-vp2"])
def test_a_run_resumes_in_another_layout(
    layout: tuple[str, ...], small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    cut_back_to_step_5(straight[0], tmp_path)
    resumed = run_and_trace(make_run(small_run, tmp_path, *layout), fresh=False)
    assert_same_training(resumed, after_step_5(straight[1]))


def test_a_resume_takes_the_optimizer_s_settings_from_the_config(
    small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    cut_back_to_step_5(straight[0], tmp_path)
    changed = ("optim.weight_decay=5", "optim.adam_beta1=0", "optim.adam_eps=1")
    resumed = run_and_trace(make_run(small_run, tmp_path, *changed), fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    expected = after_step_5(straight[1])
    assert resumed.losses[6] == pytest.approx(expected.losses[6], rel=2e-6), "the settings act from the first update on"
    assert resumed.losses[8] != pytest.approx(expected.losses[8], rel=1e-4)


def test_no_checkpoint_is_written_while_gradients_are_not_finite(small_run: Path, tmp_path: Path) -> None:
    overrides = ("train.max_skipped_steps=3", "checkpoint.interval=1", "checkpoint.keep_last=1")
    trace = run_and_trace(make_run(small_run, tmp_path, *overrides), "gradient_never_finite")
    assert trace.exit_code == 70 and not checkpoints_in(checkpoints_dir(tmp_path))


def test_forgetting_the_optimizer_state_would_be_noticed(
    small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    cut_back_to_step_5(straight[0], tmp_path)
    resumed = run_and_trace(make_run(small_run, tmp_path), "optimizer_state_forgotten", fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    with pytest.raises(AssertionError, match="more than"):
        assert_same_training(resumed, after_step_5(straight[1]))


def test_another_model_or_data_order_is_refused_by_name(
    small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    cut_back_to_step_5(straight[0], tmp_path)
    changed = ("model.ffn_hidden_size=192", "data.seed=7")
    trace = run_and_trace(make_run(small_run, tmp_path, *changed), fresh=False)
    assert trace.exit_code == 2 and trace.failure is not None
    message = str(trace.failure.error)
    assert "model.ffn_hidden_size (checkpoint 176, config 192)" in message
    assert "data.seed (checkpoint 42, config 7)" in message


def hashes_of(run_dir: Path, step: int) -> tuple[str, str]:
    """Of all samples up to a checkpoint, and of its last step."""
    position = read_position(checkpoints_dir(run_dir) / step_name(step) / "data.json")
    assert position.consumed_samples == 8 * step
    return position.consumed_hash, position.last_step.hash


@pytest.mark.parametrize("layout", [(), DP2, (*PP2, *VP2), (*DP2, *TP2)], ids=["one rank", "dp2", "pp2-vp2", "dp2-tp2"])
def test_what_was_read_has_one_hash_in_every_layout_and_after_a_resume(
    layout: tuple[str, ...], small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    cut_back_to_step_5(straight[0], tmp_path / "resumed")
    for folder, fresh in ((tmp_path / "whole", True), (tmp_path / "resumed", False)):
        trace = run_and_trace(make_run(small_run, folder, *layout, *CHECKPOINT), fresh=fresh)
        assert trace.exit_code == 0, trace.failure
        for step in (5, 10):
            assert hashes_of(folder, step) == hashes_of(straight[0], step)


def test_a_replica_that_reads_another_one_s_samples_would_be_noticed(
    small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    run_and_trace(make_run(small_run, tmp_path, *DP2, *CHECKPOINT), "last_replica_reads_what_replica_0_reads")
    found, expected = hashes_of(tmp_path, 5), hashes_of(straight[0], 5)
    assert found[0] != expected[0] and found[1] != expected[1]


def test_shards_that_moved_are_resumed_from_and_other_tokens_under_their_names_are_not(
    small_run: Path, data_folder: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    cut_back_to_step_5(straight[0], tmp_path)
    for name in ("train-code", "train-prose"):
        copy_shard(data_folder / "shards" / name, tmp_path / name)
    moved = f"data.train=[{{prefix: {tmp_path}/train-code, weight: 2}}, {{prefix: {tmp_path}/train-prose, weight: 1}}]"
    resumed = run_and_trace(make_run(small_run, tmp_path, *DP2, moved), fresh=False)
    assert_same_training(resumed, after_step_5(straight[1]))
    shutil.rmtree(checkpoints_dir(tmp_path) / step_name(10))
    copy_shard(data_folder / "shards" / "validation-code", tmp_path / "train-code")
    trace = run_and_trace(make_run(small_run, tmp_path, *DP2, moved, "data.validation=[]"), fresh=False)
    assert trace.exit_code == 2 and trace.failure is not None
    assert f"the tokens of shard {tmp_path}/train-code are not those it had" in str(trace.failure.error)


def test_a_mixture_that_changes_on_the_way_resumes_bit_for_bit(
    small_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    prose = data_folder / "shards" / "train-prose"
    phases = (f"data.phases=[{{start_sample: 21, train: [{{prefix: {prose}}}]}}]", *DP2, *CHECKPOINT)
    straight = run_and_trace(make_run(small_run, tmp_path / "straight", *phases))
    cut_back_to_step_5(tmp_path / "straight", tmp_path / "resumed")
    resumed = run_and_trace(make_run(small_run, tmp_path / "resumed", *phases), fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    assert resumed.losses == after_step_5(straight).losses
    assert hashes_of(tmp_path / "resumed", 10) == hashes_of(tmp_path / "straight", 10)


def test_fewer_steps_than_are_done_already_are_refused(
    small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    cut_back_to_step_5(straight[0], tmp_path)
    overrides = ("train.train_steps=4", "optim.lr_decay_samples=80")
    trace = run_and_trace(make_run(small_run, tmp_path, *overrides), fresh=False)
    assert trace.exit_code == 2 and trace.failure is not None
    assert "train.train_steps (4) must not be below the step of the newest checkpoint" in str(trace.failure.error)
    assert "train.train_steps=5 works" in str(trace.failure.error)


def test_a_folder_without_its_marker_is_not_resumed_from(
    small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    cut_back_to_step_5(straight[0], tmp_path)
    shutil.copytree(checkpoints_dir(tmp_path) / step_name(5), checkpoints_dir(tmp_path) / step_name(9))
    (checkpoints_dir(tmp_path) / step_name(9) / "COMPLETE").unlink()
    resumed = run_and_trace(make_run(small_run, tmp_path, *TP2_PP2), fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    assert resumed.losses == after_step_5(straight[1]).losses
    reason = (checkpoints_dir(tmp_path) / f"{step_name(9)}.bad.REASON").read_text()
    assert "COMPLETE cannot be read (No such file or directory)" in reason


def test_only_the_last_checkpoints_are_kept(small_run: Path, tmp_path: Path) -> None:
    run_and_trace(make_run(small_run, tmp_path, "checkpoint.interval=2", "checkpoint.keep_last=2"))
    assert sorted(path.name for path in checkpoints_dir(tmp_path).iterdir()) == [step_name(8), step_name(10)]


def test_a_step_with_an_infinite_gradient_is_skipped_and_counted(small_run: Path, tmp_path: Path) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *DP2), "gradient_not_finite_at_step_3")
    assert trace.exit_code == 0, trace.failure
    assert trace.grad_norms[3] is None and trace.skipped[3] == 1 and trace.skipped[10] == 1
    (listed,) = [json.loads(line) for line in (tmp_path / "spikes.jsonl").read_text().splitlines()]
    assert (listed["step"], listed["reason"], listed["skipped"]) == (3, "not finite", True)
    assert [sample["sample"] for sample in listed["samples"]] == list(range(16, 24))
    losses = [loss for step, loss in trace.losses.items() if step != 3]
    assert all(loss is not None for loss in losses) and losses[-1] < losses[0], "training must go on"


def test_too_many_infinite_gradients_in_a_row_stop_the_run_without_a_checkpoint(
    small_run: Path, tmp_path: Path
) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *DP2, "train.max_skipped_steps=2"), "gradient_never_finite")
    assert trace.exit_code == 70 and trace.failure is not None
    assert "not finite (nan) in 3 steps in a row" in str(trace.failure.error)
    assert not checkpoints_in(checkpoints_dir(tmp_path))


def test_a_batch_ramp_grows_the_batch_and_survives_a_resume(small_run: Path, tmp_path: Path) -> None:
    ramp = ("train.batch_ramp={start: 4, increment: 2, samples: 24}", *CHECKPOINT)
    straight = run_and_trace(make_run(small_run, tmp_path / "straight", *ramp))
    sizes = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert [record["global_batch_size"] for record in sizes if record["kind"] == "step"] == [
        4,
        4,
        4,
        6,
        6,
        8,
        8,
        8,
        8,
        8,
    ]
    cut_back_to_step_5(tmp_path / "straight", tmp_path / "resumed")
    resumed = run_and_trace(make_run(small_run, tmp_path / "resumed", *ramp), fresh=False)
    assert resumed.losses == after_step_5(straight).losses


def test_a_resume_with_half_the_batch_trains_on_a_rate_that_falls_to_the_end_of_its_steps(
    small_run: Path, tmp_path: Path
) -> None:
    rates = ("optim.lr=1e-3", "optim.min_lr=0", "data.validation=[]")
    run_and_trace(make_run(small_run, tmp_path, *rates, "train.train_steps=8"))
    longer = (*rates, "train.train_steps=16", "train.global_batch_size=4")
    trace = run_and_trace(make_run(small_run, tmp_path, *longer), fresh=False)
    assert trace.exit_code == 0, trace.failure
    found = [record["learning_rate"] for record in metrics(tmp_path) if record["kind"] == "step"][8:]
    by_hand = [3.4549e-4, 2.7300e-4, 2.0611e-4, 1.4645e-4, 9.5492e-5, 5.4497e-5, 2.4472e-5, 6.1558e-6]
    assert found == pytest.approx(by_hand, rel=1e-4), (
        "64 samples before the resume and 8 * 4 after it: the end is at 96"
    )
    started = [record for record in metrics(tmp_path) if record["kind"] == "start"]
    assert [record["train_steps"] for record in started] == [8, 16]
    assert [len(record["passes"]) for record in started] == [2, 2]
    assert sum(started[1]["passes"].values()) == pytest.approx(sum(started[0]["passes"].values()) * 96 / 64, rel=0.1)
    (said,) = [line for line in trace.output.splitlines() if line.startswith("the learning rate of step 9 is 3.45e-04")]
    assert "optim.lr_decay_samples=64 optim.min_lr=0.0001 goes on" in said
    over = make_run(small_run, tmp_path, *rates, "train.train_steps=18", "optim.lr_decay_samples=96")
    refused = run_and_trace(over, fresh=False)
    assert refused.exit_code == 2 and refused.failure is not None
    assert "optim.lr_decay_samples (96) must not end the schedule while steps are left" in str(refused.failure.error)
    assert "it resumes after step 16 at sample 96; optim.lr_decay_samples=null works" in str(refused.failure.error)
