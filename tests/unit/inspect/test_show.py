"""What `fanal show` says of a run that stands somewhere, and of one that does not."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from fanal.run_folder import COMPLETE, CONFIG, STATE, checkpoints_dir, step_name
from pretrain.config.load import load_run, to_yaml
from pretrain.inspect.show import show
from tests.unit.config.test_rules import CONFIG as YAML


def shown(config: Path, *overrides: str) -> str:
    """What is printed below the resolved config, on lines that do not wrap."""
    console = Console(width=400)
    with console.capture() as captured:
        show(load_run(config, overrides), console)
    return captured.get().split("what follows")[1]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(YAML.replace("runs/x", str(tmp_path / "run")))
    return path


def resumes_at(config: Path, step: int, consumed_samples: int) -> None:
    folder = checkpoints_dir(config.parent / "run") / step_name(step)
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(to_yaml(load_run(config)))
    (folder / STATE).write_text(json.dumps({"step": step, "consumed_samples": consumed_samples}))
    (folder / COMPLETE).write_text("")


def row(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if line.split("│")[0].strip() == name]
    return line.split("│")[1].strip()


def test_the_figures_of_a_new_run_are_steps_times_batch(config: Path) -> None:
    text = shown(config)
    assert (row(text, "steps"), row(text, "samples"), row(text, "tokens")) == ("10", "80", "5,120")
    assert row(text, "learning rate").endswith("of 80 samples") and "at the resume" not in text


def test_the_figures_of_a_run_that_resumes_count_what_it_did_with_another_batch(config: Path) -> None:
    resumes_at(config, 8, 64)
    text = shown(config, "train.train_steps=16", "train.global_batch_size=4")
    assert row(text, "steps") == "16 (8 done, with 64 samples)"
    assert (row(text, "samples"), row(text, "tokens")) == ("96", "6,144")
    assert row(text, "learning rate").endswith("of 96 samples")
    assert row(text, "at the resume").endswith("ended at 80); optim.lr_decay_samples=80 keeps that schedule")


def test_a_resume_that_changes_nothing_has_no_line_of_its_own(config: Path) -> None:
    resumes_at(config, 8, 64)
    assert "at the resume" not in shown(config)


def test_the_passes_over_each_source_are_shown_and_too_many_are_said(small_run: Path) -> None:
    text = shown(small_run, "train.train_steps=2000")
    (code,) = [line for line in text.splitlines() if "train-code " in line and "│" in line]
    assert float(code.split("│")[3]) > 4
    assert "warning: the run reads " in text and "warning" not in shown(small_run)


def test_sources_that_are_not_on_this_machine_are_no_error(config: Path) -> None:
    assert "passes over the sources: not known: tokenizer folder t does not exist" in shown(config)
