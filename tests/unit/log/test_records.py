"""Records: throughput arithmetic, and how a record reads in each sink."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.log.record import StepRecord, ValidationRecord, throughput
from pretrain.log.sinks import JsonLines, step_line, validation_line
from pretrain.log.stamp import Stamp
from pretrain.log.summary import ASCII_BARS, BARS, bars_for, duration, sparkline, summary
from pretrain.log.tensorboard_sink import TensorBoard

STEP = StepRecord(
    step=20, consumed_samples=320, consumed_tokens=81920, global_batch_size=16, loss=5.25,
    loss_by_domain={"code": 5.0, "prose": 5.5}, z_loss=None, learning_rate=3e-4,
    grad_norm=0.5, skipped_steps=0, skipped_spikes=0, step_time_s=0.5, tokens_per_second=8192.0, tokens_per_second_per_gpu=2048.0,
    mfu_full=0.412, mfu_causal=0.356, peak_memory_bytes=3 * 2**30, eta_s=90.0,
)  # fmt: skip
STAMP = Stamp(start=1, began_s=0.0, start_step=0, logged_step=0)
VALIDATION = ValidationRecord(
    step=20, consumed_tokens=81920, validation_loss={"code": 5.5, "prose": 5.75}, validation_time_s=1.0
)


def test_throughput_is_tokens_over_seconds_and_ranks() -> None:
    pace = throughput(tokens=1000, steps=4, elapsed_s=2.0, num_ranks=5, tokens_left=2500)
    assert (pace.tokens_per_second, pace.tokens_per_second_per_gpu, pace.step_time_s, pace.eta_s) == (
        500,
        100,
        0.5,
        5.0,
    )


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"tokens": 0}, {"elapsed_s": 0.0}, {"num_ranks": 0}])
def test_throughput_of_nothing_is_refused(wrong: dict) -> None:
    good = {"tokens": 1000, "steps": 4, "elapsed_s": 2.0, "num_ranks": 5, "tokens_left": 2500}
    with pytest.raises(AssertionError, match="throughput needs steps"):
        throughput(**{**good, **wrong})


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (61, "1m01s"), (3700, "1h01m"), (90000, "1d01h")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_console_line_says_everything_and_no_utilisation_of_an_unknown_peak() -> None:
    line = step_line(STEP, 200)
    for part in ("20/200", "loss 5.2500", "lr 3.00e-04", "grad norm 0.500", "tokens/s/GPU 2,048", "41.2% full 35.6% causal",
                 "memory 3.00 GiB", "ETA 1m30s"):  # fmt: skip
        assert part in line
    assert "skipped" not in line and "skipped 2" in step_line(replace(STEP, skipped_steps=2), 200)
    assert step_line(replace(STEP, mfu_full=None, mfu_causal=None), 200) == line.replace(
        "MFU 41.2% full 35.6% causal | ", ""
    )
    gpu = step_line(replace(STEP, reserved_memory_bytes=4 * 2**30, used_memory_bytes=5 * 2**30), 200)
    assert gpu == line.replace("memory 3.00 GiB", "memory 3.00 GiB (reserved 4.00, in use 5.00)")
    assert validation_line(VALIDATION) == "validation loss after step 20: code 5.5000  prose 5.7500"
    averaged = replace(VALIDATION, ema_validation_loss={"code": 5.25, "prose": 5.5})
    assert validation_line(averaged) == (
        "validation loss after step 20: code 5.5000  prose 5.7500; of the average: code 5.2500  prose 5.5000"
    )


def test_a_line_of_json_is_valid_even_if_the_loss_is_not_a_number() -> None:
    stream = io.BytesIO()
    sink = JsonLines(stream, "metrics.jsonl", STAMP)
    by_domain = {"code": float("nan"), "prose": 5.5}
    sink.write(replace(STEP, loss=float("nan"), grad_norm=float("inf"), loss_by_domain=by_domain))
    sink.write(VALIDATION)
    step, validation = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (step["kind"], step["loss"], step["grad_norm"], step["step"]) == ("step", None, None, 20)
    assert step["loss_by_domain"] == {"code": None, "prose": 5.5}
    assert (validation["kind"], validation["validation_loss"]) == ("validation", {"code": 5.5, "prose": 5.75})


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path, start_step=0)
    sink.write(STEP)
    sink.write(VALIDATION)
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(20, 5.25)]
    assert [(event.step, event.value) for event in events.Scalars("validation_loss/prose")] == [(20, 5.75)]
    assert [(event.step, event.value) for event in events.Scalars("loss_by_domain/code")] == [(20, 5.0)]
    assert [(event.step, event.value) for event in events.Scalars("loss_by_domain/prose")] == [(20, 5.5)]
    assert not any("domain" in name for name in events.Tags()["scalars"] if name.startswith("train/"))
    assert "train/mfu_full" in events.Tags()["scalars"]


def test_the_name_of_a_domain_is_shown_by_tensorboard_and_not_obeyed(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path, start_step=0)
    sink.write(replace(VALIDATION, validation_loss={"\x1b[31m": 5.5, "\ud800": 5.75}))
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {r"validation_loss/\x1b[31m", r"validation_loss/\ud800"}


def test_the_summary_goes_from_the_first_to_the_last_record(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    with metrics.open("wb+", buffering=0) as stream:
        sink = JsonLines(stream, "metrics.jsonl", STAMP)
        sink.write(replace(VALIDATION, step=0, validation_loss={"code": 7.6, "prose": 7.7}))
        sink.write(replace(STEP, step=10, loss=7.0))
        sink.write(STEP)
        sink.write(VALIDATION)
    text = "\n".join(summary(metrics.parent))
    assert "training loss   7.0000 (step 10) -> 5.2500 (step 20)" in text
    assert "validation loss   7.6000 (step 0) -> 5.5000 (step 20)  code" in text
    assert "8,192 tokens/s" in text and str(tmp_path) in text


def test_a_sparkline_goes_from_the_highest_bar_to_the_lowest_as_a_loss_falls() -> None:
    assert sparkline([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == "█▇▆▅▄▃▂▁"


def test_a_sparkline_averages_what_does_not_fit() -> None:
    assert sparkline([1.0, 3.0, 10.0, 10.0], width=2) == "▁█"
    assert len(sparkline([float(value) for value in range(1000)], width=40)) == 40


def test_a_sparkline_leaves_a_gap_where_a_loss_is_unknown_or_not_finite() -> None:
    assert sparkline([2.0, None, 1.0, float("nan"), float("inf")]) == "█ ▁  "


def test_a_sparkline_of_equal_values_or_of_none_is_no_error() -> None:
    assert (sparkline([3.0, 3.0]), sparkline([None]), sparkline([])) == ("▁▁", " ", "")


def test_the_bars_are_ascii_where_the_terminal_has_no_blocks() -> None:
    assert (bars_for("utf-8"), bars_for("latin-1"), bars_for(None)) == (BARS, ASCII_BARS, ASCII_BARS)


def test_the_summary_draws_each_domain_and_a_step_trained_again_once(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    with metrics.open("wb+", buffering=0) as stream:
        sink = JsonLines(stream, "metrics.jsonl", STAMP)
        for step, loss in ((10, 7.0), (20, 9.0), (20, 6.0), (30, 5.0)):
            sink.write(replace(STEP, step=step, loss_by_domain={"code": loss, "prose": 5.5}))
    lines = summary(metrics.parent)
    assert "  code          █▅▁  7.0000 -> 5.0000" in lines
    assert "  prose         ▁▁▁  5.5000 -> 5.5000" in lines
