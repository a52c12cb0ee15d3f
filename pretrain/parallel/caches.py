"""Where compilers keep what they have compiled: code, and pickles, that the next process runs without asking whose they are.

Their folders have names that everybody knows: PyTorch's own is /tmp/torchinductor_USER, those of sites are similar. Imports nothing
heavy.
"""

import getpass
import os
import sys
import tempfile
from pathlib import Path

from fanal.private_folder import private_folder

INDUCTOR, TRITON = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"


def use_private_caches() -> None:
    """Have this process, and those that it starts, compile into folders that are this user's alone.

    A folder that somebody else could have filled is left alone, a new one is taken, and a line on standard error says so.
    TRITON_CACHE_DIR stays unset where it is: Triton's own folder lies in the user's home.
    """
    stated = {INDUCTOR: os.environ.get(INDUCTOR) or f"{tempfile.gettempdir()}/torchinductor_{_user()}"}
    if os.environ.get(TRITON):
        stated[TRITON] = os.environ[TRITON]
    for name, value in stated.items():
        folder, why = private_folder(Path(value))
        os.environ[name] = str(folder)
        if why:
            print(
                f"warning: {name} ({value}) is not used, since {why}; {folder} is, which is new",
                file=sys.stderr,
                flush=True,
            )


def _user() -> str:
    try:
        return getpass.getuser().replace("/", "_")
    except (KeyError, OSError):
        return f"uid_{os.getuid()}"
