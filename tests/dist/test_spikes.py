"""Spikes: found, listed with the samples that the batch held, skipped if asked, and judged alike after a resume."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fanal.run_folder import checkpoints_dir, step_name
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.log.stamp import Stamp
from pretrain.optim.spikes import judge
from pretrain.parallel.sequence_chunks import in_order
from pretrain.parallel.world import World
from pretrain.state import Recent, TrainState
from pretrain.train.loop import list_if_bad
from pretrain.train.step import StepResult
from tests.dist.harness import STAMPED, Trace, make_run, run_and_trace
from tests.runs.cases import DP2, OVERLAP, PP2, TP2
from tests.runs.context_cases import CP2

FAULT = "losses_of_steps_7_and_9_a_thousandfold"
SPIKES = "train.spikes={window_steps: 6, min_steps: 4, z_score: 20, skip: true, max_skipped_spikes: 1}"
"""With one skip allowed, step 7 is skipped and step 9 is trained on."""
BOTH = ("checkpoint.interval=4", SPIKES)


@pytest.fixture(scope="module")
def straight(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trace]:
    folder = tmp_path_factory.mktemp("spikes")
    trace = run_and_trace(make_run(small_run, folder, *BOTH), FAULT)
    assert trace.exit_code == 0, trace.failure
    return folder, trace


def listed(folder: Path) -> list[dict[str, Any]]:
    """The lines of the list, without what they say of who wrote them when."""
    lines = [json.loads(line) for line in (folder / "spikes.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in STAMPED} for line in lines]


def steps_of_rank(folder: Path, rank: int) -> dict[int, dict[str, Any]]:
    records = [json.loads(line) for line in (folder / f"steps-{rank}.jsonl").read_text().splitlines()]
    return {record["step"]: record for record in records}


def rows_held(folder: Path, step: int) -> list[list[int]]:
    """The rows of the global batch in order, as all ranks that read tokens had them."""
    held: dict[int, dict[int, list[list[int]]]] = {}
    for path in sorted(folder.glob("steps-*.jsonl")):
        for place, part, rows in steps_of_rank(folder, int(path.stem.partition("-")[2]))[step]["held"]:
            assert held.setdefault(place, {}).setdefault(part, rows) == rows, (
                "ranks of a replica hold the same rows, or the same part of them"
            )
    return [row for _, parts in sorted(held.items()) for row in whole_rows(parts)]


def whole_rows(parts: dict[int, list[list[int]]]) -> list[list[int]]:
    """Rows from the parts of context-parallel ranks, of which the first has the end."""
    of_ranks = torch.tensor([parts[rank] for rank in range(len(parts))])  # [c, b, s/c + 1]
    tokens = in_order(of_ranks[..., :-1].movedim(2, 1))  # [s, b]
    return torch.cat((tokens.T, of_ranks[0, :, -1:]), dim=1).tolist()


def rows_at(samples: list[dict[str, Any]]) -> list[list[int]]:
    """The tokens at these places, from the files alone."""
    rows = []
    for sample in samples:
        manifest = json.loads(Path(f"{sample['source']}.json").read_text())
        tokens = np.fromfile(f"{sample['source']}.bin", manifest["dtype"])
        rows.append(tokens[sample["start_token"] : sample["start_token"] + 65].tolist())
    return rows


def assert_only_step_7_was_skipped(folder: Path, trace: Trace) -> None:
    assert [(line["step"], line["reason"], line["skipped"]) for line in listed(folder)] == [
        (7, "spike", True), (9, "spike", False),
    ]  # fmt: skip
    assert [trace.skipped[step] for step in (6, 7, 8, 9, 10)] == [0, 1, 1, 1, 1]
    for path in folder.glob("steps-*.jsonl"):
        steps = steps_of_rank(folder, int(path.stem.partition("-")[2]))
        unchanged = [step for step in range(2, 11) if steps[step]["state"] == steps[step - 1]["state"]]
        assert unchanged == [7], "a skipped step leaves weights and moments as they are, bit for bit; the others do not"


def test_a_spike_is_listed_with_its_samples_and_skipped_while_the_budget_lasts(straight: tuple[Path, Trace]) -> None:
    folder, trace = straight
    assert_only_step_7_was_skipped(folder, trace)
    for line in listed(folder):
        assert line["loss"] == trace.losses[line["step"]] and line["grad_norm"] == trace.grad_norms[line["step"]]
        assert line["loss_z"] > 20 and line["grad_norm_z"] > 20
        assert (line["first_sample"], line["num_samples"]) == (8 * (line["step"] - 1), 8)
        assert rows_at(line["samples"]) == rows_held(folder, line["step"])
        assert rows_at(line["samples"]) != rows_held(folder, 8), "another step holds other rows"


@pytest.mark.parametrize("layout", [(*TP2, *PP2), (*DP2, *OVERLAP), CP2], ids=["tp2-pp2", "dp2-overlap", "cp2"])
def test_every_layout_lists_and_skips_the_same(
    layout: tuple[str, ...], small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *BOTH, *layout), FAULT)
    assert trace.exit_code == 0, trace.failure
    assert_only_step_7_was_skipped(tmp_path, trace)
    for line, expected in zip(listed(tmp_path), listed(straight[0]), strict=True):
        assert line["samples"] == expected["samples"]
        assert rows_held(tmp_path, line["step"]) == rows_at(line["samples"])
        for name in ("loss", "grad_norm", "loss_z", "grad_norm_z"):
            assert line[name] == pytest.approx(expected[name], rel=1e-3), name


@pytest.mark.parametrize("step", [4, 8], ids=["before both", "between them"])
def test_a_resumed_run_judges_as_the_straight_one(
    step: int, small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    folder, expected = straight
    shutil.copytree(checkpoints_dir(folder) / step_name(step), checkpoints_dir(tmp_path) / step_name(step))
    resumed = run_and_trace(make_run(small_run, tmp_path, *BOTH), FAULT, fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    assert resumed.losses == {number: loss for number, loss in expected.losses.items() if number > step}
    assert resumed.skipped == {number: count for number, count in expected.skipped.items() if number > step}
    assert listed(tmp_path) == [line for line in listed(folder) if line["step"] > step]
    states = [checkpoints_dir(run) / step_name(10) / "state.json" for run in (tmp_path, folder)]
    assert states[0].read_text() == states[1].read_text()


def test_forgetting_the_recent_values_would_be_noticed(
    small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    folder, expected = straight
    shutil.copytree(checkpoints_dir(folder) / step_name(4), checkpoints_dir(tmp_path) / step_name(4))
    fault = "losses_a_thousandfold_and_recent_values_forgotten"
    resumed = run_and_trace(make_run(small_run, tmp_path, *BOTH), fault, fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    assert resumed.losses[7] == expected.losses[7] and resumed.losses[8] != expected.losses[8]
    assert resumed.skipped[7] == 0


def test_a_spike_is_trained_on_unless_skipping_is_asked_for(
    small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *BOTH, "train.spikes.skip=false"), FAULT)
    assert trace.exit_code == 0, trace.failure
    assert [(line["step"], line["skipped"]) for line in listed(tmp_path)] == [(7, False), (9, False)]
    assert trace.skipped[10] == 0
    assert [trace.losses[step] for step in range(1, 8)] == [straight[1].losses[step] for step in range(1, 8)]
    assert trace.losses[8] != straight[1].losses[8]


def test_a_rank_that_sees_other_numbers_decides_by_those_of_rank_0(small_run: Path, tmp_path: Path) -> None:
    sound = run_and_trace(make_run(small_run, tmp_path / "sound", *DP2, SPIKES))
    trace = run_and_trace(make_run(small_run, tmp_path / "seen", *DP2, SPIKES), "rank_1_alone_sees_a_spike_at_step_7")
    assert trace.exit_code == 0, trace.failure
    assert trace.losses == sound.losses and trace.skipped[10] == 0


ALONE = World(
    rank=0, size=1, device=torch.device("cpu"), tp_rank=0, pp_rank=0, dp_rank=0,
    tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=1,
)  # fmt: skip


class Said:
    """Sinks that keep what is said."""

    stamp = Stamp(start=1, began_s=0.0, start_step=0, logged_step=0)

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_a_budget_that_is_used_up_is_said_by_rank_0_at_every_spike(small_run: Path, tmp_path: Path) -> None:
    run = make_run(small_run, tmp_path, SPIKES)
    data = TrainData(open_sources(run), run.data)
    recent = Recent(losses=(2.0, 2.1) * 3, grad_norms=(1.0, 1.1) * 3)
    for skipped, lines in ((0, 1), (1, 2)):
        state = TrainState(step=6, consumed_samples=48, skipped_spikes=skipped, recent=recent)
        verdict = judge(loss=9.0, grad_norm=1.0, state=state, config=run.train.spikes)
        result = StepResult(
            loss=9.0, loss_by_domain={}, z_loss=0.0, loss_tokens=1, grad_norm=1.0, verdict=verdict, answers=()
        )
        after = state.after(num_samples=8, seq_length=64, skipped=verdict.skip, recent=verdict.recent)
        said, unsaid = Said(), Said()
        list_if_bad(run, ALONE, data, after, result, 8, said)  # type: ignore[arg-type]
        list_if_bad(run, dataclasses.replace(ALONE, rank=1), data, after, result, 8, unsaid)  # type: ignore[arg-type]
        assert len(said.lines) == lines and not unsaid.lines
        assert said.lines[0].startswith("spike at step 7, ")
        assert lines == 1 or "max_skipped_spikes (1) allows no more" in said.lines[1]
    assert len(listed(tmp_path)) == 2
