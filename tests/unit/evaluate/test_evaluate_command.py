"""``fanal evaluate`` on a command line: what is refused names a command that works."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from pretrain.evaluate.command import evaluate
from pretrain.log.evaluation_file import read_evaluations
from tests.unit.evaluate.conftest import Made

ROOT = Path(__file__).parents[3]


def asked(*words: object) -> Result:
    return CliRunner().invoke(evaluate, list(map(str, words)))


def test_without_words_it_names_a_command_that_works_once_a_run_is_put_in_its_place(made: Made) -> None:
    for words in ((), (made.run_dir,), (made.run_dir, "--tasks", "a", "--perplexity")):
        refused = asked(*words)
        assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
        advised = re.search(r"`fanal evaluate (.+?)` works", refused.stderr)
        assert advised and ("RUN_DIR" in advised[1]) is (not words), refused.stderr
    (folder, option) = shlex.split(advised[1])
    assert asked(folder, *made.overrides, option).exit_code == 0
    assert len(read_evaluations(made.run_dir)) == 1


def test_a_device_that_is_not_there_is_the_option_s_and_its_advice_works(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = asked(made.run_dir, "--perplexity", "--device", "cuda")
    assert refused.exit_code == 2 and "--device (cuda) needs a GPU and PyTorch sees none" in refused.stderr
    assert refused.stderr.endswith("; --device cpu works\n")
    assert asked(made.run_dir, *made.overrides, "--perplexity", "--device", "cpu").exit_code == 0


@pytest.mark.parametrize(
    ("option", "value", "works"),
    [
        ("--limit", "999999999999999999999999", "1000"), ("--limit", "9" * 4000, "1000"), ("--limit", "0", "1"),
        ("--batch-size", "65537", "16"), ("--batch-size", "0", "1"),
    ],
)  # fmt: skip
def test_a_number_that_no_record_could_keep_is_refused_and_the_advice_works(
    made: Made, option: str, value: str, works: str
) -> None:
    refused = asked(made.run_dir, *made.overrides, "--perplexity", option, value)
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1 and f"; {option} {works} works" in refused.stderr
    assert not read_evaluations(made.run_dir)
    assert asked(made.run_dir, *made.overrides, "--perplexity", option, works).exit_code == 0
    assert len(read_evaluations(made.run_dir)) == 1


def test_too_many_examples_are_refused(made: Made) -> None:
    refused = asked(made.run_dir, "--tasks", "a", "--fewshot", 10_001)
    assert refused.exit_code == 2 and "--fewshot (10001) must be at most 10,000; --fewshot 5 works" in refused.stderr


def test_a_step_that_is_not_there_is_told_one_that_is(made: Made) -> None:
    for step in ("-1", "999999999999999999999999999"):
        refused = asked(made.run_dir, *made.overrides, "--perplexity", "--step", step)
        assert refused.exit_code == 2
        advised = re.search(r"--step (\d+) works", refused.stderr)
        assert advised, refused.stderr
    assert asked(made.run_dir, *made.overrides, "--perplexity", "--step", advised[1]).exit_code == 0


@pytest.mark.parametrize("override", ["optim.lr=3", "@other.yaml", "database=1"])
def test_an_override_that_would_change_nothing_is_refused_by_name(made: Made, override: str) -> None:
    refused = asked(made.run_dir, *made.overrides, override, "--perplexity")
    assert refused.exit_code == 2 and f"override '{override}' must be data.KEY=VALUE" in refused.stderr
    assert asked(made.run_dir, *made.overrides, "--perplexity").exit_code == 0


@pytest.mark.parametrize("option", ["--tasks", "--pack"])
def test_without_lm_eval_an_option_is_refused_in_one_line_that_names_it(
    made: Made, option: str, tmp_path: Path
) -> None:
    """In a process of its own: what Megatron warns of is written once, as it is imported."""
    words = (
        [made.run_dir, "--tasks", "arc_easy"] if option == "--tasks" else ["--pack", "arc_easy", "--to", tmp_path / "p"]
    )
    code = "import sys; sys.modules['lm_eval'] = None; import importlib.util as u; find = u.find_spec\n"
    code += "u.find_spec = lambda name, *a: None if name == 'lm_eval' else find(name, *a)\n"
    code += "from pretrain.evaluate.command import evaluate; evaluate(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {option} needs lm-eval"), done.stderr
    assert done.stderr.count("\n") == 1 and ("--perplexity works" in done.stderr) is (option == "--tasks")


@pytest.mark.parametrize(("name", "makes"), [("evaluations", Path.touch), ("evaluations.jsonl", Path.mkdir)])
def test_a_place_that_takes_no_figures_is_refused_before_they_are_computed(
    made: Made, name: str, makes: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    makes(made.run_dir / name)
    words = (made.run_dir, *made.overrides, "--perplexity")
    with monkeypatch.context() as patch:
        patch.setattr("pretrain.evaluate.perplexity.score", None)
        refused = asked(*words)
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1, refused.stderr
    subprocess.run(["bash", "-c", refused.stderr.split("`")[1]], check=True)
    assert asked(*words).exit_code == 0 and len(read_evaluations(made.run_dir)) == 1


@pytest.mark.parametrize("name", ["", "evaluations", "evaluations.jsonl"])
def test_a_place_that_this_user_may_not_write_to_is_refused_and_a_copy_works(
    made: Made, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made.run_dir / "evaluations").mkdir()
    (made.run_dir / "evaluations.jsonl").touch()
    # Root may write everywhere, so the kernel's answer for another user is put in its place.
    monkeypatch.setattr(os, "access", lambda path, mode: path != made.run_dir / name)
    refused = asked(made.run_dir, *made.overrides, "--perplexity")
    assert refused.exit_code == 2 and "may write to" in refused.stderr and refused.stderr.count("\n") == 1
    assert not read_evaluations(made.run_dir)
    copy = shutil.copytree(made.run_dir, tmp_path / "copy")
    assert asked(copy, *made.overrides, "--perplexity").exit_code == 0
