"""``fanal draft``: parse, fill, write."""

import sys
from pathlib import Path

import click

from fanal.command_group import complete_path
from fanal.errors import run_guarded, user_path
from fanal.exit_codes import FINISHED
from pretrain.history.moved_option import moved_option
from pretrain.ledger.co2_option import check_co2_factor, co2_option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run_dir", metavar="RUN_DIR", shell_complete=complete_path)
@click.option(
    "--to", required=True, metavar="FOLDER", shell_complete=complete_path, help="Folder of the files; made if need be."
)
@click.option(
    "--only", multiple=True, metavar="NAME", help="Write this draft alone; may be given several times. Default: all."
)
@click.option(
    "--export",
    metavar="DIR",
    shell_complete=complete_path,
    help="Take hashes and licence from this export's certificate.",
)
@co2_option
@click.option("--chain/--no-chain", default=True, show_default=True, help="Count the runs that it started from, too.")
@moved_option
@click.option("--deep", is_flag=True, help="Compare every byte of the shards with their manifests first.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def draft(
    run_dir: str,
    to: str,
    only: tuple[str, ...],
    export: str | None,
    co2_g_per_kwh: float | None,
    chain: bool,
    moved: tuple[str, ...],
    deep: bool,
    overwrite: bool,
) -> None:
    """Write drafts of the documents that the law and the hubs ask for, filled from the ledger of a run.

    Each figure says where it comes from; what the run does not know is marked "to be stated by the provider". Not legal advice.
    """

    def act() -> int:
        from pretrain.drafts.facts import facts_of
        from pretrain.drafts.write import chosen, write_drafts
        from pretrain.history.moved import moved_of

        check_co2_factor(co2_g_per_kwh)
        drafts = chosen(only)
        with user_path(*(path for path in (run_dir, export) if path is not None)):
            facts = facts_of(
                run_dir,
                chain=chain,
                deep=deep,
                co2_g_per_kwh=co2_g_per_kwh,
                export=None if export is None else Path(export),
                moved=moved_of(moved),
            )
        for path in write_drafts(drafts, facts, Path(to), overwrite=overwrite):
            print(path)
        return FINISHED

    sys.exit(run_guarded(act))
