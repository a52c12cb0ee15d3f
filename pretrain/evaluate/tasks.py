"""Tasks of lm-eval on a checkpoint: it is exported and certified, the export is evaluated, and the figures are recorded."""

import contextlib
import datetime
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fanal.errors import PassingError, UserError, user_path
from fanal.files import sha256_of_file
from fanal.locks import take_lock
from fanal.new_files import open_to_lock
from fanal.run_folder import EVALUATIONS_DIR
from pretrain.convert.exporting.export import ExportOptions, export
from pretrain.convert.theirs.certified import CERTIFICATE, OWN_HASH, read_certified
from pretrain.convert.theirs.model import transformers_module
from pretrain.evaluate.checkpoint import Chosen, begun, choose
from pretrain.evaluate.harness import Asked, figures_in, require_harness, run_harness, versions
from pretrain.evaluate.packed import open_packed
from pretrain.log.evaluation_file import TASKS, EvaluationFile, answered, check_place, record_evaluation


@dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """The options of ``fanal evaluate RUN_DIR --tasks``."""

    asked: Asked
    step: int | None = None
    packed: Path | None = None
    """Folder that ``--pack`` wrote: nothing is fetched then."""
    export_to: Path | None = None
    """Folder in which the export is kept; None removes it afterwards."""
    again: bool = False
    """Whether what was answered before is asked once more."""
    overrides: tuple[str, ...] = ()


def evaluate_tasks(run_dir: str | Path, wanted: TaskRequest) -> tuple[EvaluationFile, bool]:
    """Evaluate a checkpoint, and record it. Returns the record, and whether it was there already.

    The same tasks on the same checkpoint with the same versions are answered from the record.
    Raises: UserError for input that must change; DamagedCheckpointError; CertificateError.
    """
    require_harness("--tasks")
    transformers_module()
    asked, chosen = wanted.asked, choose(run_dir, wanted.step)
    packed = None if wanted.packed is None else open_packed(wanted.packed)
    if packed is not None:
        asked = replace(asked, variables=packed.variables, include_path=asked.include_path or packed.include_path)
    question = {
        "tasks": list(asked.tasks),
        "num_fewshot": asked.num_fewshot,
        "limit": asked.limit,
        "include_sha256": None if asked.include_path is None else _hash_of(asked.include_path),
        "packed_sha256": None if packed is None else packed.sha256,
    }
    record = begun(chosen, TASKS, question=question, versions=versions(), device=asked.device)
    if not wanted.again and (known := answered(run_dir, record)) is not None:
        return known, True
    check_place(run_dir)
    began = time.monotonic()
    with _work_folder(chosen) as work:
        folder, certificate = _exported(chosen, wanted, work / "export")
        results = run_harness(asked, model_args=f"pretrained={folder},dtype=auto", output=work / "results")
    record = replace(
        record,
        time_unix_s=time.time(),
        elapsed_s=time.monotonic() - began,
        certificate_sha256=certificate,
        figures=figures_in(results),
    )
    record_evaluation(run_dir, record)
    return record, False


@contextlib.contextmanager
def _work_folder(chosen: Chosen) -> Iterator[Path]:
    """Give an empty folder in the run's, whose disk has room for exports; it is removed at the end, and what a kill left of it by
    the next evaluation of this checkpoint. Raises: PassingError if another process evaluates it."""
    above = chosen.run_dir / EVALUATIONS_DIR
    work = above / f"{chosen.folder.name}.work"
    with user_path(above):
        above.mkdir(exist_ok=True)
    with open_to_lock(above / f"{chosen.folder.name}.lock") as stream:
        if not take_lock(stream.fileno()):
            raise PassingError(f"{chosen.folder.name} is being evaluated by another process; start again after it")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _exported(chosen: Chosen, wanted: TaskRequest, temporary: Path) -> tuple[Path, str]:
    """Return an export of the checkpoint, and the hash of its certificate. One that is kept already is compared and used again."""
    folder = wanted.export_to or temporary
    if (folder / CERTIFICATE).is_file():
        certified = read_certified(folder)
        assert certified is not None, "its certificate is there"
        certified.check()
        if certified.content["checkpoint"].get("manifest_sha256") != chosen.manifest_sha256:
            raise UserError(
                f"--keep-export ({folder}) must hold an export of {chosen.folder}, or not exist, and it holds one of another "
                f"checkpoint; --keep-export {folder}-{chosen.step} works"
            )
    else:
        export(chosen.folder, folder, ExportOptions(date=datetime.date.today().isoformat()), wanted.overrides)
    content: dict[str, Any] = json.loads((folder / CERTIFICATE).read_text(encoding="utf-8"))
    return folder, content[OWN_HASH]


def _hash_of(folder: Path) -> str:
    """Return a hash of the files of a folder of tasks, their names and bytes: what was changed there is another question.

    Raises: UserError if it is no folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"--include-path ({folder}) must be a folder with YAMLs of tasks, and is none; leave it out for lm-eval's own"
        )
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of_file(path)}\n".encode())
    return digest.hexdigest()


def task_names(text: str, option: str) -> tuple[str, ...]:
    """Return the names in a list with commas. Raises: UserError if there is none, or one is given twice."""
    names: Sequence[str] = [name for part in text.split(",") if (name := part.strip())]
    if not names or len(set(names)) < len(names) or any(name.startswith("-") for name in names):
        raise UserError(
            f"{option} ({text!r}) must be names of tasks, each once, with commas between; {option} hellaswag,arc_easy works"
        )
    return tuple(names)
