"""The folder in which the user's settings are, and what is kept for all of a user's runs."""

import os
from pathlib import Path

from fanal.errors import UserError

VARIABLE = "XDG_CONFIG_HOME"
"""Where settings lie, by the XDG Base Directory Specification; ~/.config without it."""


def settings_folder() -> Path:
    """Return the folder, which may not be there yet. Raises: UserError if no home folder is known that it could be in."""
    stated = os.environ.get(VARIABLE)
    try:
        return Path(stated or "~/.config").expanduser() / "fanal"
    except RuntimeError:  # neither HOME nor the system's list of users says one
        named = f"({stated}) must" if stated else "is not set, and without HOME must"
        raise UserError(
            f"{VARIABLE} {named} name the folder of your settings; export {VARIABLE}=/tmp/settings works"
        ) from None
