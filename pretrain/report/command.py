"""``fanal report``: parse, write one file, say where it is."""

import sys
from pathlib import Path

import click

from fanal.command_group import complete_path
from fanal.errors import UserError, run_guarded, user_path
from fanal.exit_codes import FINISHED
from pretrain.history.moved_option import moved_option
from pretrain.ledger.co2_option import check_co2_factor, co2_option

SHORTEST_S, USUAL_S = 1.0, 60.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run_dir", metavar="RUN_DIR", shell_complete=complete_path)
@click.option(
    "--to", metavar="FILE", shell_complete=complete_path, help="File to write; by default report.html in RUN_DIR."
)
@click.option("--beside", metavar="RUN_DIR2", shell_complete=complete_path, help="Compare with this run, side by side.")
@click.option("--export", metavar="DIR", shell_complete=complete_path, help="Show the certificate of this export.")
@moved_option
@co2_option
@click.option("--watch", is_flag=True, help="Write it again and again while the run trains, until Ctrl-C.")
@click.option(
    "--interval", type=float, metavar="SECONDS", help=f"Seconds between two writes of --watch; {USUAL_S:g} by default."
)
def report(
    run_dir: str,
    to: str | None,
    beside: str | None,
    export: str | None,
    moved: tuple[str, ...],
    co2_g_per_kwh: float | None,
    watch: bool,
    interval: float | None,
) -> None:
    """Write one HTML file about a run: losses, pace, gradients, data, starts, costs, configuration.

    It opens without a network and runs no script. Nothing else is changed.
    """

    def act() -> int:
        from pretrain.history.moved import moved_of
        from pretrain.report.report import Wanted, watch_report, write_report

        if interval is not None and not watch:
            raise UserError(f"--interval ({interval:g}) needs --watch; --watch --interval {max(interval, 1):g} works")
        if interval is not None and not SHORTEST_S <= interval < float("inf"):
            raise UserError(
                f"--interval ({interval:g}) must be a finite number of at least {SHORTEST_S:g}; --interval 60 works"
            )
        check_co2_factor(co2_g_per_kwh)
        wanted = Wanted(
            run_dir=Path(run_dir),
            to=Path(to) if to is not None else None,
            beside=Path(beside) if beside is not None else None,
            export=Path(export) if export is not None else None,
            moved=moved_of(moved),
            co2_g_per_kwh=co2_g_per_kwh,
        )
        with user_path(*(path for path in (run_dir, beside, export) if path is not None)):
            if watch:
                watch_report(wanted, interval_s=USUAL_S if interval is None else interval, said=_say)
            else:
                num_bytes = write_report(wanted)
                _say(f"{wanted.path}: {num_bytes:,} bytes; it opens in a browser, without a network")
        return FINISHED

    sys.exit(run_guarded(act))


def _say(line: str) -> None:
    print(line, flush=True)
