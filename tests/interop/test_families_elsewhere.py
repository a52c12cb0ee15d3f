"""Other programs compute the model of each family as this project does: losses and greedy tokens of an export."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.convert.exporting.export import ExportOptions, export
from pretrain.convert.open_model import open_model
from pretrain.inspect.generate import load_decoder
from tests.dist.harness import make_run, run_and_trace
from tests.interop.conftest import GOLDEN, SHARDS, Lab
from tests.interop.programs import ALL, ask
from tests.interop.test_programs import LOSS_BOUND
from tests.runs.cases import FAMILY_RUNS

PROGRAMS = tuple(program for program in ALL if program.name in ("transformers 4", "mlx-lm"))
"""Readers of config.json that the certificate does not ask."""


@pytest.fixture(scope="module")
def families(lab: Lab) -> dict[str, Lab]:
    """Each family, trained three steps and exported."""
    found = {}
    for name, family in FAMILY_RUNS.items():
        run = make_run(
            GOLDEN / "run.yaml", lab.folder / "families" / name, f"data.tokenizer={lab.folder / 'tokenizer'}",
            f"data.train=[{{prefix: {lab.folder / 'shards' / SHARDS[0]}}}]", f"data.validation=[{{prefix: {lab.folder / 'shards' / SHARDS[2]}}}]",
            "data.seq_length=64", "train.train_steps=3", "parallel.tensor_model_parallel_size=1",
            "parallel.pipeline_model_parallel_size=1", "model.init_method_std=0.2", "model.vocab_size=400", *family.overrides,
        )  # fmt: skip
        trace = run_and_trace(run)
        assert trace.exit_code == 0, trace.failure
        to = lab.folder / f"export-of-{name}"
        export(run.run_dir, to, ExportOptions(date="2026-01-01", adds_bos=True))
        with open_model(run.run_dir) as opened:
            decoder = load_decoder(opened, torch.device("cpu"))
        questions = dataclasses.replace(lab.questions, folders={name: str(to)})
        found[name] = dataclasses.replace(lab, questions=questions, decoder=decoder)
    return found


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_losses_and_greedy_tokens_of_every_family_are_the_checkpoint_s(
    program: Any, families: dict[str, Lab], lab: Lab, tmp_path: Path
) -> None:
    folders = {name: found.questions.folders[name] for name, found in families.items()}
    answers = ask(program, dataclasses.replace(lab.questions, folders=folders), tmp_path)
    for name, found in families.items():
        for ids, loss in zip(found.questions.samples, answers[name]["losses"], strict=False):
            expected = found.losses_from(ids, 1)
            assert loss == pytest.approx(expected, abs=LOSS_BOUND * (len(ids) - 1)), name
            assert abs(lab.losses_from(ids, 1) - expected) > 0.01, "another model than the plain one"
        assert answers[name]["greedy"] == found.greedy(), name
