"""A ladder as a folder of configs, one for each rung, that every command takes."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from fanal.errors import UserError, user_path
from fanal.files import part_path, sync_path, write_whole, writing
from fanal.shown import on_one_line
from pretrain.config.load import to_yaml
from pretrain.plan.ladder import Rung


def check_ladder_folder(folder: Path) -> None:
    """Refuse a folder that could not be made, or that is there already. Raises: UserError."""
    with user_path(folder):
        parent = folder.absolute().parent
        named = folder.name not in ("", "..")
        if named and os.path.lexists(folder):
            raise UserError(
                f"--ladder ({folder}) must not be there yet; --ladder {folder.with_name(folder.name + '-2')} works, and "
                "--fit reads one that is there"
            )
        if not named or not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(
                f"--ladder ({folder}) must name a folder in one that exists and that you may write; --ladder ladder works"
            )


def write_ladder(folder: Path, config: str, rungs: Sequence[Rung]) -> None:
    """Write the rungs' configs, all or none: they get the folder's name when they are complete.

    Raises: UserError or PassingError if the disk does not take them.
    """
    part = part_path(folder)
    with writing(folder):
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir()
        try:
            for rung in rungs:
                said = f"# Rung {rung.name} of a ladder below {on_one_line(config)}: "
                said += f"{rung.size.parameters:,.0f} parameters in layers, "
                said += f"{rung.size.tokens:,.0f} tokens, {rung.size.flops:.3g} FLOPs.\n"
                write_whole(part / f"{rung.name}.yaml", said + to_yaml(rung.run))
            sync_path(part)
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        sync_path(folder.absolute().parent)
