"""The command ``fanal plan``. It stands on this floor because a site says what its nodes are; the arithmetic is pretrain.plan."""

import sys
from pathlib import Path
from typing import Any

import click

from fanal.command_group import complete_path
from fanal.errors import run_guarded
from fanal.exit_codes import FINISHED
from launch.planning.ladder_options import LadderRequest, ladder_options

CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=CONTEXT)
@click.argument("config", shell_complete=complete_path)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--gpus", type=int, metavar="N", help="GPUs of the run, without a site.")
@click.option("--gpu", "gpu", metavar="NAME", help="Kind of GPU, such as h100, or a YAML file of its figures.")
@click.option("--site", "site_name", metavar="NAME", help="A site of launch/sites, or a YAML file.")
@click.option("--nodes", type=int, metavar="N", help="Nodes of the run, with --site.")
@click.option("--top", type=int, default=5, show_default=True, metavar="K", help="Layouts to show, the fastest first.")
@click.option(
    "--rehearse", "rehearsals", type=int, default=1, show_default=True, metavar="N",
    help="Layouts to rehearse, the fastest first: 10 to 30 s each.",
)  # fmt: skip
@click.option(
    "--write", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write the fastest layout here."
)
@click.option("--tokens", type=int, metavar="T", help="Tokens of the whole run, in place of train.train_steps.")
@click.option(
    "--slice-hours", type=float, metavar="H", help="Hours of one job, with --site. Default: all that its QoS allows."
)
@click.option(
    "--failures-per-1000-gpu-hours", "failures", type=float, metavar="F",
    help="Failures that end a job. Default: 0.02, as of Llama 3 on 16,384 H100.",
)  # fmt: skip
@click.option(
    "--qos",
    metavar="NAME",
    help="Quality of service whose slots the jobs have, with --site. Default: as fanal launch takes it.",
)
@click.option(
    "--document-tokens", type=int, metavar="D",
    help="Tokens of a document in the mean, for attention under data.document_mask. Default: as many as a sample.",
)  # fmt: skip
@click.option("--own", is_flag=True, help="Plan the whole run in the layout that CONFIG states, not in the fastest.")
@click.option(
    "--scaling", "picture", type=click.Path(path_type=Path), metavar="FILE",
    help="Strong and weak scaling to 4,096 GPUs instead: a table, and its curves in this SVG file.",
)  # fmt: skip
@click.option(
    "--calibrate", "runs", multiple=True, metavar="RUN_DIR",
    help="Fit the machine's factors to the steps of this run, and keep them; may be repeated, for all at once.",
)  # fmt: skip
@click.option("--no-calibration", is_flag=True, help="Plan without the factors that are kept for the machine.")
@ladder_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def plan(
    context: click.Context,
    config: str,
    overrides: tuple[str, ...],
    gpus: int | None,
    gpu: str | None,
    site_name: str | None,
    nodes: int | None,
    top: int,
    rehearsals: int,
    target: Path | None,
    tokens: int | None,
    slice_hours: float | None,
    qos: str | None,
    failures: float | None,
    document_tokens: int | None,
    own: bool,
    picture: Path | None,
    runs: tuple[str, ...],
    no_calibration: bool,
    as_json: bool,
    **of_ladder: Any,
) -> None:
    """Plan the layout of a run: memory, time of a step and speed of every layout that the config's rules allow.

    Then, of the fastest, the whole run: GPU hours, days, jobs, checkpoints against quotas, passes over the text, energy, CO2.
    Arithmetic from the config and from published figures of the GPU; no GPU, no data and no network is needed. --write gives the
    fastest layout as a file, which any command takes over a config as @FILE.
    """

    def act() -> int:
        from fanal.target_file import check_target
        from launch.planning.calibration import CalibrationRequest
        from launch.planning.modes import check_options, stated_options
        from launch.planning.place import Place
        from launch.planning.plan import make_plan, make_scaling, write
        from launch.planning.whole_run import WholeRunRequest

        check_options(stated_options(context))
        asked = WholeRunRequest(
            tokens=tokens, slice_hours=slice_hours, qos=qos, failures_per_1000_gpu_hours=failures, own=own
        )
        calibration = CalibrationRequest(run_dirs=runs, ignored=no_calibration)
        place = Place(gpus=gpus, gpu=gpu, site_name=site_name, nodes=nodes)
        rungs = LadderRequest(**of_ladder)
        if rungs.ladder is not None:
            from launch.planning.ladder import make_ladder

            print(make_ladder(config, overrides, rungs.ladder, rungs, place, calibration=calibration, as_json=as_json))
            return FINISHED
        if picture is not None:
            print(make_scaling(config, overrides, place, target=picture, calibration=calibration))
            return FINISHED
        if target is not None:
            check_target("--write", target, (".yaml", ".yml"), may_replace=False)
        made = make_plan(
            config, overrides, place, top=top, rehearsals=rehearsals, document_tokens=document_tokens, asked=asked,
            calibration=calibration,
        )  # fmt: skip
        if target is not None:
            write(target, made)
        if as_json:
            from pretrain.plan.table import to_json

            print(to_json(made))
        else:
            from fanal.console import Console
            from pretrain.plan.table import show

            show(made, Console())
        return FINISHED

    sys.exit(run_guarded(act))
