"""Evaluations beside a chain: the options of the request for them. The chain waits for none of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from fanal.command_group import complete_path
from fanal.errors import UserError
from fanal.evaluation_options import BY

EVALUATE_SCRIPT = "evaluate.sbatch"
"""File in the launch folder: the script of the job that evaluates the checkpoint of the step it is given."""
PREFIX = "evaluate_"


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """The options ``--evaluate-...`` of ``fanal launch render`` and ``submit``."""

    every: int
    """Checkpoints are evaluated whose step is a multiple of so many checkpoint intervals, and that of the last step."""
    tasks: str | None = None
    """Names of lm-eval's tasks, with commas between."""
    by: str | None = None
    """What a perplexity of held-out text is by; None leaves it out."""
    include_path: str | None = None
    fewshot: int | None = None
    limit: int | None = None
    packed: str | None = None
    python: str | None = None
    """Python with the extra ``evaluate``; None is that of the run."""
    hours: float = 1.0
    """Walltime of one evaluation."""
    partition: str | None = None
    qos: str | None = None


def evaluation_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command."""
    folder = {"metavar": "FOLDER", "shell_complete": complete_path}
    for decorate in reversed(
        (
            click.option("--evaluate-every", type=int, metavar="N", help="Evaluate every Nth checkpoint, in jobs of their own."),
            click.option("--evaluate-tasks", metavar="NAME,...", help="With tasks of lm-eval (`fanal evaluate --tasks`)."),
            click.option("--evaluate-by", type=click.Choice(BY), help="With perplexity on held-out text, by this."),
            click.option("--evaluate-include-path", **folder, help="Folder with YAMLs of more tasks."),
            click.option("--evaluate-fewshot", type=int, metavar="N", help="Examples in front of each sample."),
            click.option("--evaluate-limit", type=int, metavar="N", help="Samples of each task, at most."),
            click.option("--evaluate-packed", **folder, help="Folder of `fanal evaluate --pack`, for nodes without a network."),
            click.option("--evaluate-python", metavar="FILE", help="Python that has lm-eval. Default: the run's."),
            click.option("--evaluate-hours", type=float, metavar="H", help="Walltime of one evaluation. Default: 1."),
            click.option("--evaluate-partition", metavar="NAME", help="Partition of the evaluations. Default: the chain's."),
            click.option("--evaluate-qos", metavar="NAME", help="QoS of the evaluations. Default: the chain's."),
        )
    ):  # fmt: skip
        command = decorate(command)
    return command


def evaluations_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a command with those of the evaluations as one, ``evaluations``. Raises: UserError."""
    given = {name.removeprefix(PREFIX): options[name] for name in options if name.startswith(PREFIX)}
    rest = {name: value for name, value in options.items() if not name.startswith(PREFIX)}
    stated = {name: value for name, value in given.items() if value is not None}
    if not stated:
        return rest
    if "every" not in stated:
        option = f"--evaluate-{next(iter(stated)).replace('_', '-')}"
        raise UserError(f"{option} needs --evaluate-every, which says how often; --evaluate-every 1 works")
    return {**rest, "evaluations": Evaluations(**stated)}
