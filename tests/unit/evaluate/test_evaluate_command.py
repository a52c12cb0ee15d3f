"""``fanal evaluate`` on a command line: what is refused names a command that works."""

import re
import shlex

import pytest
import torch
from click.testing import CliRunner, Result

from pretrain.evaluate.command import evaluate
from pretrain.log.evaluation_file import read_evaluations
from tests.unit.evaluate.conftest import Made


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
