"""``fanal launch evaluations``: what the scripts of a chain and of its evaluations call."""

import sys
from pathlib import Path

import click

from fanal.command_group import CommandGroup
from fanal.errors import run_guarded
from fanal.exit_codes import FINISHED


@click.group(cls=CommandGroup, hidden=True)
def evaluations() -> None:
    """Evaluations beside a chain; its scripts call these."""


@evaluations.command()
@click.argument("launch_dir", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Look once.")
@click.option("--poll-s", type=float, help="Seconds between two looks.")
def watch(launch_dir: Path, once: bool, poll_s: float | None) -> None:
    """Queue the evaluation of each checkpoint that is due, until the script that called this has ended."""
    import os

    parent = None if once else os.getppid()

    def act() -> int:
        from launch.chain.evaluation_watch import POLL_S, watch

        watch(launch_dir, parent=parent, poll_s=POLL_S if poll_s is None else poll_s)
        return FINISHED

    sys.exit(run_guarded(act))


@evaluations.command()
@click.argument("launch_dir", type=click.Path(path_type=Path))
@click.argument("step", type=int)
@click.argument("code", type=int)
def end(launch_dir: Path, step: int, code: int) -> None:
    """Note what became of an evaluation."""

    def act() -> int:
        from launch.chain.evaluation_watch import ended

        ended(launch_dir, step, code)
        return FINISHED

    sys.exit(run_guarded(act))
