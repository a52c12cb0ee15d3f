"""What ``fanal plan`` is asked for, and which of its options then say something. All others are refused by name."""

from collections.abc import Mapping, Sequence

import click
from click.core import ParameterSource

from fanal.errors import UserError
from fanal.shown import shown

PLACE = ("--gpus", "--gpu", "--site", "--nodes")
OF_A_LADDER = ("--parts", "--tokens-per-parameter", "--rung-flops", "--fit")
"""Options that stand beside --ladder alone."""
TAKEN: Mapping[str, tuple[str, ...]] = {
    "--scaling": (*PLACE, "--calibrate", "--no-calibration"),
    "--ladder": (*PLACE, "--no-calibration", "--parts", "--tokens-per-parameter", "--rung-flops", "--json"),
    "--fit": ("--ladder", "--json"),
}
"""Of each table that stands in place of a plan, the options that it takes. A plan takes all but these tables' own."""


def stated_options(context: click.Context) -> dict[str, object]:
    """Return the options that stand in the command line, by their names, with their values."""
    return {
        parameter.opts[0]: context.params[parameter.name]
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
        and parameter.name is not None
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    }


def check_options(stated: Mapping[str, object]) -> None:
    """Refuse options that do nothing beside what is asked for. Raises: UserError naming them all, and what works."""
    if "--ladder" in stated:
        mode = "--fit" if "--fit" in stated else "--ladder"
    elif "--scaling" in stated:
        mode = "--scaling"
    else:
        return _check_plan(stated)
    idle = [name for name in stated if name != mode and name not in TAKEN[mode]]
    if idle:
        raise UserError(
            f"{_listed(stated, idle)} must be left out beside {mode}, which takes {', '.join(TAKEN[mode])} alone; the same "
            f"command without {' and '.join(idle)} works"
        )
    if mode == "--ladder" and "--no-calibration" in stated and not any(name in stated for name in PLACE):
        raise UserError(
            "--no-calibration must stand beside a machine, whose times it is about; --gpus 8 --gpu h100 works, and so does the "
            "same command without --no-calibration"
        )
    return None


def _check_plan(stated: Mapping[str, object]) -> None:
    of_ladder = [name for name in OF_A_LADDER if name in stated]
    if of_ladder:
        refused = [name for name in stated if name not in (*TAKEN["--ladder"], *TAKEN["--fit"], "--fit")]
        without = f" in place of {' and '.join(refused)}" if refused else ""
        raise UserError(
            f"{_listed(stated, of_ladder)} must stand beside --ladder, which names a folder; --ladder ladder{without} works"
        )
    shown_layouts, rehearsed = stated.get("--top"), stated.get("--rehearse")
    if isinstance(rehearsed, int) and isinstance(shown_layouts, int) and rehearsed > shown_layouts > 0:
        raise UserError(
            f"--rehearse ({rehearsed}) must be at most --top ({shown_layouts}), the layouts that are shown; "
            f"--top {rehearsed} works"
        )


def _listed(stated: Mapping[str, object], names: Sequence[str]) -> str:
    return " and ".join(name if stated[name] is True else f"{name} ({_value(stated[name])})" for name in names)


def _value(value: object) -> str:
    return shown(", ".join(map(str, value)) if isinstance(value, tuple) else str(value), 60).strip("'\"")
