"""Command line of the tokenizer package: parse the arguments, call one function, print, return an exit code.

Exit codes: 0 done; 2 the input is wrong; 70 a crash, or an error that another try may not meet; 76 a shard failed
verification (fanal/errors.py).
"""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from fanal.command_group import CommandGroup, ManyInputsCommand, complete_path
from fanal.console import print_table
from fanal.errors import UserError, run_guarded
from fanal.exit_codes import CRASH, DAMAGED, INTERRUPTED, WRONG_INPUT
from fanal.files import write_bytes_durably
from fanal.shown import on_one_line
from tokenizer import search_commands
from tokenizer.column_options import column_fields, column_options
from tokenizer.common_options import prefixes_argument, tokenizer_option
from tokenizer.documents.input_files import find_inputs
from tokenizer.documents.parse import Fields
from tokenizer.documents.sample_corpus import DEFAULT_MAX_BYTES_PER_DOMAIN, make_sample_corpus
from tokenizer.encoding import encode as encode_module
from tokenizer.encoding import merge as merge_module
from tokenizer.new_file import check_new_file
from tokenizer.notes import imported_line, say_found, say_of_model_alone, say_report
from tokenizer.part_option import PartType
from tokenizer.removal_commands import check_overlap, exclude
from tokenizer.shards import adopt as adopt_module
from tokenizer.shards.labels import Labels
from tokenizer.shards.manifest import prefix_of, prefixes_of
from tokenizer.tables import check_table, verify_table
from tokenizer.verify_shards import verify as verify_shards
from tokenizer.vocabulary import check as check_module
from tokenizer.vocabulary.engine import ENGINES
from tokenizer.vocabulary.import_folder import import_tokenizer
from tokenizer.vocabulary.spec import load_spec
from tokenizer.vocabulary.train import train_tokenizer

input_option = click.option(
    "--input",
    "inputs",
    metavar="FILE...",
    shell_complete=complete_path,
    multiple=True,
    required=True,
    help="Files of documents, or folders; several may follow.",
)
text_field_option = click.option("--text-field", default="text", show_default=True, help="Field that holds the text.")


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def commands() -> None:
    """Train or import a tokenizer, encode documents to token shards, check both, and search them."""


@commands.command(cls=ManyInputsCommand)
@click.argument("spec", metavar="SPEC.yaml", shell_complete=complete_path)
@input_option
@click.option(
    "--output",
    metavar="DIR",
    shell_complete=complete_path,
    required=True,
    help="Folder to write the tokenizer to; it must not exist.",
)
@text_field_option
def train(spec: str, inputs: tuple[str, ...], output: str, text_field: str) -> None:
    """Train a SentencePiece BPE tokenizer, and write it as tokenizer.json for Hugging Face's tokenizers too.

    A small spec is tokenizer/specs/tiny-2k.yaml; its keys are explained in tokenizer/vocabulary/spec.py.
    """
    tokenizer = train_tokenizer(load_spec(spec), inputs, output, text_field)
    for sample in tokenizer.trained_on:
        of = f"{sample.num_characters:,} of {sample.num_available_characters:,} characters"
        click.echo(f"{on_one_line(sample.language)}: {of}, from {sample.num_documents:,} documents")
    click.echo(f"{output}: {tokenizer.vocab_size} tokens, model sha256 {tokenizer.model_sha256}")
    say_found(find_inputs(inputs))


@commands.command("import")
@click.argument("hf_dir", metavar="HF_DIR", shell_complete=complete_path)
@click.option(
    "--output",
    metavar="DIR",
    shell_complete=complete_path,
    required=True,
    help="Folder to write the tokenizer to; it must not exist.",
)
@click.option("--bos-token", metavar="TOKEN", help="Token that starts documents, where the files do not say.")
@click.option("--eos-token", metavar="TOKEN", help="Token that ends documents, where the files do not say.")
def import_(hf_dir: str, output: str, bos_token: str | None, eos_token: str | None) -> None:
    """Take over the tokenizer of a Hugging Face folder.

    Its files (tokenizer.json, or tokenizer.model without one) are kept byte for byte. Text is encoded with them, and an export of a
    model that was trained on it has them.
    """
    tokenizer = import_tokenizer(hf_dir, output, bos_token=bos_token, eos_token=eos_token)
    click.echo(imported_line(output, tokenizer))
    say_of_model_alone(hf_dir, tokenizer)


