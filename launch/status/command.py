"""The command ``fanal launch status``."""

import io
import sys
from pathlib import Path

import click

from fanal.command_group import complete_path
from fanal.errors import run_guarded
from fanal.exit_codes import FINISHED

CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=CONTEXT)
@click.argument("run_dir", type=Path, shell_complete=complete_path)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, units in its keys, null for unknown.")
def status(run_dir: Path, as_json: bool) -> None:
    """Show how a run is doing: steps, losses, pace, time to go, checkpoints, jobs. Needs no Slurm, and changes nothing."""

    def act() -> int:
        from launch.status.status import status as look
        from launch.status.status import to_json
        from launch.status.text import show

        found = look(run_dir)
        if as_json:
            print(to_json(found))
        else:
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="backslashreplace")  # a path in a reason may hold bytes that are not text
            show(found)
        return FINISHED

    sys.exit(run_guarded(act))
