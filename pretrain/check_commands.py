"""The commands ``verify`` and ``sign``: whether bytes are those that were written, and whose word that is."""

import sys
from pathlib import Path

import click

from fanal.command_group import complete_path
from fanal.errors import UserError, run_guarded, user_path
from fanal.exit_codes import DAMAGED, FINISHED
from fanal.shown import on_one_line

CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=CONTEXT)
@click.argument("path", shell_complete=complete_path)
@click.option("--deep", is_flag=True, help="Read every byte, and compare hashes and the sums of the weights.")
@click.option(
    "--public-key",
    metavar="FILE",
    shell_complete=complete_path,
    help="Also check the signature, which must be by a key of this file (OpenSSH, Ed25519).",
)
@click.option(
    "--run",
    "run_dir",
    metavar="RUN_DIR",
    shell_complete=complete_path,
    help="Also check that an export came from a checkpoint of this run, and that from its shards.",
)
@click.option(
    "--shards",
    multiple=True,
    metavar="FOLDER",
    shell_complete=complete_path,
    help="With --run: where shards are now, if they were moved. May be repeated.",
)
@click.option("--without-shards", is_flag=True, help="With --run: leave the shards out.")
def verify(
    path: str, deep: bool, public_key: str | None, run_dir: str | None, shards: tuple[str, ...], without_shards: bool
) -> None:
    """Check a checkpoint, every checkpoint of a run, an export, or a shard, against its manifest or certificate.

    Of an export every byte is read, of the others all but tensors and tokens unless --deep is given. PATH may also be a JSON
    file with a hash of itself, such as a ledger. The exit code is 76 if one is damaged, or not signed as it should be. Nothing
    is changed or set aside.
    """
    from fanal.console import Console
    from pretrain.inspect.lineage import Places
    from pretrain.inspect.verify_path import Wanted, verify_path

    def act() -> int:
        if run_dir is None and (shards or without_shards):
            raise UserError("--shards and --without-shards say what --run compares; --run RUN_DIR works with them")
        places = None
        if run_dir is not None:
            places = Places(run=Path(run_dir), shards=tuple(map(Path, shards)), with_shards=not without_shards)
        wanted = Wanted(path=Path(path), deep=deep, public_key=public_key, places=places)
        with user_path(path, *([run_dir] if run_dir else []), *shards):
            return DAMAGED if verify_path(wanted, Console()) else FINISHED

    sys.exit(run_guarded(act))


@click.command(context_settings=CONTEXT)
@click.argument("path", shell_complete=complete_path)
@click.option(
    "--key",
    required=True,
    metavar="FILE",
    shell_complete=complete_path,
    help="Private key of OpenSSH, Ed25519, without a passphrase; ssh-keygen makes one.",
)
def sign(path: str, key: str) -> None:
    """Sign an export, a checkpoint, a shard or a JSON file: a file NAME.sig beside its certificate or manifest.

    What is signed is found to be as it was written first. `ssh-keygen -Y verify -n fanal` checks the signature, and so does
    `fanal verify --public-key`.
    """
    from pretrain.inspect.signed import sign as sign_path

    def act() -> int:
        with user_path(path):
            made = sign_path(Path(path), key)
        print(on_one_line(f"signed {made.with_suffix('')}: {made}"))
        return FINISHED

    sys.exit(run_guarded(act))
