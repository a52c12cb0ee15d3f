"""A final decay that somebody asks for: all ranks begin it after the same step, and nothing that happens to the run forgets it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from fanal.run_folder import checkpoints_dir, step_name
from fanal.run_progress import metrics, newest_step, standing
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.checkpoint.loading.init_from import check_init_from
from pretrain.config.steps import last_step
from pretrain.data.sources import open_sources
from pretrain.inspect.bounds import FP32
from pretrain.log.finished import is_finished
from tests.dist.harness import make_run, run_and_trace
from tests.runs.cases import DP2, PP2, TP2

WSD = (
    "optim.lr_decay_style=WSD", "optim.lr_wsd_decay_samples=64", "optim.lr_wsd_decay_style=minus_sqrt", "train.train_steps=30",
    "train.batch_stages=[{start_sample: 24, global_batch_size: 16}]",
)  # fmt: skip
CONSTANT = (
    "optim.lr_decay_style=constant",
    "optim.lr_wsd_decay_samples=40",
    "optim.lr_wsd_decay_style=exponential",
    "train.train_steps=30",
)
CASES = {"dp2-wsd-batch-doubled": (DP2, WSD, TP2), "pp2-constant": (PP2, CONSTANT, DP2)}
"""Of each: its layout, its schedule, and another layout to resume it in."""
COMPARED = ("step", "consumed_samples", "global_batch_size", "learning_rate", "loss", "grad_norm")


def steps_of(run_dir: Path) -> list[tuple[Any, ...]]:
    """What each step logged, as it was trained last."""
    records = {record["step"]: record for record in metrics(run_dir) if record["kind"] == "step"}
    return [tuple(records[step][name] for name in COMPARED) for step in sorted(records)]


def decays_of(run_dir: Path) -> list[dict[str, Any]]:
    return [record for record in metrics(run_dir) if record["kind"] == "decay"]


def last_checkpoint(run_dir: Path) -> tuple[str, dict[str, str]]:
    """The state of the last checkpoint, and the hash of each file of its tensors."""
    folder = checkpoints_dir(run_dir) / step_name(newest_step(run_dir))
    manifest = verify_checkpoint(folder, deep=False).manifest
    assert manifest is not None
    return (folder / "state.json").read_text(), {
        entry.path: entry.hash for entry in manifest.files if "shards/" in entry.path
    }


@pytest.mark.parametrize(("layout", "schedule", "other"), CASES.values(), ids=list(CASES))
def test_a_decay_on_request_equals_one_that_the_config_states_bit_for_bit_through_a_kill_and_a_resume(
    layout: tuple[str, ...], schedule: tuple[str, ...], other: tuple[str, ...], small_run: Path, tmp_path: Path
) -> None:
    overrides = (*layout, *schedule)
    folder, stated, forgetful, resharded = (tmp_path / name for name in ("asked", "stated", "forgetful", "resharded"))
    killed = run_and_trace(
        make_run(small_run, folder, *overrides), "decay_is_dropped_at_step_3_and_rank_1_is_killed_in_it"
    )
    assert killed.exit_code != 0 and "SIGKILL" in str(killed.failure), killed.output
    (began,) = decays_of(folder)
    start = standing(folder).decay_start_sample
    assert start == began["start_sample"] and newest_step(folder) == began["step"], "saved with the step it began after"
    assert began["asked_by"] == "DECAY file" and 3 <= began["step"] < 11
    assert max(killed.losses) <= began["step"] + 2 and not (folder / "requests" / "DECAY").exists()
    for copy in (forgetful, resharded):
        shutil.copytree(folder, copy)

    resumed = run_and_trace(run := make_run(small_run, folder, *overrides), fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    assert f"; its decay began at sample {start:,}" in resumed.output and len(decays_of(folder)) == 1
    last = last_step(run.optim, run.train, standing(folder))
    assert last < 30 and f"complete: step {last} of {last}" in resumed.output

    as_stated = run_and_trace(make_run(small_run, stated, *overrides, f"optim.lr_wsd_decay_start_sample={start}"))
    assert as_stated.exit_code == 0, as_stated.failure
    assert steps_of(folder) == steps_of(stated)
    assert last_checkpoint(folder) == last_checkpoint(stated)
    rates = [step[3] for step in steps_of(folder)]
    assert rates[began["step"]] == 2e-3 and 2e-4 < rates[-1] < rates[-2] < rates[-3] < 2e-3

    sources = open_sources(run)
    assert is_finished(run, sources), "a further start says so at once"
    after = make_run(small_run, tmp_path / "after", f"checkpoint.init_from={folder}")
    check_init_from(after, tokenizer_sha256=sources.tokenizer_sha256)  # its run has come to its end

    elsewhere = run_and_trace(make_run(small_run, resharded, *other, *schedule), fresh=False)
    assert elsewhere.exit_code == 0, elsewhere.failure
    assert [step[:4] for step in steps_of(resharded)] == [step[:4] for step in steps_of(stated)]
    assert [step[4] for step in steps_of(resharded)] == pytest.approx(
        [step[4] for step in steps_of(stated)], rel=FP32.loss
    )

    fault = "beginning_of_the_decay_forgotten_at_the_resume"
    forgot = run_and_trace(make_run(small_run, forgetful, *overrides), fault, fresh=False)
    assert forgot.exit_code == 0, forgot.failure
    assert steps_of(forgetful)[:last] != steps_of(stated), "a resume that forgets the decay is another training"


def test_a_decay_that_no_checkpoint_holds_when_a_rank_is_killed_begins_after_the_next_start(
    small_run: Path, tmp_path: Path
) -> None:
    overrides = (*DP2, *CONSTANT)
    fault = "decay_is_dropped_at_step_3_and_rank_1_is_killed_before_a_checkpoint_holds_it"
    killed = run_and_trace(make_run(small_run, tmp_path, *overrides), fault)
    assert killed.exit_code != 0 and newest_step(tmp_path) == 0
    assert (tmp_path / "requests" / "DECAY").exists(), "the request is not lost"
    again = run_and_trace(make_run(small_run, tmp_path, *overrides, "optim.lr_warmup_samples=0"), fresh=False)
    assert again.exit_code == 0, again.failure
    step = decays_of(tmp_path)[-1]["step"]
    assert step < 25 and f"complete: step {step + 5} of {step + 5}" in again.output
    assert not (tmp_path / "requests" / "DECAY").exists()


def test_a_request_that_a_run_cannot_fulfil_is_answered_in_one_line_and_changes_nothing(
    small_run: Path, tmp_path: Path
) -> None:
    untouched = run_and_trace(make_run(small_run, tmp_path / "untouched", *DP2))
    asked = run_and_trace(make_run(small_run, tmp_path / "asked", *DP2), "decay_is_dropped_at_step_3")
    assert asked.exit_code == 0, asked.failure
    assert (asked.losses, asked.grad_norms) == (untouched.losses, untouched.grad_norms)
    said = [line for line in asked.output.splitlines() if "DECAY" in line]
    assert said == [
        "the request for a decay (DECAY file) changes nothing: optim.lr_decay_style (cosine) decays from the warm-up on; a rate "
        "that is constant or WSD can"
    ]
    assert not (tmp_path / "asked" / "requests" / "DECAY").exists() and not decays_of(tmp_path / "asked")