def labels_options(command: Callable) -> Callable:
    """Add the options that label all documents of a shard."""
    for name, text in (
        ("source", "Where the documents come from."),
        ("language", "BCP 47 tag of all documents, such as fr; default: the field of each document."),
        ("licence", "SPDX licence of all documents; default: the field of each document."),
        ("domain", "Kind of text of all documents; default: the field of each document."),
    ):
        command = click.option(f"--{name}", metavar="TEXT", help=text)(command)
    return command


@commands.command(cls=ManyInputsCommand)
@tokenizer_option()
@input_option
@click.option(
    "--output",
    metavar="PREFIX",
    shell_complete=complete_path,
    required=True,
    help="Writes PREFIX.bin, PREFIX.idx and PREFIX.json.",
)
@text_field_option
@click.option("--domain-field", default="domain", show_default=True, help="Field that holds the kind of text.")
@click.option("--licence-field", default="licence", show_default=True, help="Field that holds the licence.")
@click.option("--language-field", default="language", show_default=True, help="Field that holds the language.")
@column_options
@click.option(
    "--txt-documents",
    type=click.Choice(["file", "line"]),
    default="file",
    show_default=True,
    help="Whether one document is a complete .txt file or each of its lines.",
)
@click.option(
    "--bos/--no-bos", default=None, help="Start each document with BOS. Default: as the tokenizer starts a text."
)
@click.option("--eos/--no-eos", default=True, show_default=True, help="End each document with EOS.")
@labels_options
@click.option(
    "--shuffle-seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Put the documents in a random order; default: the order of the input.",
)
@click.option("--part", type=PartType(), help="Encode part I of N, on one machine of many; `merge` joins the parts.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Number of processes. Default: the cores this process may use."
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="At a document that cannot be read: stop, or skip, count and list it.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    show_default=True,
    help="auto: gigatoken where it gives the ids of the tokenizer's own library, else that library.",
)
def encode(directory: str, inputs: tuple[str, ...], output: str, **options: Any) -> None:
    """Encode documents to one shard.

    Inputs are .jsonl, .json (JSON lines too), .txt (all of them also .gz or .zst) and .parquet files, or folders of them. All
    documents must have the same domain and licence, unless --domain and --licence give them.
    """
    report = encode_module.encode(
        directory,
        inputs,
        output,
        options["bos"],
        options["eos"],
        fields=Fields(
            text=options["text_field"],
            domain=options["domain_field"],
            licence=options["licence_field"],
            language=options["language_field"],
        ),
        labels=Labels(**{name: options[name] for name in ("domain", "licence", "language", "source")}),
        txt_documents=options["txt_documents"],
        on_error=options["on_error"],
        engine=options["engine"],
        shuffle_seed=options["shuffle_seed"],
        part=options["part"],
        num_workers=options["workers"],
        columns=column_fields(options),
    )
    manifest = report.manifest
    click.echo(
        f"{output}: {manifest.num_documents:,} documents, {manifest.num_tokens:,} tokens of {manifest.dtype} "
        f"({manifest.options.engine}, {report.num_checked:,} documents checked against {report.oracle})"
    )
    say_report(output, report)


@commands.command()
@prefixes_argument("PART_PREFIX...", "parts")
@click.option(
    "--output",
    metavar="PREFIX",
    shell_complete=complete_path,
    required=True,
    help="Writes PREFIX.bin, PREFIX.idx and PREFIX.json.",
)
def merge(parts: tuple[str, ...], output: str) -> None:
    """Join all parts of one encode run.

    The shard is the one that `encode` without --part would have written, byte for byte.
    """
    manifest = merge_module.merge(prefixes_of(parts), output)
    click.echo(f"{output}: {manifest.num_documents:,} documents, {manifest.num_tokens:,} tokens of {manifest.dtype}")


@commands.command()
@click.argument("prefix", metavar="PREFIX", shell_complete=complete_path)
@tokenizer_option()
@click.option(
    "--ids-of-another-tokenizer",
    "has_other_ids",
    is_flag=True,
    help="The ids are not the tokenizer's, on purpose: it stands for one without a folder. Checkpoints say so.",
)
@labels_options
@click.option(
    "--output",
    metavar="PREFIX",
    shell_complete=complete_path,
    help="Write a shard of the same tokens, without empty documents and with one sequence for each, instead.",
)
def adopt(prefix: str, directory: str, has_other_ids: bool, output: str | None, **labels: str | None) -> None:
    """Make the manifest of a shard that Megatron wrote, after reading all of it.

    PREFIX.bin and PREFIX.idx are left as they are.
    """
    manifest = adopt_module.adopt(
        prefix_of(prefix), directory, Labels(**labels), has_other_ids=has_other_ids, output=output
    )
    if manifest.num_skipped:
        click.echo(f"{prefix}: left out {manifest.num_skipped:,} documents without a token", err=True)
    click.echo(
        f"{output or prefix}: {manifest.num_documents:,} documents, {manifest.num_tokens:,} tokens of {manifest.dtype}"
    )


