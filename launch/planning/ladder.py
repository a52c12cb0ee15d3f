"""``fanal plan --ladder``: what its options mean."""

import math
from collections.abc import Sequence
from pathlib import Path

from fanal.errors import UserError
from fanal.shown import shown
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
    config: str, overrides: Sequence[str], asked: LadderRequest, place: Place, *, alone: bool, as_json: bool
) -> str:
    """Write a ladder, or fit the one that is there, and return what to print.

    Args: alone: whether no option stands beside it that has no meaning for a ladder.
    Raises: UserError.
    """
    folder = _folder(asked, alone=alone)
    run = load_run(config, overrides)
    has_machine = place != Place()
    if asked.fit:
        if has_machine or asked != LadderRequest(ladder=folder, fit=True):
            raise UserError(
                "--fit reads the ladder that is there: leave out --parts, --tokens-per-parameter, --rung-flops and the machine; "
                f"fanal plan {config} --ladder {folder} --fit works"
            )
        found = fit_ladder(config, run, read_ladder(folder, run))
        return fit_json(found) if as_json else "\n".join(fit_lines(found))
    check_ladder_folder(folder)
    wish = _wish(asked)
    nodes = where(place) if has_machine else None
    machine, num_gpus = (nodes.machine, nodes.num_gpus) if nodes is not None else (None, 1)
    rungs = ladder(run, wish, folder.name, machine, num_gpus)
    write_ladder(folder, config, rungs)
    own = size_of(run)
    return ladder_json(config, own, rungs) if as_json else "\n".join(ladder_lines(config, own, rungs))


def _folder(asked: LadderRequest, *, alone: bool) -> Path:
    """Return the folder of the ladder. Raises: UserError if there is none, or something stands beside it that may not."""
    if asked.ladder is None:
        found = {
            "--parts": asked.parts,
            "--tokens-per-parameter": asked.tokens_per_parameter,
            "--rung-flops": asked.rung_flops,
        }
        words = next((f"{name} ({value})" for name, value in found.items() if value is not None), "--fit")
        raise UserError(f"{words} must stand beside --ladder, which names a folder; --ladder ladder works")
    if not alone:
        raise UserError(
            "--ladder takes no --write, --scaling, --document-tokens, --calibrate, --no-calibration, nor an option of a whole run "
            "(--tokens, --slice-hours, --qos, --failures-per-1000-gpu-hours, --own); "
            f"--ladder {asked.ladder} alone works, and beside it --gpus 8 --gpu h100"
        )
    return asked.ladder


def _wish(asked: LadderRequest) -> Wish:
    if asked.parts is not None and asked.rung_flops is not None:
        raise UserError(
            f"--rung-flops ({asked.rung_flops}) stands in place of --parts ({asked.parts}); leave one of them out"
        )
    parts = PARTS if asked.parts is None else tuple(parse_scale(one, "--parts") for one in _listed(asked.parts))
    return Wish(
        parts=parts,
        ratios=_numbers("--tokens-per-parameter", asked.tokens_per_parameter, "20,40,80", most=1e9),
        budgets=_numbers("--rung-flops", asked.rung_flops, "1e18,1e19", most=1e30),
    )


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
