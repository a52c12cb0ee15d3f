"""The programs that read what this project writes, where they are installed, and what they are asked."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(sys.executable)
ENVIRONMENTS = ROOT / ".cache" / "interop"
"""Environments of ``make interop``, which leave that of the trainer as it is."""


@dataclass(frozen=True)
class Program:
    """A program, where it is, and what it can be asked."""

    name: str
    modules: tuple[str, ...]
    python: Path
    answers: frozenset[str]
    """Names of what tests/interop/ask.py has it say."""


@cache
def reason_to_skip(program: Program) -> str | None:
    """Return why a program cannot be asked; None if it can."""
    if not program.python.exists():
        return f"{program.name} needs the environment {program.python.parents[1]}, which `make interop` makes"
    look = "import importlib.util, sys; print(*(m for m in sys.argv[1:] if importlib.util.find_spec(m) is None))"
    looked = subprocess.run(
        [program.python, "-c", look, *program.modules], capture_output=True, text=True, check=True, env=offline()
    )
    missing = looked.stdout.split()
    return f"{program.name} is not here: {', '.join(missing)} could not be installed" if missing else None


OTHERS = ENVIRONMENTS / "others" / "bin" / "python"
TRANSFORMERS_4 = ENVIRONMENTS / "transformers-4" / "bin" / "python"
TEXT = frozenset({"as_text", "by_default", "named", "decoded"})
MODEL = frozenset({"losses"})
ALL = (
    Program("transformers", ("transformers",), HERE, TEXT | MODEL | {"chats"}),
    Program("transformers 4", ("transformers",), TRANSFORMERS_4, TEXT | MODEL | {"chats"}),
    Program("tokenizers", ("tokenizers",), HERE, TEXT),
    Program("SentencePiece", ("sentencepiece",), HERE, frozenset({"as_text", "decoded"})),
    Program("lm-eval", ("lm_eval", "accelerate"), OTHERS, (TEXT - {"as_text"}) | {"pair_losses"}),
    Program("llama.cpp", ("xllamacpp", "gguf"), OTHERS, TEXT | MODEL),
    Program("mlx-lm", ("mlx_lm", "mlx"), OTHERS, (TEXT - {"as_text"}) | MODEL),
)


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What every program is asked about each folder."""

    folders: dict[str, str]
    texts: list[str]
    """Texts without the name of a special token."""
    named: list[str]
    """Texts with one."""
    samples: list[list[int]]
    """Ids, each a BOS and text."""
    special: list[int]
    """Ids of control tokens."""
    pairs: list[tuple[str, str]]
    """Texts and how they go on, for a likelihood."""
    letter: int
    """Id of a letter."""
    prompt: list[int]
    prompt_text: str
    num_new: int
    vocab_size: int
    conversation: list[dict[str, str]]
    templates: list[dict[str, Any]]
    """Chat templates, and the special tokens that each of them needs."""


def ask(program: Program, questions: Questions, folder: Path) -> dict[str, Any]:
    """Return the program's answers by folder; skip the test if it is not there."""
    reason = reason_to_skip(program)
    if reason is not None:
        if os.environ.get("FANAL_REQUIRE_INTEROP"):
            pytest.fail(reason)
        pytest.skip(reason)
    asked, answers = folder / "questions.json", folder / f"{program.name}.json"
    asked.write_text(json.dumps(asdict(questions)), encoding="utf-8")
    done = subprocess.run(
        [program.python, "-W", "ignore", "-m", "tests.interop.ask", program.name, asked, answers],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=offline(),
    )  # fmt: skip
    assert done.returncode == 0, f"{program.name} does not read the export: {done.stderr[-2000:]}"
    return json.loads(answers.read_text(encoding="utf-8"))


def offline() -> dict[str, str]:
    """No program looks for anything elsewhere."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
