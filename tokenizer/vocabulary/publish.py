"""A new tokenizer's folder appears complete, or not at all."""

import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from fanal.errors import UserError, user_path
from fanal.files import sync, sync_path, writing
from fanal.new_files import create_file
from fanal.records import sealed, write_record
from tokenizer.vocabulary.engine import open_engine
from tokenizer.vocabulary.folder import INFO_NAME, OWN_HASH, Tokenizer
from tokenizer.vocabulary.imported import ImportedInfo
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.trained import TokenizerInfo


def check_output(output_dir: Path) -> None:
    """Check, before any work, that nothing is there. Raises: UserError."""
    with user_path(output_dir):
        exists = output_dir.exists()
    if exists:
        raise UserError(
            f"output folder {output_dir} exists, and a tokenizer is never overwritten (shards depend on it); "
            "remove it or name another --output"
        )


def publish(
    output_dir: Path, files: dict[str, bytes], info: TokenizerInfo | ImportedInfo, *, mode: int = 0o666
) -> Tokenizer:
    """Write the folder and open it, with the fast engine proved on its whole vocabulary.

    Args: info: its tokenizer-info.json, in which ``proved_engine`` and its own hash are filled in; mode: of the files, as
        ``create_file``. Raises: as ``load_tokenizer``.
    """
    with writing(output_dir):
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own, as of tempfile.mkdtemp, whose folders are for one's own eyes: this one is as umask wants it.
        part = output_dir.with_name(f"{output_dir.name}.{secrets.token_hex(4)}.part")
        part.mkdir()
    try:
        for name, content in files.items():
            with create_file(part / name, mode=mode) as stream:
                stream.write(content)
                sync(stream)
        _write_info(part, info)
        engine = open_engine(load_tokenizer(part))  # what is published opens
        _write_info(part, replace(info, proved_engine=engine.name))
        with writing(output_dir):
            part.rename(output_dir)
            sync_path(output_dir.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return load_tokenizer(output_dir)


def _write_info(folder: Path, info: TokenizerInfo | ImportedInfo) -> None:
    write_record(folder / INFO_NAME, sealed(info, OWN_HASH))
