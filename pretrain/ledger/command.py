"""``fanal ledger``: parse, account, print."""

import sys

import click

from fanal.command_group import complete_path
from fanal.errors import run_guarded, user_path
from fanal.exit_codes import FINISHED
from pretrain.history.moved_option import moved_option
from pretrain.ledger.co2_option import check_co2_factor, co2_option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run_dir", metavar="RUN_DIR", shell_complete=complete_path)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, with its own hash.")
@click.option("--chain/--no-chain", default=True, show_default=True, help="Count the runs that it started from, too.")
@moved_option
@click.option("--deep", is_flag=True, help="Compare every byte of the shards with their manifests first.")
@co2_option
def ledger(
    run_dir: str, as_json: bool, chain: bool, moved: tuple[str, ...], deep: bool, co2_g_per_kwh: float | None
) -> None:
    """Account for a run: what it read, who started and stopped it, and what it cost.

    Tokens, documents and passes by source, language, licence and host; text held out and never read; every start and its end; hours
    and energy. Over all runs of a chain of phases. Nothing is changed.
    """
    from fanal.output import result_output
    from pretrain.history.moved import moved_of
    from pretrain.ledger.ledger import ledger_of, ledger_text
    from pretrain.ledger.text import show

    def act() -> int:
        check_co2_factor(co2_g_per_kwh)
        with user_path(run_dir):
            found = ledger_of(run_dir, chain=chain, deep=deep, co2_g_per_kwh=co2_g_per_kwh, moved=moved_of(moved))
        if as_json:
            print(ledger_text(found), end="", file=result_output())
        else:
            show(found)
        return FINISHED

    sys.exit(run_guarded(act))
