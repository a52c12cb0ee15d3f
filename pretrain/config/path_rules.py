"""Rules of the paths of a run. Each error names the key, its value, the rule and a value that works."""

import re

from fanal.errors import UserError
from fanal.interpolations import may_be_read
from fanal.shown import shown
from pretrain.config.number_rules import values_of
from pretrain.config.schema import RunConfig

VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")
WRONG_LETTERS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\ud800-\udfff]")
"""Control characters, and bytes that are not UTF-8: Python keeps such a byte as half a surrogate pair."""


def paths_of(run: RunConfig) -> dict[str, str]:
    """Every path that a run reads, by its key."""
    paths = {"data.tokenizer": run.data.tokenizer}
    paths |= {f"data.train[{number}].prefix": source.prefix for number, source in enumerate(run.data.train)}
    for phase_number, phase in enumerate(run.data.phases):
        paths |= {
            f"data.phases[{phase_number}].train[{number}].prefix": source.prefix
            for number, source in enumerate(phase.train)
        }
    paths |= {f"data.validation[{number}].prefix": source.prefix for number, source in enumerate(run.data.validation)}
    if run.checkpoint.init_from is not None:
        paths["checkpoint.init_from"] = run.checkpoint.init_from
    return paths


def check_path_texts(run: RunConfig) -> None:
    """Refuse what only a shell fills in: nobody does so in a config, and a folder named $SCRATCH or ~ would be made. Refuse an
    empty run_dir, too, such as of a variable that was not set: it would be the current folder. Refuse letters that no name has.

    Raises: UserError naming the first such path.
    """
    for key, text in values_of(run):
        if isinstance(text, str):
            _check_letters(key, text)
            _check_filled_in(key, text)
    if not run.run_dir.strip():
        raise UserError(f"run_dir ({run.run_dir!r}) must not be empty; run_dir=runs/mine works")
    for key, path in {"run_dir": run.run_dir, **paths_of(run)}.items():
        variable = VARIABLE.search(path)
        if variable:
            value = f"${{oc.env:{variable[1]}}}" if may_be_read(variable[1]) else "/a/folder"
            what, works = variable[0], path.replace(variable[0], value)
        elif path.startswith("~"):
            user, slash, rest = path[1:].partition("/")
            what = f"~{user}"
            works = f"/home/{user}{slash}{rest}" if user else f"${{oc.env:HOME}}{slash}{rest}"
        else:
            continue
        raise UserError(
            f"{key} ({path}) must not hold {what}, which only a shell expands: here it would be the name of a folder; "
            f"'{works}' works, or another absolute path"
        )


def _check_filled_in(key: str, text: str) -> None:
    """Refuse what a variable brought in: whoever reads the resolved config would have it filled in once more."""
    if "${" in text:
        raise UserError(
            f"{key} ({shown(text)}) must hold no ${{ once its variables are filled in; look at their values, or write the text out"
        )


def _check_letters(key: str, text: str) -> None:
    """Refuse control characters, NUL among them, and bytes that are not UTF-8: no path or log could hold them in one line."""
    wrong = WRONG_LETTERS.findall(text)
    if wrong:
        kind = "a byte that is not UTF-8" if wrong[0] >= "\ud800" else "a control character"
        what = "a NUL character" if "\0" in wrong else kind
        works = "".join(letter for letter in text if letter not in wrong) or "mine"
        raise UserError(f"{key} ({shown(text)}) must not hold {what}; {shown(works)} works")
