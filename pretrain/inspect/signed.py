"""``fanal sign``: which file stands for an export, a checkpoint or a shard, so that its signature covers all of it."""

import os
from pathlib import Path

from fanal.console import Console
from fanal.errors import DamageError, UserError, user_path
from fanal.run_folder import MANIFEST, checkpoints_dir
from fanal.signatures import read_private_key, sign_file
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.checkpoint.disk.verify import is_checkpoint, real_path, verify_checkpoint
from pretrain.convert.theirs.certified import CERTIFICATE, DamagedExportError, read_certified
from pretrain.inspect.verify_export import export_problems
from pretrain.inspect.verify_json import verify_json
from tokenizer.shards.manifest import DamagedShardError, prefix_of, shard_paths
from tokenizer.verify_shards import verify as verify_shards

KINDS = "an export's folder, a checkpoint's folder, the prefix of a shard, or a file that ends in .json"


def is_shard(path: Path) -> bool:
    """Whether a path is the prefix of a shard, or one of its files."""
    files = shard_paths(prefix_of(path))
    return not path.is_dir() and files[0].is_file() and files[2].is_file()


def signed_file(path: Path) -> Path:
    """Return the file that names the bytes of all others with their hashes: the one to sign. Raises: UserError."""
    with user_path(path):
        if os.path.lexists(path / CERTIFICATE):
            return path / CERTIFICATE
        if is_checkpoint(path):
            return real_path(path) / MANIFEST
        if is_shard(path):
            return shard_paths(prefix_of(path))[2]
        if path.is_file() and path.suffix == ".json":
            return path
    newest = checkpoints_in(checkpoints_dir(path))[:1]
    works = (
        f"its newest checkpoint, {newest[0]}, works" if newest else "my/export works once `fanal export` has written it"
    )
    raise UserError(f"PATH ({path}) must be {KINDS}; {works}")


def sign(path: Path, key_file: str) -> Path:
    """Sign an export, a checkpoint or a shard, once it is found to be as it was written, and return the signature's path.

    Of an export every byte is read; of checkpoints and shards all but tensors and tokens, whose sizes are compared.
    Raises: UserError, DamageError.
    """
    key = read_private_key(key_file)
    file = signed_file(path)
    if file.name == CERTIFICATE and (certified := read_certified(file.parent)) is not None:
        for problem in export_problems(certified):
            raise DamagedExportError(problem)
    elif is_checkpoint(file.parent) and file.name == MANIFEST:
        for problem in verify_checkpoint(file.parent, deep=False).problems:
            raise DamagedCheckpointError(problem)
    elif is_shard(file):
        for problem in verify_shards([prefix_of(file)])[0].problems:
            raise DamagedShardError(problem)
    else:
        for problem in verify_json(file, Console(), may_have_none=True):
            raise DamageError(problem)
    return sign_file(file, key)
