"""Commands as a person lists and completes them: whole sentences in ``--help``, names of files after a TAB."""

import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from fanal.exit_codes import INTERRUPTED
from fanal.output import whole_output


class CommandGroup(click.Group):
    """A group of commands whose list shows each command's first sentence whole; click cuts a long one off with "...".

    Every command in it ends quietly when nobody reads its output any more, and at Ctrl-C with a code of its own: click's, 1, has
    another meaning here.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line of this process."""
        with whole_output():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None

    group_class = type  # groups inside this one are of the same class

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one row for each command that is not hidden."""
        rows = self.sentences(ctx)
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def sentences(self, ctx: click.Context) -> list[tuple[str, str]]:
        """The name and the first sentence of each command that is not hidden."""
        commands = sorted(self.commands.items())
        return [(name, first_sentence(command)) for name, command in commands if not command.hidden]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands with the same sentences, which click would cut off after 45 letters."""
        whole = dict(self.sentences(ctx))
        found = super().shell_complete(ctx, incomplete)
        return [CompletionItem(one.value, type=one.type, help=whole.get(one.value, one.help)) for one in found]


class ManyInputsCommand(click.Command):
    """A command whose ``--input a b c`` means ``--input a --input b --input c``, which click has no word for."""

    spread_option = "--input"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option before each further word, up to a ``--``."""
        spread: list[str] = []
        collecting, ours = False, args.index("--") if "--" in args else len(args)
        for position, word in enumerate(args[:ours]):
            if word.startswith("-"):
                collecting = word == self.spread_option
            elif collecting and args[position - 1] != self.spread_option:
                spread.append(self.spread_option)
            spread.append(word)
        return super().parse_args(ctx, spread + args[ours:])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete options, and any other word as a further input."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(incomplete, type="file")]


def first_sentence(command: click.Command) -> str:
    """What a command says of itself first, on one line."""
    paragraph = " ".join((command.help or "").split("\n\n")[0].split())
    return paragraph.partition(". ")[0].removesuffix(".") + "."


def complete_path(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leave an argument to the shell, which completes names of files and folders."""
    return [CompletionItem(incomplete, type="file")]
