"""The history of a run from the files of its starts: what counts, what is lost, what contradicts itself."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanal.errors import DamageError, UserError
from fanal.run_progress import Standing
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.config.steps import consumed_samples_at
from pretrain.history.evidence import Point
from pretrain.history.history import history_of
from pretrain.history.segments import Segment, segments_of
from tests.unit.history.starts import begin


def run_of(small_run: Path, folder: Path, batch: int, *overrides: str) -> RunConfig:
    return load_run(
        small_run, [f"run_dir={folder}", f"train.global_batch_size={batch}", "train.train_steps=40", *overrides]
    )


def samples_by_hand(starts: list[tuple[int, RunConfig]], last_step: int) -> list[range]:
    """The samples of each step, by walking: each start goes on from its step with its own batch."""
    found: list[range] = []
    for number, (step, run) in enumerate(starts):
        del found[step:]
        end = last_step if number + 1 == len(starts) else max(step, *(s for s, _ in starts[number + 1 :]))
        consumed = found[-1].stop if found else 0
        while len(found) < end:
            found.append(range(consumed, consumed + run.train.global_batch_size))
            consumed += run.train.global_batch_size
    return found


@given(data=st.data())
@settings(max_examples=60)
def test_any_starts_give_the_steps_that_walking_them_gives(small_run: Path, data: st.DataObject) -> None:
    runs = {batch: run_of(small_run, Path("unused"), batch) for batch in (2, 4, 6, 10)}
    begun, reached = [(0, runs[data.draw(st.sampled_from(sorted(runs)))])], 0
    for _ in range(data.draw(st.integers(0, 4))):
        reached = max(reached, begun[-1][0]) + data.draw(st.integers(0, 5))
        begun.append((data.draw(st.integers(0, min(reached, 30))), runs[data.draw(st.sampled_from(sorted(runs)))]))
    points = []
    for number, (step, run) in enumerate(begun):
        before = samples_by_hand(begun[:number] or begun[:1], 40)
        consumed = before[step - 1].stop if step else 0
        points.append(
            Point(standing=Standing(step, consumed), config=run, known_from=f"start {number + 1}", start=number + 1)
        )
    segments = segments_of(points, list, last=points[-1].standing)
    expected = samples_by_hand(begun, 40)
    assert [segment.samples_of_step(step) for step, segment in steps_of(segments)] == expected
    for before, after in pairwise(segments):
        assert (before.end_step, before.end_sample) == (after.first_step, after.first_sample)


def steps_of(segments: list[Segment]) -> list[tuple[int, Segment]]:
    return [(step, segment) for segment in segments for step in range(segment.first_step, segment.end_step)]


def test_steps_behind_the_one_that_a_start_goes_on_from_are_lost(small_run: Path, tmp_path: Path) -> None:
    begin(run_of(small_run, tmp_path, 4))
    begin(run_of(small_run, tmp_path, 8), number=2, step=10, consumed_samples=40)
    begin(run_of(small_run, tmp_path, 2), number=3, step=6, consumed_samples=24, num_ranks=2)
    history = history_of(tmp_path)
    assert [(s.first_step, s.end_step, s.start) for s in history.segments] == [(1, 7, 1), (7, 41, 3)]
    assert history.samples_of_step(6) == range(20, 24) and history.samples_of_step(7) == range(24, 26)
    assert [history.step_of_sample(sample) for sample in (0, 23, 24, 25, 26)] == [1, 6, 7, 7, 8]
    assert history.step_of_sample(history.end_sample) is None and history.step_of_sample(-1) is None
    assert (history.planned_to, history.trained_to, history.saved_to) == (40, 6, 0)
    with pytest.raises(UserError, match=r"--step \(41\) must be from 1 to 40.*--step 6 works"):
        history.samples_of_step(41)


def test_a_step_is_known_to_be_trained_from_a_record_of_the_last_start_alone(small_run: Path, tmp_path: Path) -> None:
    begin(run_of(small_run, tmp_path, 4))
    lines = [{"kind": "step", "step": step, "start": 1} for step in (1, 2, 9)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert history_of(tmp_path).trained_to == 9
    begin(run_of(small_run, tmp_path, 4), number=2, step=4)
    assert history_of(tmp_path).trained_to == 4


def test_starts_that_do_not_lead_to_one_another_are_refused(small_run: Path, tmp_path: Path) -> None:
    begin(run_of(small_run, tmp_path, 4))
    begin(run_of(small_run, tmp_path, 4), number=2, step=10, consumed_samples=41)
    with pytest.raises(
        DamageError, match=r"start-00001.json leads to 40 samples after step 10, and starts/start-00002.json"
    ):
        history_of(tmp_path)


def test_an_altered_start_is_refused(small_run: Path, tmp_path: Path) -> None:
    begin(run_of(small_run, tmp_path, 4))
    path = tmp_path / "starts" / "start-00001.json"
    path.write_text(path.read_text().replace('"global_batch_size": 4', '"global_batch_size": 2'))
    with pytest.raises(DamageError, match="it was altered"):
        history_of(tmp_path)


def test_steps_of_a_start_without_a_file_are_known_only_as_far_as_others_tell(small_run: Path) -> None:
    four, six = (run_of(small_run, Path("unused"), batch) for batch in (4, 6))
    starts = [
        Point(standing=Standing(0, 0), config=four, known_from="one", start=1),
        Point(standing=Standing(20, 100), config=four, known_from="three", start=3),
    ]
    checkpoints = [
        Point(standing=Standing(10, 40), config=four, known_from="ten"),
        Point(standing=Standing(15, 70), config=six, known_from="fifteen"),
    ]
    segments = segments_of(starts, lambda: checkpoints, last=Standing(20, 100))
    assert [(s.first_step, s.end_step, s.has_steps, s.config.train.global_batch_size) for s in segments] == [
        (1, 11, True, 4), (11, 21, True, 6), (21, 41, True, 4),
    ]  # fmt: skip
    segments = segments_of(starts, lambda: checkpoints[:1], last=Standing(20, 100))
    assert [(s.first_step, s.end_step, s.has_steps) for s in segments] == [
        (1, 11, True),
        (11, 21, False),
        (21, 41, True),
    ]


def test_checkpoints_alone_tell_all_but_where_the_batch_changed_between_them(small_run: Path) -> None:
    four, six = (run_of(small_run, Path("unused"), batch) for batch in (4, 6))
    points = [
        Point(standing=Standing(5, 20), config=four, known_from="five"),
        Point(standing=Standing(10, 40), config=four, known_from="ten"),
        Point(standing=Standing(20, 90), config=six, known_from="twenty"),  # five steps of each
    ]
    segments = segments_of([], lambda: points, last=Standing(20, 90))
    assert [(s.first_step, s.end_step, s.has_steps) for s in segments] == [
        (1, 11, True),
        (11, 21, False),
        (21, 41, True),
    ]
    assert segments[-1].samples_of_step(21) == range(90, 96)
    assert segments[-1].end_sample == consumed_samples_at(six.train, 40, Standing(20, 90))


@pytest.mark.parametrize("make", [True, False])
def test_a_folder_of_no_run_is_refused(make: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if make:
        folder.mkdir()
    with pytest.raises(UserError, match="has neither" if make else "is no folder"):
        history_of(folder)
