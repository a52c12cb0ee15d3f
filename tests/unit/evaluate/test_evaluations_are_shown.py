"""Evaluations in the ledger and the report of a run; a run without any is shown as before."""

import datetime
from dataclasses import replace
from io import StringIO

import pytest

from fanal.console import Console
from fanal.errors import DamageError
from pretrain.history.history import history_of
from pretrain.ledger.ledger import account_of
from pretrain.ledger.text import _evaluations
from pretrain.log.evaluation_file import EvaluationFile, Figure, record_evaluation
from pretrain.report.page import page_of
from pretrain.report.view import view_of
from tests.unit.evaluate.conftest import Made

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def an_evaluation(step: int, value: float) -> EvaluationFile:
    figure = Figure(
        task="arc_<easy>", metric="acc", filter="none", value=value, stderr=0.01, num_samples=8, num_fewshot=5
    )
    return EvaluationFile(
        kind="tasks", time_unix_s=1.0, elapsed_s=2.0, step=step, consumed_tokens=step * 256, checkpoint=f"step-{step:08d}",
        manifest_sha256="a" * 64, question={"tasks": ["arc_<easy>"], "limit": 8}, versions={"lm-eval": "0.4.13"}, device="cpu", host="n1",
        job=None, figures=(figure,),
    )  # fmt: skip


def shown_in_report(made: Made) -> str:
    return page_of(view_of(made.run_dir), now=NOW)


def test_a_run_without_evaluations_is_shown_as_before(made: Made) -> None:
    assert 'id="evaluations"' not in shown_in_report(made)
    assert account_of(history_of(made.run_dir)).evaluations == ()


def test_figures_are_in_the_ledger_and_drawn_in_the_report(made: Made) -> None:
    for step, value in ((4, 0.251), (8, 0.375)):
        record_evaluation(made.run_dir, an_evaluation(step, value))
    account = account_of(history_of(made.run_dir))
    assert [(found.step, found.figures[0].value) for found in account.evaluations] == [(4, 0.251), (8, 0.375)]
    out = StringIO()
    Console(file=out, width=80).print(_evaluations(account.evaluations))
    assert ["8", "arc_<easy>", "acc", "0.3750", "0.0100", "8"] in [line.split() for line in out.getvalue().splitlines()]
    page = shown_in_report(made)
    assert "lm-eval: acc" in page and "arc_&lt;easy&gt; (limit 8, 5-shot)" in page and "arc_<easy>" not in page
    assert "0.375" in page and "0.251" in page and "lm-eval 0.4.13" in page


def test_an_altered_record_is_said_in_the_report_and_damage_in_the_ledger(made: Made) -> None:
    path = record_evaluation(made.run_dir, an_evaluation(8, 0.375))
    path.write_text(path.read_text().replace("0.375", "0.975"))
    page = shown_in_report(made)
    assert "0.975" not in page and "evaluation-00001.json must have the content" in page
    with pytest.raises(DamageError, match=r"evaluation-00001\.json"):
        account_of(history_of(made.run_dir))


def test_of_two_evaluations_of_one_step_the_newer_is_drawn(made: Made) -> None:
    from pretrain.report.sections.evaluations import _charts

    made_of = [an_evaluation(4, 0.1), an_evaluation(8, 0.2), replace(an_evaluation(8, 0.3), time_unix_s=3.0)]
    (chart,) = _charts(made_of)
    assert [line.points for line in chart.lines] == [[(4, 0.1), (8, 0.3)]]
