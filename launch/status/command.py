"""The command ``fanal launch status``."""

import io
import sys
from pathlib import Path

import click

from fanal.command_group import complete_path
from fanal.errors import UserError, run_guarded

CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=CONTEXT)
@click.argument("run_dirs", nargs=-1, required=True, type=Path, metavar="RUN_DIR...", shell_complete=complete_path)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, units in its keys, null for unknown.")
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option("--every", "every_s", type=float, metavar="SECONDS", help="With --watch: time between two. Default: 10.")
def status(run_dirs: tuple[Path, ...], as_json: bool, watch: bool, every_s: float | None) -> None:
    """Show how runs are doing: steps, losses, pace, time to go, checkpoints, jobs. Needs no Slurm, and changes nothing.

    Several runs, or a folder of runs, are a table with a line each. The exit code is 2 if one of them cannot be read.
    """

    def act() -> int:
        from launch.status.show import show_once, show_until_interrupted
        from launch.status.watch import LEAST_S

        if every_s is not None and (not watch or not LEAST_S <= every_s < 86_400):
            rule = f"be from {LEAST_S} to 86400 seconds" if watch else "stand beside --watch"
            raise UserError(f"--every ({every_s:g}) must {rule}; --watch --every 30 works")
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a path in a reason may hold bytes that are not text
        if not watch:
            return show_once(run_dirs, as_json=as_json)
        return show_until_interrupted(run_dirs, as_json=as_json, every_s=10.0 if every_s is None else every_s)

    sys.exit(run_guarded(act))
