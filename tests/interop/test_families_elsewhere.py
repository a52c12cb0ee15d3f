"""Other programs compute the model of each family as this project does: losses and greedy tokens of an export.

What a program computes otherwise by its own choice is listed in ``DIFFERENT``, and shown: with that choice in our decoder, or within
the length to which it makes no difference, its figures are ours too.

Qwen2 has a tokenizer of its own kind: transformers 5 reads a folder of this class with no other. llama.cpp reads the families of which tests/interop/gguf_file.py has its converter's rules.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.config.derive import embedding_factor
from pretrain.convert.exporting.export import ExportOptions, export
from pretrain.convert.open_model import open_model
from pretrain.inspect.generate import load_decoder
from pretrain.model import inference
from tests.dist.harness import make_run, run_and_trace
from tests.interop.conftest import GOLDEN, SHARDS, Lab
from tests.interop.programs import ALL, Program, ask
from tests.interop.test_programs import LOSS_BOUND
from tests.runs import their_tokenizers
from tests.runs.cases import FAMILY_RUNS
from tokenizer.encoding.encode import encode
from tokenizer.vocabulary.import_folder import import_tokenizer

TRANSFORMERS_4, MLX_LM, LLAMA_CPP = (
    next(program for program in ALL if program.name == name) for name in ("transformers 4", "mlx-lm", "llama.cpp")
)
"""Readers that the certificate does not ask."""
READ = [
    *((program, name) for program in (TRANSFORMERS_4, MLX_LM) for name in FAMILY_RUNS),
    *((LLAMA_CPP, name) for name in ("qwen3", "olmo2")),
]
"""Which program reads which families."""
WINDOW = 16
"""Positions that a layer with a window sees in the runs of FAMILY_RUNS."""


@dataclass(frozen=True)
class Different:
    """What a program computes otherwise."""

    why: str
    num_tokens: int | None = None
    """Length of the longest text to which it makes no difference; None where our decoder computes it as the program does."""


NO_WINDOW = Different("it has no sliding window for this class", num_tokens=WINDOW)
DIFFERENT = {
    (TRANSFORMERS_4.name, "apertus"): Different(
        "it rounds xIELU's two learned factors to bfloat16, in a float32 model too"
    ),
    (MLX_LM.name, "mistral"): NO_WINDOW,
    (MLX_LM.name, "gemma"): Different("it has the exact GELU in place of the one by tanh"),
    (MLX_LM.name, "gemma2"): NO_WINDOW,
    (MLX_LM.name, "gemma3"): Different("it rounds the factor of the embedding to bfloat16, in a float32 model too"),
}
"""By program and family. transformers 4 also leaves the soft cap of Gemma 2's scores out, without a word, unless it is loaded with
``attn_implementation="eager"``, as tests/interop/ask.py does."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A family's run, exported."""

    lab: Lab
    run_dir: Path
    folder: Path

    def as_computed_by(self, program: Program, name: str, monkeypatch: pytest.MonkeyPatch) -> Lab:
        """The right answers of a program; where it rounds, of a decoder that rounds alike."""
        with open_model(self.run_dir) as opened:
            if (program.name, name) == (TRANSFORMERS_4.name, "apertus"):
                opened = dataclasses.replace(
                    opened, read=lambda tensor, read=opened.read: alpha_rounded(tensor, read(tensor))
                )
            if (program.name, name) == (MLX_LM.name, "gemma"):
                monkeypatch.setattr(inference, "geglu", lambda gate, up: torch.nn.functional.gelu(gate) * up)
            if (program.name, name) == (MLX_LM.name, "gemma3"):
                monkeypatch.setattr(
                    inference, "scaled_embedding", lambda embedded, model: embedded * in_bf16(embedding_factor(model))
                )
            return dataclasses.replace(self.lab, decoder=load_decoder(opened, torch.device("cpu")))


def in_bf16(value: float) -> float:
    return torch.tensor(value).bfloat16().item()


def alpha_rounded(tensor: str, values: np.ndarray) -> np.ndarray:
    """A tensor whose factor is what that of the rounded one is in bfloat16: softplus, for negative numbers beside 0.5."""
    if "alpha" not in tensor:
        return values
    factor = torch.nn.functional.softplus(torch.from_numpy(values).bfloat16())
    beta = 0.5 if tensor.endswith("alpha_n") else 0.0
    return ((factor + beta).double() - beta).expm1().log().float().numpy()


def on_their_tokenizer(folder: Path) -> tuple[str, ...]:
    """Overrides of a run on texts in the ids of a tokenizer of Qwen's kind, which has no BOS."""
    folder.mkdir()
    tokenizer = import_tokenizer(their_tokenizers.qwen(folder / "theirs"), folder / "tokenizer")
    lines = [json.dumps({"text": text}) + "\n" for text in their_tokenizers.corpus_texts()[:200]]
    (folder / "text.jsonl").write_text("".join(lines))
    encode(tokenizer.directory, [folder / "text.jsonl"], folder / "train", num_workers=1)
    return (
        f"data.tokenizer={tokenizer.directory}",
        f"data.train=[{{prefix: {folder / 'train'}}}]",
        "data.validation=[]",
        f"model.vocab_size={tokenizer.vocab_size}",
    )


