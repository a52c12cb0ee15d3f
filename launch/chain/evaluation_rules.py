"""Evaluations beside a chain: which checkpoints are due, and what of a request for them could not run."""

from pathlib import Path

from fanal.errors import UserError
from fanal.evaluation_options import PACKED, check_number
from launch.chain.evaluations import Evaluations
from pretrain.config.schema import RunConfig

MAX_HOURS = 24.0
OF_TASKS = ("include_path", "fewshot", "packed")
"""Options that tasks of lm-eval have, and a perplexity has not."""


def checked_evaluations(
    wanted: Evaluations | None, run: RunConfig, *, container: str, workdir: Path
) -> Evaluations | None:
    """Refuse what could not run, and make paths absolute. Raises: UserError naming the option, its value and what works."""
    if wanted is None:
        return None
    if wanted.every < 1:
        raise UserError(f"--evaluate-every ({wanted.every}) must be at least 1; --evaluate-every 1 works")
    if run.checkpoint.interval is None:
        raise UserError(
            f"--evaluate-every ({wanted.every}) counts in checkpoint.interval, which is null; checkpoint.interval=1000 works"
        )
    if wanted.tasks is None and wanted.by is None:
        raise UserError("--evaluate-every needs --evaluate-tasks, --evaluate-by, or both; --evaluate-by domain works")
    _check_question(wanted)
    if wanted.by is not None and not run.data.validation and not run.data.validation_fraction:
        raise UserError(
            f"--evaluate-by ({wanted.by}) needs held-out text, and the run has none: data.validation and "
            "data.validation_fraction are not set; data.validation_fraction=0.001 works"
        )
    if not 0 < wanted.hours <= MAX_HOURS:
        raise UserError(
            f"--evaluate-hours ({wanted.hours:g}) must be above 0 and up to {MAX_HOURS:g}; --evaluate-hours 1 works"
        )
    if container:
        raise UserError(
            f"--evaluate-every must not be given with --container ({container}): evaluations run on the node itself; "
            "`fanal evaluate` by hand works"
        )
    found = {name: getattr(wanted, name) for name in vars(wanted)}
    for name, is_there in (("include_path", Path.is_dir), ("packed", Path.is_dir), ("python", Path.is_file)):
        if found[name] is not None:
            path = workdir / found[name]
            if not is_there(path):
                kind = "file" if name == "python" else "folder"
                raise UserError(
                    f"--evaluate-{name.replace('_', '-')} ({found[name]}) must be a {kind} that is there, and {path} is none; "
                    "it may be left out"
                )
            if name == "packed" and not (path / PACKED).is_file():
                raise UserError(
                    f"--evaluate-packed ({wanted.packed}) must be a folder that `fanal evaluate --pack` wrote, and it has no "
                    f"{PACKED}; it may be left out"
                )
            found[name] = str(path)
    return Evaluations(**found)


def _check_question(wanted: Evaluations) -> None:
    """Refuse what `fanal evaluate` would, once a checkpoint is there. Raises: UserError."""
    if wanted.tasks is None:
        for name in OF_TASKS:
            if (value := getattr(wanted, name)) is not None:
                raise UserError(
                    f"--evaluate-{name.replace('_', '-')} ({value}) belongs to --evaluate-tasks, which is not given; leave it out"
                )
    else:
        names = [name.strip() for name in wanted.tasks.split(",")]
        if not all(names) or len(set(names)) < len(names) or any(name.startswith("-") for name in names):
            raise UserError(
                f"--evaluate-tasks ({wanted.tasks!r}) must be names of tasks, each once, with commas between; "
                "--evaluate-tasks hellaswag,arc_easy works"
            )
    for name, value in (("limit", wanted.limit), ("fewshot", wanted.fewshot)):
        check_number(f"--evaluate-{name}", value, of=name)


def due(step: int, *, every: int, interval: int, train_steps: int) -> bool:
    """Whether the checkpoint of a step is to be evaluated."""
    return step > 0 and (step % (every * interval) == 0 or step == train_steps)


def may_be_deleted(wanted: Evaluations, run: RunConfig) -> str | None:
    """Return a warning if the run deletes checkpoints before their evaluation may have started."""
    keep, last = run.checkpoint.keep_every_steps, run.checkpoint.keep_last
    steps = wanted.every * (run.checkpoint.interval or 1)
    if last is None or (keep is not None and steps % keep == 0):
        return None
    return (
        f"checkpoint.keep_last ({last}) deletes checkpoints while their evaluations wait in the queue, which then end without "
        f"figures; checkpoint.keep_every_steps={steps} keeps those that are evaluated"
    )
