"""The run folder: there, and writable, before any rank starts to write."""

import tempfile
from pathlib import Path


def open_run_dir(run_dir: str | Path) -> Path:
    """Make the run folder if it is not there. Every rank may call it.

    Raises: ValueError if it cannot be made or written to.
    """
    folder = Path(run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"run_dir ({run_dir}) must be a folder that can be made and written to: {error.strerror}; "
            f"run_dir=runs/{folder.name or 'mine'} works where the current folder is writable"
        ) from None
    return folder
