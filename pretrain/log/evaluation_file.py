"""``RUN_DIR/evaluations/evaluation-00001.json``: an evaluation of a checkpoint. What was asked, of which bytes, with what, and the
figures that came out.

Each has a hash of itself, and is never changed. Evaluations of one run may end at the same time, on other nodes than the one that
trains: the next number is taken under a lock, and metrics.jsonl is left to the run itself. The same figures follow as a line of
evaluations.jsonl, and as curves of a TensorBoard run of their own.
"""

import json
import os
import secrets
import shlex
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fanal.errors import PassingError, UserError, user_path
from fanal.files import sync, write_bytes_durably
from fanal.locks import take_lock
from fanal.new_files import append, ends_inside_a_line, open_to_append, open_to_lock
from fanal.records import numbers_in, read_numbered, record_bytes, sealed
from fanal.run_folder import (
    EVALUATIONS_DIR,
    EVALUATIONS_FILE,
    LOCK,
    TENSORBOARD_DIR,
    evaluation_name,
    evaluation_number,
)
from fanal.shown import escaped

OWN_HASH = "evaluation_sha256"
FORMAT_VERSION = 1
LOCK_PATIENCE_S = 60.0
"""Seconds that an evaluation waits while another one writes its record, which takes a fraction of one."""
TASKS, PERPLEXITY = "tasks", "perplexity"
"""Kinds of evaluations: lm-eval's tasks on an export, and our own loss on held-out shards."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of an evaluation."""

    task: str
    """Name of the task; of a perplexity, the language, domain or source, or ``all``."""
    metric: str
    """Name of the metric, as lm-eval has it: ``acc``, ``word_perplexity``, ``bits_per_byte``."""
    filter: str | None = None
    """lm-eval's name of what was done to the answers before they were scored; None where nothing may be."""
    value: float | None
    """None where it is no finite number."""
    stderr: float | None = None
    """Standard error of the value; None where none was computed."""
    num_samples: int
    """Samples of the task, or documents, that it is over."""
    num_fewshot: int | None = None
    higher_is_better: bool | None = None
    task_version: str | None = None
    task_hash: str | None = None
    """lm-eval's hash of all prompts and targets of the samples."""
    num_tokens: int | None = None
    """Tokens that were predicted; None where lm-eval counted."""
    num_bytes: int | None = None
    """Bytes of the text of those tokens, in UTF-8."""

    @property
    def name(self) -> str:
        """Its name in curves and tables: ``arc_easy/acc``, with the filter where one was applied."""
        filtered = "" if self.filter in (None, "none") else f",{self.filter}"
        return f"{self.task}/{self.metric}{filtered}"


@dataclass(frozen=True, kw_only=True)
class EvaluationFile:
    """Content of an evaluation's file."""

    format_version: int = FORMAT_VERSION
    number: int = 0
    """Number of the evaluation in its run, from 1; it is given when the file is written."""
    kind: str
    """``tasks`` or ``perplexity``."""
    time_unix_s: float
    """Wall clock at its end."""
    elapsed_s: float
    """Seconds that it took, the export included."""
    step: int
    consumed_tokens: int
    """Tokens that the checkpoint was trained on."""
    checkpoint: str
    """Name of the checkpoint's folder."""
    manifest_sha256: str
    """Hash of the checkpoint's manifest, and so of every byte of it."""
    certificate_sha256: str | None = None
    """Hash of the certificate of the export that was evaluated; None where none was needed."""
    question: dict[str, Any]
    """What was asked: tasks, few-shot examples, limit; or what the perplexity is by."""
    versions: dict[str, str]
    """Versions of the programs that took part."""
    device: str
    """``cuda`` or ``cpu``."""
    host: str
    job: str | None
    """Slurm's id of the job; None outside of one."""
    figures: tuple[Figure, ...]
    evaluation_sha256: str | None = None
    """SHA-256 of everything else in this file (``own_hash``)."""


def check_place(run_dir: str | Path) -> None:
    """Refuse a run folder that could not take an evaluation, before one is computed. Raises: UserError."""
    run_dir = Path(run_dir)
    folder, lines = run_dir / EVALUATIONS_DIR, run_dir / EVALUATIONS_FILE
    for path, is_right, kind in ((folder, Path.is_dir, "folder"), (lines, Path.is_file, "file")):
        if os.path.lexists(path) and not is_right(path):
            raise UserError(
                f"{path} must be a {kind}, where evaluations of the run are kept, and is none; "
                f"`mv {shlex.quote(str(path))} {shlex.quote(f'{path}.other')}` works"
            )
    for path in (run_dir, folder, lines):
        if path.exists() and not os.access(path, os.W_OK):
            raise UserError(
                f"{path} must be one that user {os.geteuid()} may write to, since the figures are kept there; a copy of {run_dir} "
                "that is your own works"
            )


