"""Drafts are written to a folder: all of them are filled before the first is written, and each file is complete or absent."""

import os
from collections.abc import Sequence
from pathlib import Path

from fanal.errors import UserError, user_path
from fanal.files import write_whole, writing
from fanal.shown import shown
from pretrain.convert.ours.target import harm_of
from pretrain.convert.theirs.certified import CERTIFICATE
from pretrain.drafts.facts import Facts
from pretrain.drafts.registry import DRAFTS, Draft


def chosen(names: Sequence[str]) -> list[Draft]:
    """Return the drafts of these names, in the order of the registry; all, if none is named. Raises: UserError."""
    known = {draft.name: draft for draft in DRAFTS}
    for name in names:
        if name not in known:
            raise UserError(
                f"--only ({shown(name)}) must be one of {', '.join(known)}; --only {next(iter(known))} works"
            )
    return [draft for name, draft in known.items() if not names or name in names]


def _check_folder(folder: Path) -> None:
    """Refuse what is no folder, and a folder whose files are all named elsewhere. Raises: UserError."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"--to ({folder}) must be a folder, or not be there yet; --to {folder}-drafts works")
    if (harm := harm_of(folder / "drafts")) is not None:
        raise UserError(f"--to ({folder}) {harm}")
    if os.path.lexists(folder / CERTIFICATE):
        raise UserError(
            f"--to ({folder}) must not be an export, whose {CERTIFICATE} names every file of it; --to {folder}-drafts works"
        )


def write_drafts(drafts: Sequence[Draft], facts: Facts, folder: Path, *, overwrite: bool) -> list[Path]:
    """Write drafts, and return their paths. The folder is made if it is not there.

    Raises: UserError if a file is there already and may not be replaced, or if the place cannot be written.
    """
    paths = [folder / draft.file_name for draft in drafts]
    with user_path(folder):
        _check_folder(folder)
        for path in paths:
            if path.is_dir():
                raise UserError(
                    f"--to ({folder}) must not hold a folder of the name {path.name}; --to {folder}-2 works"
                )
        there = [path for path in paths if os.path.lexists(path)]
    if there and not overwrite:
        raise UserError(
            f"--to ({folder}) must not hold {there[0].name} yet, which somebody may have filled in; --to {folder}-2 works, or "
            "--overwrite replaces it"
        )
    texts = [draft.render(facts) for draft in drafts]
    with writing(folder, note="--to drafts makes a folder in the current one"), user_path(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, texts, strict=True):
            write_whole(path, text)
    return paths