@pytest.fixture(scope="module")
def families(lab: Lab) -> dict[str, Exported]:
    """Each family, trained three steps and exported. Ids are asked whole, and cut to the window; text is asked elsewhere."""
    samples = [*lab.questions.samples, *(ids[:WINDOW] for ids in lab.questions.samples)]
    asked = dataclasses.replace(
        lab, questions=dataclasses.replace(lab.questions, samples=samples, texts=[], named=[], templates=[])
    )
    theirs = on_their_tokenizer(lab.folder / "qwen")
    found = {}
    for name, family in FAMILY_RUNS.items():
        run = make_run(
            GOLDEN / "run.yaml", lab.folder / "families" / name, f"data.tokenizer={lab.folder / 'tokenizer'}",
            f"data.train=[{{prefix: {lab.folder / 'shards' / SHARDS[0]}}}]", f"data.validation=[{{prefix: {lab.folder / 'shards' / SHARDS[2]}}}]",
            "data.seq_length=64", "train.train_steps=3", "parallel.tensor_model_parallel_size=1",
            "parallel.pipeline_model_parallel_size=1", "model.init_method_std=0.2", "model.vocab_size=400", *family.overrides,
            *(theirs if name == "qwen2" else ()),
        )  # fmt: skip
        trace = run_and_trace(run)
        assert trace.exit_code == 0, trace.failure
        to = lab.folder / f"export-of-{name}"
        export(run.run_dir, to, ExportOptions(date="2026-01-01", adds_bos=name != "qwen2"))
        found[name] = Exported(lab=asked, run_dir=Path(run.run_dir), folder=to)
    return found


@pytest.fixture(scope="module")
def answers(
    families: dict[str, Exported], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Program], dict[str, Any]]:
    """What a program says of every export; each is asked once."""
    known: dict[str, dict[str, Any]] = {}

    def said_by(program: Program) -> dict[str, Any]:
        if program.name not in known:
            folders = {name: str(families[name].folder) for reader, name in READ if reader == program}
            asked = dataclasses.replace(next(iter(families.values())).lab.questions, folders=folders)
            known[program.name] = ask(program, asked, tmp_path_factory.mktemp("asked"))
        return known[program.name]

    return said_by


@pytest.mark.parametrize(("program", "name"), READ, ids=[f"{program.name}-{name}" for program, name in READ])
def test_losses_and_greedy_tokens_are_the_checkpoint_s(
    program: Program, name: str, families: dict[str, Exported], answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, different = answers(program)[name], DIFFERENT.get((program.name, name))
    ours = families[name].as_computed_by(program, name, monkeypatch)
    longest = different.num_tokens if different is not None and different.num_tokens is not None else 10**9
    samples = ours.questions.samples[: 1 if program == LLAMA_CPP else None]  # it is asked token by token
    pairs = [(ids, loss) for ids, loss in zip(samples, said["losses"], strict=True) if len(ids) <= longest]
    assert pairs
    for ids, loss in pairs:
        assert loss == pytest.approx(ours.losses_from(ids, 1), abs=LOSS_BOUND * (len(ids) - 1))
    same = max(0, longest - len(ours.questions.prompt) + 1)
    assert said["greedy"][:same] == ours.greedy()[:same]


@pytest.mark.parametrize(("program", "name"), DIFFERENT, ids=lambda word: word)
def test_what_is_listed_as_different_is(program: str, name: str, families: dict[str, Exported], answers: Any) -> None:
    """So that the list is shortened when a program learns it, and so that the bound is seen to tell such a model apart."""
    with open_model(families[name].run_dir) as opened:
        ours = dataclasses.replace(families[name].lab, decoder=load_decoder(opened, torch.device("cpu")))
    said = answers(next(entry for entry in ALL if entry.name == program))[name]
    samples = ours.questions.samples
    differences = [
        abs(loss - ours.losses_from(ids, 1)) / (len(ids) - 1) for ids, loss in zip(samples, said["losses"], strict=True)
    ]
    assert max(differences) > 2 * LOSS_BOUND, DIFFERENT[program, name].why


KEYS: dict[str, dict[str, Any]] = {
    "olmo3": {"rope_scaling.factor": 4.0, "rope_theta": 500.0},
    "gemma3": {"rope_scaling.factor": 4.0, "rope_theta": 500.0, "rope_local_base_freq": 500.0},
    "nemotron": {"partial_rotary_factor": 0.25, "rope_theta": 500.0},
    "mistral": {"sliding_window": 15},
}
"""Keys of config.json that transformers 5 reads elsewhere or not alone, by family, and other values of them."""


def test_transformers_4_reads_the_keys_that_are_written_for_it(
    families: dict[str, Exported], answers: Any, tmp_path: Path
) -> None:
    """Planted faults: each key with another value is another model there, so none of them is left to a default."""
    folders = {}
    for name, keys in KEYS.items():
        for key, value in keys.items():
            folder = Path(shutil.copytree(families[name].folder, tmp_path / f"{name} {key}"))
            content = json.loads((folder / "config.json").read_text())
            place, _, inner = key.partition(".")
            content[place] = content[place] | {inner: value} if inner else value
            (folder / "config.json").write_text(json.dumps(content))
            folders[folder.name] = str(folder)
    questions = dataclasses.replace(families["olmo3"].lab.questions, folders=folders)
    found, right = ask(TRANSFORMERS_4, questions, tmp_path), answers(TRANSFORMERS_4)
    for folder, said in found.items():
        expected = right[folder.split()[0]]["losses"]
        assert max(abs(loss - other) for loss, other in zip(said["losses"], expected, strict=True)) > 0.001, folder
