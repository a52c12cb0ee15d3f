"""``fanal trace``: the command line, parsed and handed on."""

import sys
from typing import Any

import click

from fanal.command_group import complete_path
from fanal.errors import UserError, run_guarded, user_path
from fanal.exit_codes import FINISHED


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run_dir", metavar="RUN_DIR", shell_complete=complete_path)
@click.option(
    "--step", type=int, metavar="N", help="Show the samples of this step, counted from 1, and their documents."
)
@click.option("--rank", type=int, metavar="R", help="Only the samples that this rank reads in the step.")
@click.option("--sample", type=int, metavar="S", help="Only this sample, by its number in the run; alone, of its step.")
@click.option(
    "--document", metavar="ID", help="Show when a document, PREFIX:NUMBER or an id in its shard, is trained on."
)
@click.option("--spikes", is_flag=True, help="List the steps of spikes.jsonl; with --step, show the documents of one.")
@click.option("--text", "with_text", is_flag=True, help="Show the beginning of the text of each document in a sample.")
@click.option("--deep", is_flag=True, help="Compare every byte of the shards with their manifests first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def trace(run_dir: str, **options: Any) -> None:
    """Say which documents a step trains on, or in which steps a document is trained on, past and to come.

    It follows by arithmetic from what the run folder holds of its starts and checkpoints; no log is read. Shards that are no
    longer what the run was trained on are refused, with exit code 2, or 76 where their bytes are not those of their manifests.
    """

    def act() -> int:
        from pretrain.trace.answer import Question, answer

        with user_path(run_dir):
            print(answer(Question(run_dir=run_dir, **options)))
        return FINISHED

    sys.exit(run_guarded(lambda: _checked(options) or act()))


def _checked(options: dict[str, Any]) -> None:
    """Refuse options that do not go together. Raises: UserError."""
    step, sample, document = options["step"], options["sample"], options["document"]
    asked = [
        name
        for name, value in (("--step or --sample", step if step is not None else sample), ("--document", document))
        if value is not None
    ]
    if not asked and not options["spikes"]:
        raise UserError("trace needs what is to be traced: --step 1 works, or --document PREFIX:0, or --spikes")
    if len(asked) > 1 or (document is not None and options["spikes"]):
        others = "--spikes" if options["spikes"] else asked[0]
        raise UserError(f"--document ({document}) must be alone, without {others}; --document {document} works")
    if options["rank"] is not None and (step is None or sample is not None):
        raise UserError(
            f"--rank ({options['rank']}) needs --step, and no --sample; --step {step or 1} --rank {options['rank']} works"
        )
    if options["with_text"] and step is None and sample is None:
        raise UserError("--text needs --step or --sample, whose documents it shows the text of; --step 1 --text works")
