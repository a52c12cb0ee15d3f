"""``fanal trace``: the command line, parsed and handed on."""

import sys
from typing import Any

import click

from fanal.command_group import complete_path
from fanal.errors import UserError, run_guarded, user_path
from fanal.exit_codes import FINISHED
from fanal.shown import shown
from pretrain.history.moved_option import moved_option


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
@click.option(
    "--text",
    is_flag=False,
    flag_value="",
    metavar="[TEXT]",
    help="Find every occurrence of TEXT in the shards, and show when it is trained on. With --step or --sample, and without TEXT: "
    "show the beginning of the text of each document.",
)
@click.option(
    "--regex", metavar="REGEX", help="The same of what a regular expression of Python's re finds in a document."
)
@moved_option
@click.option("--deep", is_flag=True, help="Compare every byte of the shards with their manifests first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def trace(run_dir: str, **options: Any) -> None:
    """Say which documents a step trains on, or in which steps a document is trained on, past and to come.

    It follows by arithmetic from what the run folder holds of its starts and checkpoints; no log is needed. Shards that are no
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
    step, sample, rank, text = options["step"], options["sample"], options["rank"], options["text"]
    of_step = step is not None or sample is not None
    given = [
        f"--{name}"
        for name, is_given in (
            ("step" if step is not None else "sample", of_step),
            ("spikes", options["spikes"] and not of_step),
            ("document", options["document"] is not None),
            ("text", text is not None and not of_step),
            ("regex", options["regex"] is not None),
        )
        if is_given
    ]
    if not given:
        raise UserError(
            "trace needs what is to be traced: --step 1 works, or --document PREFIX:0, --text 'a text', or --spikes"
        )
    if len(given) > 1:
        raise UserError(
            f"{given[1]} must be without {given[0]}, since each is a question of its own; {given[1]} alone works"
        )
    if rank is not None and (step is None or sample is not None):
        raise UserError(f"--rank ({rank}) needs --step, and no --sample; --step {step or 1} --rank {rank} works")
    if of_step and text:
        raise UserError(
            f"--text ({shown(text)}) must be without a text beside {given[0]}, where it shows the text of documents; put it last, "
            f"as in {given[0]} {step if step is not None else sample} --text"
        )
    if text == "" and not of_step:
        raise UserError("--text needs a text that is sought, or --step; --text 'a text' works")
