"""The command ``fanal``: one list of all commands, and the package that each of them lies in.

A package is imported when one of its commands is run or completed, so that ``fanal --help`` waits for click alone.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from fanal.command_group import CommandGroup

COMMANDS = {
    "train": ("pretrain", "Train the run that CONFIG describes, or resume it from its last checkpoint."),
    "show": ("pretrain", "Print the resolved config and what follows from it."),
    "rehearse": (
        "pretrain", "Rehearse the step of a run on any number of GPUs, without one: memory, collectives and waits of a rank.",
    ),
    "plan": (
        "launch.planning",
        "Plan the layout of a run: memory, time of a step and speed of every layout that the config's rules allow.",
    ),
    "prove": ("pretrain", "Prove that this machine resumes CONFIG as if nothing had happened."),
    "export": ("pretrain", "Write a checkpoint, or a run's newest complete one, as a Hugging Face folder with a certificate."),
    "import": (
        "pretrain", "Make a checkpoint of the weights in HF_DIR, a Hugging Face folder of a Llama-family model in safetensors.",
    ),
    "average": (
        "pretrain", "Make a checkpoint whose weights are the mean of several: of a run's newest, or of those that are named.",
    ),
    "generate": ("pretrain", "Generate text from a prompt with a checkpoint, a run's newest one, or a Hugging Face folder."),
    "evaluate": (
        "pretrain", "Evaluate a checkpoint of a run: tasks on a certified export of it, or perplexity on text kept from training.",
    ),
    "verify": (
        "pretrain", "Check a checkpoint, every checkpoint of a run, an export, or a shard, against its manifest or certificate.",
    ),
    "sign": (
        "pretrain", "Sign an export, a checkpoint, a shard or a JSON file: a file NAME.sig beside its certificate or manifest.",
    ),
    "trace": ("pretrain", "Say which documents a step trains on, or in which steps a document is trained on, past and to come."),
    "ledger": ("pretrain", "Account for a run: what it read, who started and stopped it, and what it cost."),
    "report": ("pretrain", "Write one HTML file about a run: losses, pace, gradients, data, starts, costs, configuration."),
    "draft": ("pretrain", "Write drafts of the documents that the law and the hubs ask for, filled from the ledger of a run."),
    "tokenizer": ("tokenizer", "Train or import a tokenizer, encode documents to token shards, check both, and search them."),
    "launch": ("launch", "Turn one YAML into a chain of Slurm jobs that restarts itself after a failure."),
}  # fmt: skip
"""Each command with its package and the first sentence of its help, which is repeated here so that a list imports nothing."""

GROUPS = {"pretrain": "cli", "tokenizer": "commands", "launch": "cli", "launch.planning": "cli"}
"""The name of each package's group of commands in its ``__main__``."""

SHELLS = ("bash", "zsh", "fish")


class Fanal(CommandGroup):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table, then those defined here."""
        return [*COMMANDS, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, from its package; None if there is none."""
        return self.commands.get(cmd_name) or (load(cmd_name) if cmd_name in COMMANDS else None)

    def sentences(self, ctx: click.Context) -> list[tuple[str, str]]:
        """The rows of ``--help``, without an import."""
        return [(name, sentence) for name, (_, sentence) in COMMANDS.items()] + super().sentences(ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command without an import."""
        if not incomplete or incomplete[0].isalnum():
            rows = self.sentences(ctx)
            return [CompletionItem(name, help=sentence) for name, sentence in rows if name.startswith(incomplete)]
        return super().shell_complete(ctx, incomplete)


def group_of(package: str) -> click.Group:
    """The group of a package's own commands, as ``python -m PACKAGE`` has it."""
    return getattr(importlib.import_module(f"{package}.__main__"), GROUPS[package])


def load(name: str) -> click.Command:
    """The command of the table that is called ``name``: one of a package's commands, or its whole group."""
    group = group_of(COMMANDS[name][0])
    return group if COMMANDS[name][0] == name else group.commands[name]


def version() -> str:
    """The version of the installed package, or of the source that this file lies in."""
    from importlib import metadata

    try:
        return metadata.version("fanal")
    except metadata.PackageNotFoundError:
        import tomllib

        project = Path(__file__).parents[1] / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"fanal {version()}")
        ctx.exit()


@click.group(cls=Fanal, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version."
)
def fanal() -> None:
    """Pretrain foundation language models on HPC clusters, as runs that can be proved."""


@fanal.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that lets a shell complete this command.

    For bash, put eval "$(fanal completion bash)" into ~/.bashrc; for zsh, eval "$(fanal completion zsh)" into ~/.zshrc; for
    fish, run: fanal completion fish > ~/.config/fish/completions/fanal.fish
    """
    found: Any = get_completion_class(shell)
    click.echo(found(fanal, {}, "fanal", "_FANAL_COMPLETE").source())


def run(words: Sequence[str]) -> int:
    """Run one command with the errors and exit codes of its own package; only the usage says ``fanal``.

    Returns: the exit code, where click has not ended the process with it.
    """
    program = "python -m fanal" if Path(sys.argv[0]).name == "__main__.py" else "fanal"
    if words[:1] == ["tokenizer"]:  # the only package that gives click's errors other codes than click does
        from tokenizer.__main__ import main

        return main(list(words[1:]), prog_name=f"{program} tokenizer")
    fanal.main(args=list(words), prog_name=program)
    return 0
