"""A stability report in the log, on the console and in TensorBoard."""

import json
import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.log.sinks import JsonLines
from pretrain.log.stability_record import BY_LAYER, OF_THE_MODEL, Norms, StabilityRecord, scalars, stability_line
from pretrain.log.stamp import Stamp
from pretrain.log.tensorboard_sink import TensorBoard
from pretrain.model.figures import MAXIMA, SUMS
from pretrain.state import TrainState
from pretrain.train.stability import stability_record

NORMS = Norms(gradient_norm=0.5, weight_norm=4.0, update_norm=0.01, update_ratio=0.0025)
LAYERS = 12
RECORD = StabilityRecord(
    step=100, consumed_tokens=51_200, **{name: [float(layer) for layer in range(LAYERS)] for name in BY_LAYER},
    outside_layers={"embedding": NORMS, "final_norm": NORMS}, embedding_rms=0.02, output_logit_max=9.5,
    log_denominator_mean=7.25,
)  # fmt: skip


def line_of(record: StabilityRecord) -> dict:
    stream = BytesIO()
    JsonLines(stream, "log", Stamp(start=1, began_s=0.0, start_step=0, logged_step=0)).write(record)  # type: ignore[arg-type]
    return json.loads(stream.getvalue())


def test_a_line_of_the_log_has_a_list_by_layer_and_the_parts_outside_by_name() -> None:
    line = line_of(RECORD)
    assert (line["kind"], line["step"], line["consumed_tokens"]) == ("stability", 100, 51_200)
    assert all(line[name] == list(range(LAYERS)) for name in BY_LAYER)
    assert line["outside_layers"]["embedding"]["weight_norm"] == 4.0 and set(OF_THE_MODEL) <= line.keys()


def test_a_number_that_is_not_finite_is_null_and_the_others_stay() -> None:
    worst = [*RECORD.attention_logit_max[:-2], math.inf, math.nan]
    line = line_of(replace(RECORD, attention_logit_max=worst, embedding_rms=math.nan))
    assert line["attention_logit_max"] == [*range(LAYERS - 2), None, None] and line["embedding_rms"] is None


def test_the_console_names_the_layer_of_the_largest_and_one_that_is_not_a_number_comes_first() -> None:
    assert "attention logit up to 11 (layer 11) | residual RMS 0 to 11 " in stability_line(RECORD)
    broken = replace(RECORD, attention_logit_max=[0.0, math.nan, *RECORD.attention_logit_max[2:]])
    assert "attention logit up to nan (layer 1)" in stability_line(broken)


def test_tensorboard_has_a_group_for_each_number_and_a_curve_for_each_layer(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path, start_step=0)
    sink.write(RECORD)
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert [tag for tag in sorted(tags) if tag.startswith("stability_residual_rms/")] == [
        f"stability_residual_rms/layer_{layer:02}" for layer in range(LAYERS)
    ]
    assert {"stability_weight_norm/embedding", "stability/output_logit_max", "stability/attention_logit_max"} <= set(
        tags
    )
    assert len(tags) == len(BY_LAYER) * LAYERS + 2 * 4 + len(OF_THE_MODEL) + 1 == len(list(scalars(RECORD)))
    assert [(event.step, event.value) for event in events.Scalars("stability_gradient_norm/layer_11")] == [(100, 11.0)]


@pytest.mark.parametrize("is_tied", [False, True], ids=["untied", "tied"])
def test_sums_and_maxima_of_all_ranks_become_means_norms_and_ratios(is_tied: bool) -> None:
    """Two layers: rows are the embedding, the layers, the final norm and the output layer."""
    sums = {name: [0.0] * 5 for name in SUMS}
    maxima = {name: [-math.inf] * 5 for name in MAXIMA}
    sums["residual"][:3], sums["elements"][:3] = [4.0, 36.0, 100.0], [4.0, 4.0, 4.0]
    sums["gradient"], sums["weight"], sums["update"] = [9.0] * 5, [4.0] * 5, [1.0] * 5
    sums["log_denominator"][4], sums["tokens"][4] = -30.0, 10.0
    maxima["attention_logit"][1:3], maxima["output_logit"][4] = [2.0, -3.0], 8.0
    flat = [number for table in (sums, maxima) for row in table.values() for number in row]
    record = stability_record(flat, TrainState(step=7), num_layers=2, is_tied=is_tied)
    assert (record.embedding_rms, record.residual_rms, record.attention_rms) == (1.0, [3.0, 5.0], [0.0, 0.0])
    assert (record.attention_logit_max, record.output_logit_max, record.log_denominator_mean) == (
        [2.0, -3.0],
        8.0,
        -3.0,
    )
    assert (record.gradient_norm, record.update_ratio) == ([3.0, 3.0], [0.5, 0.5])
    assert list(record.outside_layers) == ["embedding", "final_norm", *([] if is_tied else ["output_layer"])]