@commands.command()
@prefixes_argument()
@click.option("--deep", is_flag=True, help="Read everything: hashes, ids, offsets.")
@tokenizer_option("Also check that this tokenizer made them.", required=False)
def verify(prefixes: tuple[str, ...], deep: bool, directory: str | None) -> None:
    """Check shards against their manifests.

    The exit code is 76 if one fails; else 70 if one could not be read for now.
    """
    results = verify_shards(prefixes_of(prefixes), deep, directory)
    print_table(verify_table(results))
    for note in [result.note for result in results if result.note is not None]:
        click.echo(f"note: {on_one_line(note)}", err=True)
    problems = [problem for result in results for problem in result.problems]
    for problem in problems:
        click.echo(f"error: {on_one_line(problem)}", err=True)
    if problems:
        raise click.exceptions.Exit(DAMAGED if any(result.failed for result in results) else CRASH)


@commands.command(cls=ManyInputsCommand)
@tokenizer_option()
@input_option
@text_field_option
@click.option(
    "--by", type=click.Choice(["domain", "language"]), default="domain", show_default=True, help="One row for each."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--output", metavar="FILE.json", shell_complete=complete_path, help="Write the JSON to this file as well."
)
def check(
    directory: str,
    inputs: tuple[str, ...],
    text_field: str,
    by: check_module.GroupBy,
    as_json: bool,
    output: str | None,
) -> None:
    """Measure how a tokenizer fits documents.

    By domain or language: round trip, bytes per token, fertility (tokens per word), share of byte fallback, and the
    documents to which tokenizer.json gives other ids, if Hugging Face's tokenizers is installed.
    """
    if output is not None:
        check_new_file("--output", Path(output))
    reports = check_module.check_tokenizer(directory, inputs, text_field, by)
    content = {"tokenizer": directory, "by": by, "groups": [report.as_dict() for report in reports]}
    as_text = json.dumps(content, indent=2, ensure_ascii=False)
    if output is not None:
        write_bytes_durably(Path(output), (as_text + "\n").encode("utf-8"))
    say_found(find_inputs(inputs))
    if as_json:
        click.echo(as_text)
        return
    print_table(check_table(by, reports))
    for report in reports:
        if report.first_failure:
            click.echo(f"{on_one_line(report.name)}: first text that decoding does not restore: {report.first_failure}")


@commands.command("sample-corpus")
@click.option(
    "--output",
    metavar="DIR",
    shell_complete=complete_path,
    required=True,
    help="Folder to write train/ and validation/ to, with code.jsonl and prose.jsonl.",
)
@click.option(
    "--max-megabytes",
    type=click.FloatRange(min=0, min_open=True),
    default=DEFAULT_MAX_BYTES_PER_DOMAIN / 1e6,
    show_default=True,
    help="Largest amount of text per domain, in millions of bytes.",
)
def sample_corpus(output: str, max_megabytes: float) -> None:
    """Make a small corpus from the standard library of this Python.

    Code and prose, in train/ and validation/; no internet is needed.
    """
    if not max_megabytes <= 1e6:  # nan is no number, and no standard library has a terabyte
        raise UserError(f"--max-megabytes ({max_megabytes:g}) must be at most 1,000,000; --max-megabytes 4 works")
    for name, num_bytes in make_sample_corpus(output, round(max_megabytes * 1e6)).items():
        click.echo(f"{Path(output) / name}: {num_bytes:,} bytes of text")


search_commands.add_to(commands)
commands.add_command(exclude)
commands.add_command(check_overlap)


def _end_cleanly(*_: object) -> NoReturn:
    """End through SystemExit when a scheduler sends SIGTERM, so that half-written files are removed as at Ctrl-C."""
    raise SystemExit(128 + signal.SIGTERM)


def main(arguments: list[str] | None = None, *, prog_name: str = "python -m tokenizer") -> int:
    """Run one command; returns the exit code."""
    signal.signal(signal.SIGTERM, _end_cleanly)
    return run_guarded(lambda: _run(arguments, prog_name))


def _run(arguments: list[str] | None, prog_name: str) -> int:
    try:
        code = commands.main(args=arguments, prog_name=prog_name, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as problem:
        problem.show()
        return WRONG_INPUT
    except click.Abort:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
