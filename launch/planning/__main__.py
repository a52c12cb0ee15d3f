"""The group that holds ``fanal plan``, which is called without the word ``launch``."""

import click

from fanal.command_group import CommandGroup
from launch.planning.command import CONTEXT, plan


@click.group(cls=CommandGroup, context_settings=CONTEXT)
def cli() -> None:
    """Plan what a run will cost."""


cli.add_command(plan)

if __name__ == "__main__":
    cli()
