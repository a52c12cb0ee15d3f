"""A plan, or tables of scaling, for what the options of ``fanal plan`` name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fanal.errors import UserError
from fanal.files import writing
from fanal.target_file import check_target
from launch.planning.calibration import CalibrationRequest, calibrated_machine
from launch.planning.place import Place, where
from launch.planning.scaling_picture import draw
from launch.planning.whole_run import WholeRunRequest, site_facts
from pretrain.config.load import load_run
from pretrain.plan.estimate import StepEstimate
from pretrain.plan.layout_file import write_layout
from pretrain.plan.plan import plan
from pretrain.plan.scaling import scale_up, words
from pretrain.plan.table import Plan
from pretrain.plan.whole_run import failure_rate, whole_run, with_tokens


def make_plan(
    config: str,
    overrides: Sequence[str],
    place: Place,
    *,
    top: int,
    rehearsals: int,
    document_tokens: int | None = None,
    asked: WholeRunRequest = WholeRunRequest(),  # noqa: B008, frozen
    calibration: CalibrationRequest = CalibrationRequest(),  # noqa: B008, frozen
) -> Plan:
    """Return the plan that the command asks for. Args: as the options of ``fanal plan``. Raises: UserError."""
    run = with_tokens(load_run(config, overrides), asked.tokens)
    failures = failure_rate(asked.failures_per_1000_gpu_hours)  # refused before a search takes its time
    nodes = where(place)
    on = calibrated_machine(nodes, calibration)
    facts = site_facts(nodes, run, asked)
    made = plan(config, run, on.machine, nodes.machine_name, num_gpus=nodes.num_gpus, top=top, rehearsals=rehearsals,
                document_tokens=document_tokens)  # fmt: skip
    estimate = _layout_of(made, own=asked.own)
    whole = whole_run(estimate, on.machine, facts, failures=failures, is_own=asked.own)
    on.keep()
    return replace(made, whole_run=whole, calibration=on.said, fitted=on.fitted)


def make_scaling(
    config: str,
    overrides: Sequence[str],
    place: Place,
    *,
    target: Path,
    calibration: CalibrationRequest = CalibrationRequest(),  # noqa: B008, frozen
) -> str:
    """Return the tables of strong and weak scaling, and draw them. Args: as the options of ``fanal plan``. Raises: UserError."""
    check_target("--scaling", target, (".svg",), may_replace=True)
    run = load_run(config, overrides)
    nodes = where(place)
    on = calibrated_machine(nodes, calibration)
    points = scale_up(run, on.machine, nodes.num_gpus)
    draw(target, points, f"Planned scaling of {config} on {on.machine.description}")
    on.keep()
    return "\n".join([*on.fitted, words(points), *([on.said] if on.said else [])])


def write(target: Path, made: Plan) -> None:
    """Write the fastest layout, to a target that ``check_target`` took. Raises: UserError if the disk does not take it."""
    with writing(target):
        write_layout(target, made.best[0], made.machine_name)


def _layout_of(made: Plan, *, own: bool) -> StepEstimate:
    if own and made.own is None:
        raise UserError(
            f"--own plans the whole run in the config's own layout, which does not fit {made.best[0].num_gpus:,} GPUs; without "
            "--own the fastest that fits is taken"
        )
    return made.own if own and made.own is not None else made.best[0]
