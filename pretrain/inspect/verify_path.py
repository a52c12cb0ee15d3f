"""``fanal verify PATH``: whatever can be checked, by what it is: a run, a checkpoint, an export, a shard, a JSON file."""

import os
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from fanal.console import Console
from fanal.errors import PassingError, UserError
from fanal.shown import on_one_line
from fanal.signatures import SignatureError, check_signature, read_public_keys, signature_path
from fanal.ssh_signature import PublicKey
from pretrain.checkpoint.disk.verify import is_checkpoint
from pretrain.convert.theirs.certified import CERTIFICATE, Certified
from pretrain.convert.theirs.read_config import CONFIG_JSON
from pretrain.inspect.lineage import Places, lineage
from pretrain.inspect.signed import is_shard, signed_file
from pretrain.inspect.verify import say_problems
from pretrain.inspect.verify import verify as verify_checkpoints
from pretrain.inspect.verify_export import verify_export
from pretrain.inspect.verify_json import verify_json
from tokenizer.shards.manifest import prefix_of
from tokenizer.verify_shards import verify as verify_shards


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to verify, and how."""

    path: Path
    deep: bool = False
    public_key: str | None = None
    """File of the keys of which one must have signed; None checks no signature."""
    places: Places | None = None
    """Where an export came from; None leaves that out."""


def verify_path(wanted: Wanted, console: Console) -> list[str]:
    """Verify what is at a path: tables and lines, and each problem on standard error. Returns: the problems.

    Raises: UserError if there is nothing that can be verified so; DamageError if an export's certificate is not one.
    """
    path = wanted.path
    keys = None if wanted.public_key is None else read_public_keys(wanted.public_key)
    file = None if keys is None else signed_file(path)  # before what takes long
    is_folder_of_hf = (path / CONFIG_JSON).is_file() and not is_checkpoint(path)
    certified = None
    if os.path.lexists(path / CERTIFICATE) or is_folder_of_hf:
        certified, problems = verify_export(path, console)
        say_problems(problems)
    elif wanted.places is not None:
        raise UserError(
            f"--run needs an export, whose certificate names a checkpoint, and PATH ({path}) must be the folder of one; my/export "
            "works once `fanal export` has written it"
        )
    elif is_shard(path):
        problems = _verify_shard(prefix_of(path), wanted.deep, console)
        say_problems(problems)
    elif path.is_file() and path.suffix == ".json":
        problems = verify_json(path, console, may_have_none=keys is not None)
        say_problems(problems)
    else:
        problems = verify_checkpoints(path, wanted.deep, console)
    if keys is not None and file is not None:
        problems += _verify_signature(file, keys, console)
    if certified is not None and wanted.places is not None and not problems:
        problems += _verify_lineage(certified, wanted.places, wanted.deep, console)
    return problems


def _verify_shard(prefix: Path, deep: bool, console: Console) -> list[str]:
    (result,) = verify_shards([prefix], deep)
    if result.cut_short:
        raise PassingError(result.problems[-1])
    table = Table("shard", "documents", "tokens", "finding", show_edge=False, header_style="bold")
    good = "every byte as encoded" if deep else "manifest and sizes as encoded; --deep reads the tokens"
    counts = ("" if number is None else f"{number:,}" for number in (result.num_documents, result.num_tokens))
    table.add_row(on_one_line(prefix.name), *counts, "FAILED" if result.problems else good)
    console.print(table)
    if result.note is not None:
        console.print(on_one_line(result.note), soft_wrap=True)
    return list(result.problems)


def _verify_signature(file: Path, keys: tuple[PublicKey, ...], console: Console) -> list[str]:
    try:
        key = check_signature(file, keys)
    except SignatureError as error:
        say_problems([str(error)])
        return [str(error)]
    console.print(on_one_line(f"signature: {signature_path(file)} is good, by {key.fingerprint}"), soft_wrap=True)
    return []


def _verify_lineage(certified: Certified, places: Places, deep: bool, console: Console) -> list[str]:
    """Print the links of an export to its run and its data. Returns: the problems, said."""
    problems: list[str] = []
    for link in lineage(certified, places, deep=deep):
        finding = "FAILED" if link.problems else link.finding
        console.print(on_one_line(f"{link.what}: {link.where}: {finding}"), soft_wrap=True)
        problems += link.problems
    say_problems(problems)
    return problems
