"""The options of ``fanal plan --ladder``, which stand together."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


@dataclass(frozen=True, kw_only=True)
class LadderRequest:
    """What is asked of a ladder, as written: lists have commas."""

    ladder: Path | None = None
    """The folder of its configs."""
    parts: str | None = None
    tokens_per_parameter: str | None = None
    rung_flops: str | None = None
    fit: bool = False


OPTIONS = (
    click.option(
        "--ladder", type=click.Path(path_type=Path), metavar="FOLDER",
        help="Write small runs of the same family instead, a config each, into this new folder.",
    ),
    click.option(
        "--parts", metavar="P,P...",
        help="Sizes of the ladder's runs, as parts of CONFIG's parameters. Default: 1/256,1/128,1/64,1/32,1/16.",
    ),
    click.option(
        "--tokens-per-parameter", metavar="R,R...",
        help="Tokens for each parameter in the layers of a ladder's run. Default: as many as CONFIG's.",
    ),
    click.option("--rung-flops", metavar="F,F...", help="Operations of the ladder's runs, in place of --parts."),
    click.option("--fit", is_flag=True, help="With --ladder: fit the losses of its finished runs, and predict CONFIG's."),
)  # fmt: skip


def ladder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options, whose values are the fields of LadderRequest."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
