"""The record of an evaluation: kept whole, numbered, and refused once it was altered."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fanal.errors import DamageError
from pretrain.log.evaluation_file import (
    EvaluationFile,
    Figure,
    answered,
    evaluation_numbers,
    read_evaluation,
    read_evaluations,
    record_evaluation,
)

MADE = EvaluationFile(
    kind="tasks", time_unix_s=1.0, elapsed_s=2.0, step=8, consumed_tokens=2048, checkpoint="step-00000008", manifest_sha256="a" * 64,
    certificate_sha256="b" * 64, question={"tasks": ["arc_easy"], "limit": None}, versions={"lm-eval": "0.4.13"}, device="cpu",
    host="n1", job=None,
    figures=(
        Figure(task="arc_easy", metric="acc", filter="none", value=0.25, stderr=0.1, num_samples=8, num_fewshot=0),
        Figure(task="text", metric="word_perplexity", value=None, num_samples=3),
    ),
)  # fmt: skip


def test_evaluations_are_numbered_and_read_as_they_were_written(tmp_path: Path) -> None:
    for number in (1, 2):
        assert record_evaluation(tmp_path, MADE).name == f"evaluation-0000{number}.json"
    found = read_evaluations(tmp_path)
    assert [one.number for one in found] == [1, 2] and found[0].figures == MADE.figures
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [1, 2]
    assert lines[0]["figures"] == {"arc_easy/acc": 0.25, "text/word_perplexity": None}
    assert not (tmp_path / "tensorboard").exists(), "a run without curves gets none"


def test_a_run_that_draws_curves_gets_those_of_its_evaluations_beside_its_own(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "tensorboard").mkdir()
    record_evaluation(tmp_path, MADE)
    curves = EventAccumulator(str(tmp_path / "tensorboard" / "evaluation")).Reload()
    assert curves.Tags()["scalars"] == ["tasks/arc_easy/acc"]
    assert [(point.step, point.value) for point in curves.Scalars("tasks/arc_easy/acc")] == [(8, 0.25)]


@pytest.mark.parametrize(("old", "new"), [("0.25", "0.35"), ('"step": 8', '"step": 9'), ("arc_easy", "arc_hard")])
def test_a_changed_figure_is_damage(tmp_path: Path, old: str, new: str) -> None:
    path = record_evaluation(tmp_path, MADE)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DamageError, match=r"evaluation-00001\.json must have the content whose sha256"):
        read_evaluation(tmp_path, 1)


def test_a_whole_number_of_more_than_64_bits_does_not_make_a_record_unreadable(tmp_path: Path) -> None:
    made = replace(MADE, question={"limit": 10**24})
    path = record_evaluation(tmp_path, made)
    assert read_evaluation(tmp_path, 1).question == {"limit": 10**24} and answered(tmp_path, made) is not None
    path.write_text(path.read_text().replace(str(10**24), str(10**24 + 1)))
    with pytest.raises(DamageError, match="must have the content whose sha256"):
        read_evaluation(tmp_path, 1)


def test_a_record_under_another_number_is_damage(tmp_path: Path) -> None:
    path = record_evaluation(tmp_path, MADE)
    path.rename(path.with_name("evaluation-00002.json"))
    with pytest.raises(DamageError, match="the number in its name"):
        read_evaluations(tmp_path)


def test_only_the_same_question_of_the_same_bytes_is_answered(tmp_path: Path) -> None:
    record_evaluation(tmp_path, MADE)
    assert answered(tmp_path, MADE) is not None
    others = (
        replace(MADE, manifest_sha256="c" * 64), replace(MADE, question={"tasks": ["arc_easy"], "limit": 3}),
        replace(MADE, versions={"lm-eval": "0.4.14"}), replace(MADE, kind="perplexity"),
        replace(MADE, device="cuda"),
    )  # fmt: skip
    assert [answered(tmp_path, other) for other in others] == [None] * len(others)


def test_a_run_that_was_not_evaluated_has_none(tmp_path: Path) -> None:
    assert evaluation_numbers(tmp_path) == [] and read_evaluations(tmp_path) == []
