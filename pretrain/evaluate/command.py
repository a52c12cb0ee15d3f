"""``fanal evaluate``: the command line, parsed, checked and handed on."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from fanal.command_group import complete_path
from fanal.errors import UserError, run_guarded, user_path
from fanal.evaluation_options import BY, check_number
from fanal.exit_codes import FINISHED
from fanal.shown import shown


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run_dir", required=False, metavar="RUN_DIR", shell_complete=complete_path)
@click.argument("overrides", nargs=-1, metavar="[data.KEY=VALUE]...")
@click.option(
    "--tasks", metavar="NAME,...", help="Export the checkpoint, and run these tasks of lm-eval on the export."
)
@click.option(
    "--perplexity", is_flag=True, help="Perplexity and bits per byte of the run's held-out text, without an export."
)
@click.option("--step", type=int, metavar="N", help="Evaluate the checkpoint of this step; by default the newest.")
@click.option(
    "--include-path",
    metavar="DIR",
    shell_complete=complete_path,
    help="Folder with YAMLs of more tasks. Tasks are code.",
)
@click.option(
    "--fewshot", "num_fewshot", type=int, metavar="N", help="Examples in front of each sample; by default the task's."
)
@click.option(
    "--limit", type=int, metavar="N", help="Only the first N samples of each task, or documents of each shard."
)
@click.option("--batch-size", type=int, default=1, show_default=True, help="Samples that lm-eval evaluates at a time.")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option(
    "--keep-export",
    metavar="DIR",
    shell_complete=complete_path,
    help="Keep the export there, or use one that is there.",
)
@click.option(
    "--packed", metavar="FOLDER", shell_complete=complete_path, help="Fetch nothing: read what --pack put there."
)
@click.option("--again", is_flag=True, help="Ask once more what was answered before.")
@click.option("--by", type=click.Choice(BY), help="With --perplexity: a figure for each of these; default domain.")
@click.option(
    "--pack", metavar="NAME,...", help="Fetch all that these tasks need into a new folder, --to, for --packed."
)
@click.option("--to", metavar="FOLDER", shell_complete=complete_path, help="With --pack: the folder.")
def evaluate(run_dir: str | None, overrides: tuple[str, ...], **options: Any) -> None:
    """Evaluate a checkpoint of a run: tasks on a certified export of it, or perplexity on text kept from training.

    The figures are kept in RUN_DIR/evaluations, and shown by TensorBoard, `fanal ledger` and `fanal report`. Nothing else of the
    run is changed, and it may be training meanwhile.
    """

    def act() -> int:
        _check(run_dir, overrides, options)
        if options["pack"] is not None:
            return _pack(options)
        assert run_dir is not None, "checked"
        with user_path(run_dir):
            return _evaluate(run_dir, overrides, options)

    sys.exit(run_guarded(act))


def _check(run_dir: str | None, overrides: tuple[str, ...], options: dict[str, Any]) -> None:
    """Refuse options that do not go together. Raises: UserError."""
    acts = [f"--{name}" for name in ("tasks", "perplexity", "pack") if options[name] not in (None, False)]
    if len(acts) != 1:
        given = " and ".join(acts) if acts else "none"
        folder = "RUN_DIR" if run_dir is None else shlex.quote(run_dir)
        raise UserError(
            f"evaluate needs one of --tasks, --perplexity and --pack ({given} given); `fanal evaluate {folder} --perplexity` works"
            f"{', with the folder of a run as RUN_DIR' if run_dir is None else ''}"
        )
    (act,) = acts
    if act == "--pack":
        if run_dir is not None or options["to"] is None:
            raise UserError("--pack needs --to FOLDER and no RUN_DIR; --pack hellaswag --to packed-tasks works")
    elif run_dir is None:
        raise UserError(f"{act} needs RUN_DIR, the folder of a run; runs/tiny works after make demo")
    only = {
        "--to": ("--pack",), "--by": ("--perplexity",), "--keep-export": ("--tasks",), "--packed": ("--tasks",),
        "--include-path": ("--tasks", "--pack"), "--fewshot": ("--tasks", "--pack"),
    }  # fmt: skip
    for option, of in only.items():
        name = "num_fewshot" if option == "--fewshot" else option[2:].replace("-", "_")
        if options[name] is not None and act not in of:
            raise UserError(f"{option} ({options[name]}) belongs to {' or '.join(of)}; {act} without it works")
    for name, value in (
        ("limit", options["limit"]), ("batch-size", options["batch_size"]), ("fewshot", options["num_fewshot"]),
    ):  # fmt: skip
        check_number(f"--{name}", value, of=name)
    for override in overrides:
        if not override.startswith("data."):
            raise UserError(
                f"override {shown(override, 200)} must be data.KEY=VALUE: an evaluation reads nothing else from it; leave it out"
            )


def _asked(names: str, option: str, options: dict[str, Any], *, device: str) -> Any:
    from pretrain.evaluate.harness import Asked
    from pretrain.evaluate.tasks import task_names

    include = options["include_path"]
    if include is not None and not Path(include).is_dir():
        raise UserError(
            f"--include-path ({include}) must be a folder with YAMLs of tasks, and is none; leave it out for lm-eval's own"
        )
    return Asked(
        tasks=task_names(names, option),
        include_path=None if include is None else Path(include).absolute(),
        num_fewshot=options["num_fewshot"],
        limit=options["limit"],
        batch_size=options["batch_size"],
        device=device,
    )


def _pack(options: dict[str, Any]) -> int:
    from pretrain.evaluate.harness import require_harness

    require_harness("--pack")  # before more is imported, which warns
    from pretrain.evaluate.packed import pack

    made = pack(_asked(options["pack"], "--pack", options, device="cpu"), options["to"])
    num_bytes = sum(entry.bytes for entry in made.files)
    print(f"packed {', '.join(made.tasks)} into {options['to']}: {len(made.files):,} files, {num_bytes:,} bytes")
    return FINISHED


def _evaluate(run_dir: str, overrides: tuple[str, ...], options: dict[str, Any]) -> int:
    if options["tasks"] is not None:
        from pretrain.evaluate.harness import require_harness

        require_harness("--tasks")  # before more is imported, which warns
    from pretrain.evaluate.text import show
    from pretrain.parallel.device_type import resolve_device

    device = resolve_device(options["device"], name="--device", between=" ")
    if options["tasks"] is not None:
        from pretrain.evaluate.tasks import TaskRequest, evaluate_tasks

        found, was_there = evaluate_tasks(
            run_dir,
            TaskRequest(
                asked=_asked(options["tasks"], "--tasks", options, device=device),
                step=options["step"],
                packed=None if options["packed"] is None else Path(options["packed"]),
                export_to=None if options["keep_export"] is None else Path(options["keep_export"]),
                again=options["again"],
                overrides=overrides,
            ),
        )
    else:
        from pretrain.evaluate.perplexity import PerplexityRequest, evaluate_perplexity

        found, was_there = evaluate_perplexity(
            run_dir,
            PerplexityRequest(
                by=options["by"] or "domain", step=options["step"], limit=options["limit"], device=device,
                again=options["again"], overrides=overrides,
            ),
        )  # fmt: skip
    show(found)
    if was_there:
        print(
            "this was asked before, of the same bytes and with the same versions; --again asks once more",
            file=sys.stderr,
        )
    return FINISHED
