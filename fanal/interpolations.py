"""Which ``${...}`` a YAML file may hold: another key of the same file, or one of few variables of the environment.

A colleague's file could name any variable of whoever reads it, a key to a service among them, and its value would go into paths,
logs, scripts and a published model card. omegaconf has more: other resolvers, and text that it reads once more, in which a
variable hides. None of that is read here.
"""

import re
from collections.abc import Iterator
from typing import Any

from fanal.errors import UserError
from fanal.shown import shown

VARIABLES = (
    "HOME", "USER", "LOGNAME", "TMPDIR", "WORK", "SCRATCH", "STORE", "ARCHIVE", "PROJECT", "DATA", "DSDIR", "FAST", "FASTDATA",
    "PUBLIC", "JOBSCRATCH", "LOCAL_SCRATCH", "CINECA_SCRATCH", "PSCRATCH", "CFS",
    "ALL_CCFRWORK", "ALL_CCFRSCRATCH", "ALL_CCFRSTORE", "CCFRWORK", "CCFRSCRATCH", "CCFRSTORE",
    "HOMEDIR", "WORKDIR", "SCRATCHDIR", "STOREDIR", "CCCHOMEDIR", "CCCWORKDIR", "CCCSCRATCHDIR", "CCCSTOREDIR",
)  # fmt: skip
"""Names of users and of places, as the sites of docs/slurm.md, CINECA, JSC, CSC, CINES, CEA and NERSC set them."""
OF_A_JOB = re.compile(r"SLURM_(?!JWT)[A-Z0-9_]+")
"""What Slurm says of a job; all but its token."""
INTERPOLATION = re.compile(r"\$\{")
OF_A_KEY = re.compile(r"\$\{[^:${}\\'\"\s]+\}")
OF_A_VARIABLE = re.compile(r"\$\{oc\.env:\s*([^\s,:${}\\'\"]+)\s*(?:,[^${}\\]*)?\}")


def may_be_read(name: str) -> bool:
    """Whether a file may name this variable of the environment."""
    return name in VARIABLES or OF_A_JOB.fullmatch(name) is not None


def refuse_other_interpolations(tree: Any, *, where: str) -> None:
    """Refuse, before anything is filled in, a text of a tree that would be filled in with more than a file may say.

    Args: tree, of mappings, lists and values, as YAML has them; where, what holds it.
    Raises: UserError naming the key, the text, the rule and what works.
    """
    for key, text in _texts(tree):
        for found in INTERPOLATION.finditer(text):
            variable = OF_A_VARIABLE.match(text, found.start())
            # It would be filled in by whoever reads the resolved file.
            is_escaped = text[: found.start()].endswith("\\")
            if not is_escaped and (OF_A_KEY.match(text, found.start()) or (variable and may_be_read(variable[1]))):
                continue
            if variable and not is_escaped:
                what = (
                    f"must not read the variable {shown(variable[1])}: its value would go into files that others read. Of the "
                    f"environment a file may name {', '.join(VARIABLES)} and SLURM_*, as in ${{oc.env:WORK}}; on the command line "
                    "a shell fills in any other"
                )
            else:
                what = "must hold ${ only as ${key}, another key of the same file, or as ${oc.env:WORK}, a variable"
            raise UserError(f"{where}: {key} ({shown(text)}) {what}; the text written out works")


def first_interpolation(tree: Any) -> tuple[str, str] | None:
    """Return the first text of a tree that would be filled in, with its key; None if there is none, as in a resolved file."""
    return next(((key, text) for key, text in _texts(tree) if INTERPOLATION.search(text)), None)


def refuse_any_interpolation(tree: Any, *, where: str) -> None:
    """Refuse a text that would be filled in, in a file that was written resolved. Raises: UserError naming the key."""
    if found := first_interpolation(tree):
        raise UserError(
            f"{where}: {found[0]} ({shown(found[1])}) must hold no ${{: this file was written with every value filled in, so "
            "somebody has changed it; write the value itself, or begin with the config that it was made from"
        )


def _texts(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a tree with its key; texts that are keys, and what becomes one (a tag can make a path), too."""
    todo = [(key, tree)]
    while todo:
        place, value = todo.pop()
        if isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(name, str) and INTERPOLATION.search(name):
                    yield f"a key of {place or 'it'}", name
                todo.append((f"{place}.{name}" if place else str(name), inner))
        elif isinstance(value, list):
            todo += [(f"{place}[{number}]", inner) for number, inner in enumerate(value)]
        elif not isinstance(value, int | float | None):
            yield place or "its text", str(value)  # as omegaconf makes it, which then fills it in
