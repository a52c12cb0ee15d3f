"""``fanal evaluate`` with the real lm-eval: its figures are those of the trainer's own layers on the checkpoint.

The tasks are local: a YAML and a file of JSON lines each. Beside them the same with a BOS too many, which has other figures.
"""

import json
import math
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.checkpoint.disk.tensors import open_tensors
from pretrain.convert.ours.model import OurModel
from pretrain.evaluate.windows import windows_of
from pretrain.log.evaluation_file import EvaluationFile, read_evaluations
from pretrain.parallel.world import open_lone_world
from tests.interop.conftest import Lab
from tests.interop.programs import ALL, ROOT, offline, reason_to_skip

LM_EVAL = next(program for program in ALL if program.name == "lm-eval")
BOUND = 1e-5
CHOICES = [" a", " b", " c"]
"""Of one length, so that none has all of the probability."""
QUESTIONS = [("What is it?", 0), ("def f(x):", 1), ("Where is the lamp?", 2), ("The function", 1), ("A", 0)]
PAGES = ["The lamp is on the table, and the table is in the house. " * 5, "def f(x):\n    return x + 1\n" * 9, "x = 3"]
LENGTH = 64
"""Tokens of a sequence of the lab's run."""


def write_task(folder: Path, name: str, lines: Sequence[dict[str, Any]], **keys: object) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
            "test_split": "test", "metadata": {"version": 1.0}, **keys}  # fmt: skip
    (folder / f"{name}.yaml").write_text(json.dumps(task))  # which is YAML


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A choice and a text, and each with a BOS too many: where a text begins with the name of one, lm-eval adds none."""
    folder = tmp_path_factory.mktemp("tasks")
    for end, front in (("", ""), ("_bos", "<s><s>")):
        write_task(
            folder, f"local_choice{end}", [{"q": front + question, "choices": CHOICES, "label": label} for question, label in QUESTIONS],
            output_type="multiple_choice", doc_to_text="{{q}}", doc_to_choice="{{choices}}", doc_to_target="label", target_delimiter="",
            metric_list=[{"metric": name} for name in ("acc", "brier_score")],
        )  # fmt: skip
        write_task(
            folder, f"local_text{end}", [{"text": front + page} for page in PAGES], output_type="loglikelihood_rolling",
            doc_to_text="", doc_to_target="{{text}}", metric_list=[{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
        )  # fmt: skip
    return folder


def fanal(*words: object) -> subprocess.CompletedProcess[str]:
    """A command of ours, by the Python that has lm-eval."""
    environment = {**offline(), "HF_DATASETS_OFFLINE": "1"}
    return subprocess.run(
        [LM_EVAL.python, "-W", "ignore", "-m", "fanal", *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=400,
    )  # fmt: skip


def need_lm_eval() -> None:
    if (reason := reason_to_skip(LM_EVAL)) is not None:
        if os.environ.get("FANAL_REQUIRE_INTEROP"):
            pytest.fail(reason)
        pytest.skip(reason)


NAMES = "local_choice,local_choice_bos,local_text,local_text_bos"


@pytest.fixture(scope="module")
def found(lab: Lab, tasks: Path) -> EvaluationFile:
    need_lm_eval()
    done = fanal("evaluate", lab.folder / "run", "--tasks", NAMES, "--include-path", tasks)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "bits_per_byte" in done.stdout
    return read_evaluations(lab.folder / "run")[-1]


@dataclass(frozen=True)
class Ours:
    """Log-likelihoods by the layers that train, in nats."""

    lab: Lab

    def of(self, whole: Sequence[tuple[list[int], int]]) -> list[float]:
        """That of the ids from a place on, for each text."""
        checkpoint = self.lab.folder / "run" / "checkpoints" / "step-00000003"
        model = self.lab.decoder.model
        with open_lone_world(), open_tensors(checkpoint) as reader:
            ours = OurModel(reader, model, vocab_size=self.lab.tokenizer.vocab_size, dtype="float32")
            for _ in ours.points([torch.tensor(ids).numpy() for ids, _ in whole]):
                pass
            logs = [ours.logits(number, slice(None)).double().log_softmax(-1) for number in range(len(whole))]
        return [
            sum(log[at - 1, ids[at]].item() for at in range(first, len(ids)))
            for log, (ids, first) in zip(logs, whole, strict=True)
        ]

    def choices(self) -> list[list[float]]:
        """Of each choice behind each question."""
        pairs = [(question, choice) for question, _ in QUESTIONS for choice in CHOICES]
        whole = [([self.lab.tokenizer.bos_id, *self.lab.ids(q + c)], 1 + len(self.lab.ids(q))) for q, c in pairs]
        flat = self.of(whole)
        return [flat[at : at + len(CHOICES)] for at in range(0, len(flat), len(CHOICES))]

    def bits_per_byte(self, num_bos: int) -> float:
        """Of all pages, each behind so many BOS; of those all but the first are predicted."""
        windows = [
            window
            for page in PAGES
            for window in windows_of([self.lab.tokenizer.bos_id] * num_bos + self.lab.ids(page), max_length=LENGTH)
        ]
        whole = [([*w.inputs, w.targets[-1]], len(w.inputs) + 1 - len(w.targets)) for w in windows]
        return -sum(self.of(whole)) / math.log(2) / sum(len(page.encode()) for page in PAGES)


def value(found: EvaluationFile, name: str) -> float:
    figure = next(figure for figure in found.figures if figure.name == name)
    assert figure.value is not None and figure.task_hash is not None and figure.task_version == "1.0"
    return figure.value


def brier(likelihoods: Sequence[Sequence[float]]) -> float:
    """The mean squared distance of the choices' probabilities from the right answer's."""
    total = 0.0
    for (_, label), found in zip(QUESTIONS, likelihoods, strict=True):
        shares = torch.tensor(found, dtype=torch.float64).softmax(0)
        total += sum((share.item() - (number == label)) ** 2 for number, share in enumerate(shares))
    return total / len(QUESTIONS)


def test_bits_per_byte_of_a_text_are_those_of_the_layers_that_train(found: EvaluationFile, lab: Lab) -> None:
    """lm-eval puts a BOS of its own in front of a text that it reads in windows, before that of the tokenizer."""
    ours = Ours(lab)
    one, two, three = (ours.bits_per_byte(num_bos) for num_bos in (1, 2, 3))
    assert value(found, "local_text/bits_per_byte") == pytest.approx(two, rel=BOUND)
    assert two != pytest.approx(one, rel=BOUND)
    assert value(found, "local_text_bos/bits_per_byte") != pytest.approx(two, rel=BOUND), "a BOS too many is noticed"
    assert two != pytest.approx(three, rel=BOUND)


def test_likelihoods_of_choices_are_those_of_the_layers_that_train(found: EvaluationFile, lab: Lab) -> None:
    likelihoods = Ours(lab).choices()
    chosen = [max(range(len(CHOICES)), key=one.__getitem__) for one in likelihoods]
    right = sum(choice == label for choice, (_, label) in zip(chosen, QUESTIONS, strict=True)) / len(QUESTIONS)
    assert value(found, "local_choice/acc") == pytest.approx(right)
    assert value(found, "local_choice/brier_score") == pytest.approx(brier(likelihoods), rel=BOUND)
    assert value(found, "local_choice_bos/brier_score") != pytest.approx(brier(likelihoods), rel=BOUND), (
        "a BOS too many is noticed"
    )


def test_the_record_names_the_checkpoint_the_export_and_the_versions(found: EvaluationFile, lab: Lab) -> None:
    complete = lab.folder / "run" / "checkpoints" / "step-00000003" / "COMPLETE"
    assert (found.step, found.manifest_sha256) == (3, complete.read_text().split()[0])
    assert (
        found.certificate_sha256
        and found.versions["lm-eval"]
        and {f.num_samples for f in found.figures} == {len(QUESTIONS), len(PAGES)}
    )
    assert not list((lab.folder / "run" / "evaluations").glob("*.work")), "the export is removed"


def test_packed_tasks_need_no_network_and_are_refused_once_they_were_altered(
    lab: Lab, tasks: Path, tmp_path: Path
) -> None:
    need_lm_eval()
    packed = fanal("evaluate", "--pack", "local_text", "--to", tmp_path / "packed", "--include-path", tasks)
    assert packed.returncode == 0, packed.stderr[-2000:]
    words = ("evaluate", lab.folder / "run", "--tasks", "local_text", "--packed", tmp_path / "packed", "--limit", 1)
    done = fanal(*words)
    assert done.returncode == 0, done.stderr[-2000:]
    made = read_evaluations(lab.folder / "run")[-1]
    stated = json.loads((tmp_path / "packed" / "packed.json").read_text())
    assert made.question["packed_sha256"] == stated["packed_sha256"] and made.figures[0].num_samples == 1
    altered = tmp_path / "packed" / "tasks" / "local_text.jsonl"
    altered.write_text(altered.read_text().replace("lamp", "damp"))
    refused = fanal(*words)
    assert refused.returncode == 76 and "is not what was packed" in refused.stderr
