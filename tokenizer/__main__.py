"""The command line: parse, call one function, print, exit code.

Exit codes: 0 done; 2 the input is wrong; 70 a crash; 76 a shard failed verification.
"""

import json
import sys
import traceback
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tokenizer import check as check_module
from tokenizer import encode as encode_module
from tokenizer import verify as verify_module
from tokenizer.sample_corpus import DEFAULT_MAX_BYTES_PER_DOMAIN, make_sample_corpus
from tokenizer.spec import load_spec
from tokenizer.train import train_tokenizer

EXIT_INPUT, EXIT_CRASH, EXIT_VERIFICATION, EXIT_INTERRUPTED = 2, 70, 76, 130


class ManyInputsCommand(click.Command):
    """Lets `--input a b c` mean `--input a --input b --input c`, which click has no word for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        collecting = False
        for position, argument in enumerate(args):
            if argument.startswith("-"):
                collecting = argument == "--input"
            elif collecting and args[position - 1] != "--input":
                spread.append("--input")
            spread.append(argument)
        return super().parse_args(ctx, spread)


input_option = click.option(
    "--input", "inputs", metavar="FILE...", multiple=True, required=True, help="Jsonl files; several may follow."
)
text_field_option = click.option("--text-field", default="text", show_default=True, help="Field that holds the text.")
tokenizer_option = click.option("--tokenizer", "directory", metavar="DIR", required=True, help="A trained tokenizer.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def commands() -> None:
    """Train a tokenizer, encode documents to token shards, and check both."""


@commands.command(cls=ManyInputsCommand)
@click.argument("spec", metavar="SPEC.yaml")
@input_option
@click.option("--output", metavar="DIR", required=True, help="Folder to make; it must not exist.")
@text_field_option
def train(spec: str, inputs: tuple[str, ...], output: str, text_field: str) -> None:
    """Train a SentencePiece BPE tokenizer.

    A small spec is tokenizer/specs/tiny-2k.yaml; its keys are explained in tokenizer/spec.py.
    """
    tokenizer = train_tokenizer(load_spec(spec), inputs, output, text_field)
    click.echo(f"{output}: {tokenizer.vocab_size} tokens, model sha256 {tokenizer.model_sha256}")


@commands.command(cls=ManyInputsCommand)
@tokenizer_option
@input_option
@click.option("--output", metavar="PREFIX", required=True, help="Writes PREFIX.bin, PREFIX.idx and PREFIX.json.")
@text_field_option
@click.option("--bos/--no-bos", default=True, show_default=True, help="Start each document with BOS.")
@click.option("--eos/--no-eos", default=True, show_default=True, help="End each document with EOS.")
@click.option("--source", metavar="TEXT", help="Where the documents come from, for the manifest.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: the cores this process may use.")
def encode(
    directory: str,
    inputs: tuple[str, ...],
    output: str,
    text_field: str,
    bos: bool,
    eos: bool,
    source: str | None,
    threads: int | None,
) -> None:
    """Encode documents to one shard. All of them must have the same domain and licence."""
    manifest = encode_module.encode(directory, inputs, output, bos, eos, text_field, source, threads)
    click.echo(f"{output}: {manifest.num_documents:,} documents, {manifest.num_tokens:,} tokens of {manifest.dtype}")


@commands.command()
@click.argument("prefixes", metavar="PREFIX...", nargs=-1, required=True)
@click.option("--deep", is_flag=True, help="Read everything: hashes, ids, offsets.")
def verify(prefixes: tuple[str, ...], deep: bool) -> None:
    """Check shards against their manifests.

    The exit code is 76 if one fails.
    """
    results = verify_module.verify(prefixes, deep)
    table = Table("shard", "documents", "tokens", "finding")
    for result in results:
        counts = ["" if count is None else f"{count:,}" for count in (result.num_documents, result.num_tokens)]
        table.add_row(result.prefix, *counts, "ok" if result.problem is None else "FAILED")
    _print(table)
    problems = [result.problem for result in results if result.problem is not None]
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if problems:
        raise click.exceptions.Exit(EXIT_VERIFICATION)


@commands.command(cls=ManyInputsCommand)
@tokenizer_option
@input_option
@text_field_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def check(directory: str, inputs: tuple[str, ...], text_field: str, as_json: bool) -> None:
    """Measure how a tokenizer fits documents.

    By domain: round trip, bytes per token, fertility (tokens per word), share of byte fallback.
    """
    reports = check_module.check_tokenizer(directory, inputs, text_field)
    if as_json:
        click.echo(json.dumps([report.as_dict() for report in reports], indent=2, ensure_ascii=False))
        return
    table = Table(
        "domain", "documents", "tokens", "bytes per token", "tokens per word", "byte fallback", "not given back"
    )
    for report in reports:
        table.add_row(
            report.domain,
            f"{report.num_documents:,}",
            f"{report.num_tokens:,}",
            f"{report.bytes_per_token:.3f}",
            "" if report.fertility is None else f"{report.fertility:.3f}",
            f"{report.byte_fallback_share:.3%}",
            f"{report.num_round_trip_failures:,}",
        )
    _print(table)
    for report in reports:
        if report.first_failure:
            click.echo(f"{report.domain}: first text not given back: {report.first_failure}")


@commands.command("sample-corpus")
@click.option(
    "--output", metavar="DIR", required=True, help="Gets train/ and held_out/ with code.jsonl and prose.jsonl."
)
@click.option(
    "--max-megabytes",
    type=click.FloatRange(min=0, min_open=True),
    default=DEFAULT_MAX_BYTES_PER_DOMAIN / 1e6,
    show_default=True,
    help="Most text per domain, in millions of bytes.",
)
def sample_corpus(output: str, max_megabytes: float) -> None:
    """Make a small corpus from this Python.

    Code and prose of its standard library, in train/ and held_out/; no internet is needed.
    """
    for name, num_bytes in make_sample_corpus(output, round(max_megabytes * 1e6)).items():
        click.echo(f"{Path(output) / name}: {num_bytes:,} bytes of text")


def _print(table: Table) -> None:
    # In a pipe or a log there is no width to fit: a cut number or path would be of no use.
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        code = commands.main(args=arguments, prog_name="python -m tokenizer", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as problem:
        problem.show()
        return EXIT_INPUT
    except ValueError as problem:
        click.echo(f"error: {problem}", err=True)
        return EXIT_INPUT
    except click.Abort:
        return EXIT_INTERRUPTED
    except Exception:
        traceback.print_exc()
        return EXIT_CRASH


if __name__ == "__main__":
    sys.exit(main())