def record_evaluation(run_dir: str | Path, made: EvaluationFile) -> Path:
    """Write an evaluation's file, durably, then its line and its curves. Returns the path of the file.

    Raises: PassingError if another evaluation holds the lock for long, or the disk fails; UserError if it takes nothing.
    """
    run_dir = Path(run_dir)
    folder = run_dir / EVALUATIONS_DIR
    with user_path(folder), _locked(folder):
        made = replace(made, number=1 + max(evaluation_numbers(run_dir), default=0))
        path = folder / evaluation_name(made.number)
        write_bytes_durably(path, record_bytes(sealed(made, OWN_HASH)))
        _append_line(run_dir / EVALUATIONS_FILE, made)
        _draw(run_dir / TENSORBOARD_DIR, made)
    return path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    end = time.monotonic() + LOCK_PATIENCE_S
    with open_to_lock(folder / LOCK) as stream:
        while not take_lock(stream.fileno()):
            if time.monotonic() > end:
                raise PassingError(
                    f"{folder / LOCK} is held by another evaluation for {LOCK_PATIENCE_S:g} s; start again"
                )
            time.sleep(0.1)
        yield


def _append_line(path: Path, made: EvaluationFile) -> None:
    line = {
        "kind": "evaluation", "of": made.kind, "number": made.number, "step": made.step,
        "consumed_tokens": made.consumed_tokens, "time_unix_s": made.time_unix_s,
        "figures": {figure.name: figure.value for figure in made.figures},
    }  # fmt: skip
    with open_to_append(path) as stream:
        append(
            stream, (("\n" if ends_inside_a_line(stream) else "") + json.dumps(line, allow_nan=False) + "\n").encode()
        )
        sync(stream)


def _draw(folder: Path, made: EvaluationFile) -> None:
    """Add the figures to a TensorBoard run beside the trainer's, whose files are its own; nothing where the run draws no curves."""
    if not folder.is_dir():
        return
    from torch.utils.tensorboard import SummaryWriter  # costs a second

    suffix = f".{secrets.token_hex(8)}"  # it opens its file through a link, and nobody can foresee this name
    with closing(SummaryWriter(str(folder / "evaluation"), filename_suffix=suffix)) as writer:
        for figure in made.figures:
            if figure.value is not None:
                writer.add_scalar(f"{made.kind}/{escaped(figure.name)}", figure.value, made.step)


def evaluation_numbers(run_dir: str | Path) -> list[int]:
    """Return the numbers of a run's evaluations, rising; none in the folder of a run that was not evaluated. Raises: OSError."""
    return numbers_in(Path(run_dir) / EVALUATIONS_DIR, evaluation_number)


def read_evaluation(run_dir: str | Path, number: int) -> EvaluationFile:
    """Read one evaluation.

    Raises: DamageError if it is not what was written; UserError if another version of Fanal wrote it.
    """
    path = Path(run_dir) / EVALUATIONS_DIR / evaluation_name(number)
    remedy = "copy it again from an intact copy of the run folder, or move it away and evaluate again"
    return read_numbered(EvaluationFile, path, number, OWN_HASH, remedy=remedy)


def read_evaluations(run_dir: str | Path) -> list[EvaluationFile]:
    """Read all evaluations of a run, by their numbers.

    Raises: as ``read_evaluation``; OSError if the folder cannot be read.
    """
    return [read_evaluation(run_dir, number) for number in evaluation_numbers(run_dir)]


def answered(run_dir: str | Path, like: EvaluationFile) -> EvaluationFile | None:
    """Return the newest evaluation that asked the same of the same bytes with the same versions, on the same kind of device, which
    says in which precision; None if there is none."""
    same = [
        found
        for found in read_evaluations(run_dir)
        if (found.kind, found.manifest_sha256, found.question, found.versions, found.device)
        == (like.kind, like.manifest_sha256, like.question, like.versions, like.device)
    ]
    return same[-1] if same else None


def figure_text(value: float | None) -> str:
    """A figure for people: four digits behind the point, or the first four of a large one."""
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1e5 else f"{value:.4g}"
