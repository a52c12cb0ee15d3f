"""Sinks: who writes, where, and what a run that starts again finds."""

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.progress import MofNCompleteColumn, Progress
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fanal.console import Console
from fanal.run_folder import METRICS_FILE, TENSORBOARD_DIR
from pretrain.checkpoint.saving.save import SaveReport
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.log.record import DecayRecord, StepRecord, ValidationRecord
from pretrain.log.sinks import Sinks, Terminal, open_sinks, open_terminal, step_line
from pretrain.log.summary import summary
from pretrain.log.tensorboard_sink import TensorBoard
from pretrain.parallel.world import World
from tests.runs.disks import fill, small_disk

STEP = StepRecord(
    step=1, consumed_samples=8, consumed_tokens=512, global_batch_size=8, loss=5.25,
    loss_by_domain={"code": 5.0, "prose": 5.5}, z_loss=None, learning_rate=3e-4, grad_norm=0.5,
    skipped_steps=0, skipped_spikes=0, step_time_s=0.5, tokens_per_second=1024.0, tokens_per_second_per_gpu=1024.0, mfu_full=None,
    mfu_causal=None, peak_memory_bytes=2**30, eta_s=90.0,
)  # fmt: skip
WORLD = World(
    rank=0, size=2, device=torch.device("cpu"), tp_rank=0, pp_rank=0, dp_rank=0,
    tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=2,
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    (tmp_path / "run.yaml").write_text(
        "model: {num_layers: 2, hidden_size: 64, ffn_hidden_size: 176, num_attention_heads: 8, num_query_groups: 4, vocab_size: 9}\n"
        "data: {tokenizer: t, seq_length: 64, train: [{prefix: a}]}\n"
        "optim: {lr: 1.0e-3}\n"
        "train: {train_steps: 10, global_batch_size: 8, micro_batch_size: 2}\n"
    )
    return load_run(tmp_path / "run.yaml", [f"run_dir={tmp_path / 'run'}", "log.tensorboard=false"])


def lines_of(run: RunConfig, *, torn: int = 0) -> list[dict]:
    lines = (Path(run.run_dir) / METRICS_FILE).read_text().splitlines()
    whole = [line for line in lines if line.endswith("}")]
    assert len(lines) - len(whole) == torn
    return [json.loads(line) for line in whole]


def test_the_first_rank_writes_to_every_sink(run: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with open_sinks(replace(run, log=replace(run.log, tensorboard=True)), WORLD, start_step=0) as sinks:
        sinks.write(STEP)
        sinks.say("a word [with brackets]")
    out = capsys.readouterr().out
    assert step_line(STEP, 10) in out and "a word [with brackets]" in out
    assert [line["step"] for line in lines_of(run)] == [1]
    assert list((Path(run.run_dir) / TENSORBOARD_DIR).iterdir())


def test_a_decay_says_where_it_ends_and_steps_count_to_its_end(
    run: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    decay = DecayRecord(
        step=4, asked_by="DECAY file", start_sample=4000, end_sample=4800, style="minus_sqrt", train_steps=8,
        last_learning_rate=1e-4, steps_to_its_end=8,
    )  # fmt: skip
    with open_sinks(replace(run, log=replace(run.log, tensorboard=True)), WORLD, start_step=0) as sinks:
        sinks.write(decay)
        sinks.write(replace(STEP, step=5))
        sinks.write(replace(decay, train_steps=7))
    out = capsys.readouterr().out
    assert (
        "the final decay of the learning rate begins after step 4 (DECAY file): minus_sqrt, from sample 4,000 to 4,800; the run "
        "ends with step 8\n" in out
    )
    assert "step 5/8 | " in out
    assert "ends with step 7, before its end, at a rate of 1.00e-04: a resume with train.train_steps=8 comes to" in out
    assert [line["kind"] for line in lines_of(run)] == ["decay", "step", "decay"]


def test_another_rank_writes_nothing_and_makes_no_folder(run: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with open_sinks(run, replace(WORLD, rank=1, dp_rank=1), start_step=0) as sinks:
        sinks.write(STEP)
        sinks.say("a word")
        sinks.finish(run.run_dir)
    assert capsys.readouterr().out == "" and not Path(run.run_dir).exists()


def test_a_run_that_starts_again_appends(run: RunConfig) -> None:
    for step in (1, 2):
        with open_sinks(run, WORLD, start_step=step - 1) as sinks:
            sinks.write(replace(STEP, step=step))
    assert [line["step"] for line in lines_of(run)] == [1, 2]


def test_without_tensorboard_no_events_are_written(run: RunConfig) -> None:
    with open_sinks(run, WORLD, start_step=0) as sinks:
        sinks.write(STEP)
    assert not (Path(run.run_dir) / TENSORBOARD_DIR).exists()


def test_a_validation_loss_that_is_not_a_number_is_null_and_the_summary_says_so(
    run: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_sinks(run, WORLD, start_step=0) as sinks:
        sinks.write(ValidationRecord(step=0, consumed_tokens=0, validation_loss={"code": 7.5}, validation_time_s=1.0))
        sinks.write(replace(STEP, loss=float("nan")))
        sinks.write(
            ValidationRecord(step=1, consumed_tokens=512, validation_loss={"code": float("nan")}, validation_time_s=1.0)
        )
        sinks.finish(run.run_dir)
    assert lines_of(run)[-1]["validation_loss"] == {"code": None}
    out = capsys.readouterr().out
    assert "training loss   not finite (step 1) -> not finite (step 1)" in out
    assert "validation loss   7.5000 (step 0) -> not finite (step 1)  code" in out


def test_a_line_that_a_kill_tore_does_not_fail_the_summary(run: RunConfig) -> None:
    for start_step in (0, 2):
        with open_sinks(run, WORLD, start_step=start_step) as sinks:
            sinks.write(replace(STEP, step=start_step + 1))
            sinks.write(replace(STEP, step=start_step + 2))
        with (Path(run.run_dir) / METRICS_FILE).open("a") as stream:
            stream.write('{"kind": "step", "st')
    assert [line["step"] for line in lines_of(run, torn=2)] == [1, 2, 3, 4]
    text = "\n".join(summary(Path(run.run_dir)))
    assert "5.2500 (step 1) -> 5.2500 (step 4)" in text


@pytest.fixture
def run_disk(run: RunConfig) -> Iterator[Path]:
    """The run's folder, on a file system of its own."""
    with small_disk(Path(run.run_dir), "size=256k"):
        yield Path(run.run_dir)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_costs_no_line_and_no_other_sink(
    run: RunConfig, run_disk: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with open_sinks(replace(run, log=replace(run.log, tensorboard=True)), WORLD, start_step=0) as sinks:
        sinks.write(STEP)
        ballast = fill(run_disk)
        for step in range(2, 60):
            sinks.write(replace(STEP, step=step))
        report = SaveReport(step=59, path="x", num_bytes=1, stall_s=0.1, save_s=1.0, failure="No space left on device")
        sinks.write(report)
        out = capsys.readouterr().out
        assert (
            "NO CHECKPOINT of step 59, and training continues: No space left on device" in out and "step 59/10" in out
        )
        warnings = [record.getMessage() for record in caplog.records]
        assert [f"{run_disk / METRICS_FILE} cannot be written" in line for line in warnings].count(True) == 1, warnings
        ballast.unlink()
        sinks.write(replace(STEP, step=60))
        fill(run_disk)
    assert [line["step"] for line in lines_of(run)] == [*range(1, 60), 59, 60]


def test_a_terminal_on_a_full_disk_says_nothing_twice_and_goes_on_when_there_is_room(
    run: RunConfig, run_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Standard output is a file there, as in a job. It holds back as much as its buffer does, and the rest is lost."""
    with (run_disk / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with open_terminal(100, 0) as terminal:
            sinks = Sinks([terminal])
            sinks.say("before")
            ballast = fill(run_disk)
            said = [f"line {number} of a full disk" for number in range(400)]
            for line in said:
                sinks.say(line)
            assert [record.getMessage() for record in caplog.records] == [
                "standard output cannot be written, and training continues: No space left on device"
            ]
            ballast.unlink()
            sinks.say("after")
    first, *held_back, last = (run_disk / "out").read_text().splitlines()
    assert (first, last) == ("before", "after") and held_back == said[: len(held_back)]


def test_the_bar_moves_with_every_step_and_not_only_with_those_that_have_a_record() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(MofNCompleteColumn(), console=console, auto_refresh=False) as bar:
        terminal = Terminal(console, bar, train_steps=10, start_step=2)
        shown = []
        for step in (3, 4, 5):
            Sinks([terminal]).step_done(step)
            shown.append(bar.tasks[0].completed)
        bar.refresh()
    assert shown == [3, 4, 5] and "5/10" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_begins_on_a_full_disk(run: RunConfig, run_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(run_disk)
    with open_sinks(replace(run, log=replace(run.log, tensorboard=True)), WORLD, start_step=0) as sinks:
        sinks.write(STEP)
    assert lines_of(run) == []
    assert {record.getMessage().split(" cannot be written")[0] for record in caplog.records} == {
        str(run_disk / METRICS_FILE), str(run_disk / TENSORBOARD_DIR)
    }  # fmt: skip


def test_a_domain_that_came_later_has_no_first_loss_and_is_left_out(run: RunConfig) -> None:
    with open_sinks(run, WORLD, start_step=0) as sinks:
        sinks.write(ValidationRecord(step=0, consumed_tokens=0, validation_loss={"code": 7.5}, validation_time_s=1.0))
        sinks.write(
            ValidationRecord(
                step=1, consumed_tokens=0, validation_loss={"code": 7.0, "prose": 8.0}, validation_time_s=1.0
            )
        )
    text = "\n".join(summary(Path(run.run_dir)))
    assert "code" in text and "prose" not in text


def test_tensorboard_leaves_out_what_is_unknown(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path, start_step=0)
    sink.write(STEP)
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert "train/loss" in events.Tags()["scalars"] and "train/mfu_full" not in events.Tags()["scalars"]


def test_tensorboard_shows_a_step_that_was_trained_again_once(tmp_path: Path) -> None:
    for start_step, steps, loss in ((0, (1, 2, 3), 5.0), (1, (2, 3), 4.0)):
        sink = TensorBoard(tmp_path, start_step=start_step)
        for step in steps:
            sink.write(replace(STEP, step=step, loss=loss))
        sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 5.0), (2, 4.0), (3, 4.0)]
