"""``fanal plan --ladder``: what its options mean."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from fanal.errors import UserError
from fanal.shown import shown
from launch.planning.calibration import CalibrationRequest, calibrated_machine
from launch.planning.ladder_options import LadderRequest
from launch.planning.place import Place, where
from pretrain.config.load import load_run
from pretrain.config.scale import parse_scale
from pretrain.plan.ladder import PARTS, Wish, ladder, size_of
from pretrain.plan.ladder_files import check_ladder_folder, write_ladder
from pretrain.plan.ladder_fit import fit_ladder
from pretrain.plan.ladder_runs import read_ladder
from pretrain.plan.ladder_table import fit_json, fit_lines, ladder_json, ladder_lines


def make_ladder(
    config: str,
    overrides: Sequence[str],
    folder: Path,
    asked: LadderRequest,
    place: Place,
    *,
    calibration: CalibrationRequest,
    as_json: bool,
) -> str:
    """Write a ladder into a folder, or fit the one that is there, and return what to print. Raises: UserError."""
    run = load_run(config, overrides)
    if asked.fit:
        found = fit_ladder(config, run, read_ladder(folder, run))
        return fit_json(found) if as_json else "\n".join(fit_lines(found))
    check_ladder_folder(folder)
    wish = _wish(asked)
    machine, num_gpus, said = None, 1, ""
    if place != Place():
        nodes = where(place)
        made = calibrated_machine(nodes, calibration)
        machine, said = made.machine, made.said
        num_gpus = nodes.num_gpus
    rungs = ladder(run, wish, folder.name, machine, num_gpus)
    write_ladder(folder, config, rungs)
    own = size_of(run)
    return ladder_json(config, own, rungs, said) if as_json else "\n".join(ladder_lines(config, own, rungs, said))


def _wish(asked: LadderRequest) -> Wish:
    if asked.parts is not None and asked.rung_flops is not None:
        raise UserError(
            f"--rung-flops ({asked.rung_flops}) stands in place of --parts ({asked.parts}); leave one of them out"
        )
    return Wish(
        parts=PARTS if asked.parts is None else _parts(asked.parts),
        ratios=_numbers("--tokens-per-parameter", asked.tokens_per_parameter, "20,40,80", most=1e9),
        budgets=_numbers("--rung-flops", asked.rung_flops, "1e18,1e19", most=1e30),
    )


def _parts(text: str) -> tuple[Fraction, ...]:
    listed = _listed(text)
    if not all(listed):
        works = ",".join(one for one in listed if one) or "1/64,1/16"
        raise UserError(f"--parts ({shown(text, 60)}) must have a part between its commas; --parts {works} works")
    return tuple(parse_scale(one, "--parts") for one in listed)


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",")]


def _numbers(option: str, text: str | None, example: str, *, most: float) -> tuple[float, ...]:
    """Return the numbers of a list. Raises: UserError unless each is above 0 and at most ``most``."""
    if text is None:
        return ()
    try:
        numbers = tuple(float(one) for one in _listed(text))
    except ValueError:
        numbers = (math.nan,)
    if not all(0 < one <= most for one in numbers):
        raise UserError(
            f"{option} ({shown(text, 60)}) must be numbers above 0 and at most {most:g}, with commas; {option} {example} works"
        )
    return numbers
