"""The step that the last job of an encoding calls: ``launch job merge``. What it calls is imported when it runs."""

import sys
from pathlib import Path

import click

from fanal.errors import run_guarded


@click.command("merge")
@click.argument("folder", type=Path)
def job_merge(folder: Path) -> None:
    """Finish the array of an encoding: join the parts, or queue the missing ones again."""

    def act() -> int:
        from launch.encoding.job import merge

        return merge(folder)

    sys.exit(run_guarded(act))
