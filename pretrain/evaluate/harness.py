"""lm-eval, run as a user runs it: its command line, in a process of its own, on a folder of an export; and what it found.

It is no dependency of training: the extra ``evaluate`` brings it. Its tasks are code: a YAML of a task may name Python to run.
"""

import collections
import importlib.metadata
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.shown import on_one_line, shown
from pretrain.log.evaluation_file import Figure
from tokenizer.shards.manifest import fanal_version

EXTRA = "pip install 'fanal[hf,evaluate]'"
PROGRAM = "lm-eval"
NEEDED = {"lm_eval": PROGRAM, "accelerate": "accelerate", "transformers": "transformers"}
"""Modules that an evaluation imports, by the names of their packages."""
VERSIONS_OF = (PROGRAM, "transformers", "tokenizers", "datasets", "torch")
LAST_LINES = 40
"""Lines of lm-eval's output that are searched for its error."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What lm-eval is asked."""

    tasks: tuple[str, ...]
    include_path: Path | None = None
    """Folder with YAMLs of more tasks."""
    num_fewshot: int | None = None
    """Examples in front of each sample; None for what each task says."""
    limit: int | None = None
    """Samples of each task, at most: the first ones."""
    batch_size: int = 1
    device: str = "cpu"
    variables: Mapping[str, str] | None = None
    """Variables of its environment: where datasets lie, and that nothing is fetched."""


def require_harness(option: str) -> None:
    """Refuse an option, ``--tasks`` or ``--pack``, without lm-eval. Raises: UserError, with what installs it."""
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        without = ", and --perplexity works without" if option == "--tasks" else ""
        raise UserError(
            f"{option} needs {', '.join(missing)}, which is not installed for {sys.executable}; {EXTRA} installs it{without}"
        )


def versions() -> dict[str, str]:
    """Return the versions of all that has a part in a figure."""
    return {"fanal": fanal_version(), **{name: importlib.metadata.version(name) for name in VERSIONS_OF}}


def run_harness(asked: Asked, *, model_args: str, output: Path, model: str = "hf") -> dict[str, Any]:
    """Run lm-eval, with its output on standard error, and return what it wrote of the results.

    Args: model_args: as its ``--model_args``; output: an empty folder, for its results; model: ``hf``, or ``dummy``, which
        answers without a model.
    Raises: UserError with its last word if it fails.
    """
    words = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--tasks", ",".join(asked.tasks)]
    words += ["--output_path", str(output), "--device", asked.device, "--batch_size", str(asked.batch_size)]
    words += ["--log_samples"]  # else it has no hashes of the tasks
    words += ["--model_args", model_args] if model_args else []
    for option, value in (
        ("--include_path", asked.include_path), ("--num_fewshot", asked.num_fewshot), ("--limit", asked.limit),
    ):  # fmt: skip
        words += [option, str(value)] if value is not None else []
    # Not from the current folder: a folder of ours may have the name of a package (kernels).
    environment = {**os.environ, **(asked.variables or {}), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:
        assert process.stdout is not None, "it is piped"
        for line in process.stdout:
            sys.stderr.write(line)
            last.append(line)
    if process.returncode:
        raise UserError(
            f"lm-eval ended with exit code {process.returncode} on --tasks {','.join(asked.tasks)}: {_last_word(last)}; "
            f"`{sys.executable} -m lm_eval ls tasks` lists its tasks, and --include-path names a folder of others"
        )
    return _results_in(output)


def _last_word(lines: Sequence[str]) -> str:
    """The line of an error, of Python's or lm-eval's; else the last one."""
    told = [line for line in lines if line.strip()]
    errors = [line for line in told if "Error" in line.split(":")[0] or "not found" in line]
    return on_one_line(shown((errors or told or ["it said nothing"])[-1].strip(), 300))


def _results_in(output: Path) -> dict[str, Any]:
    found = sorted(output.rglob("results*.json"))
    if not found:
        raise UserError(f"lm-eval left no results in {output}; a version from {PROGRAM} 0.4.13 on writes them")
    return json.loads(found[-1].read_text(encoding="utf-8"))


def figures_in(results: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Return every figure of lm-eval's results: of tasks, and of groups of tasks."""
    return tuple(figure for task in results["results"] for figure in _of_task(results, task))


def _of_task(results: Mapping[str, Any], task: str) -> Iterator[Figure]:
    found = results["results"][task]
    better = results.get("higher_is_better", {}).get(task) or {}
    version = results.get("versions", {}).get(task)
    fewshot = results.get("n-shot", {}).get(task)
    for key, value in found.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        yield Figure(
            task=task,
            metric=metric,
            filter=filtered,
            value=_finite(value),
            stderr=_finite(found.get(f"{metric}_stderr,{filtered}")),
            num_samples=_num_samples(results, task),
            num_fewshot=fewshot if type(fewshot) is int else None,
            higher_is_better=better.get(metric) if isinstance(better.get(metric), bool) else None,
            task_version=None if version is None else str(version),
            task_hash=results.get("task_hashes", {}).get(task),
        )


def _num_samples(results: Mapping[str, Any], task: str) -> int:
    """Samples of a task; of a group, of all tasks in it."""
    if (counted := results.get("n-samples", {}).get(task)) is not None:
        return int(counted["effective"])
    return sum(_num_samples(results, each) for each in results.get("group_subtasks", {}).get(task, ()))


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
