"""The command line: parse, call one function, exit code. ``python -m pretrain --help``.

Rooms are imported inside the commands, so that ``--help`` and ``show`` do not wait for megatron-core.
"""

import datetime
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import click

from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.exit_codes import CRASH, DAMAGED, FINISHED, WRONG_INPUT, exit_code_of
from pretrain.parallel.environment import rank_and_size, started_by_launcher

LET_THE_FIRST_SPEAK_S = 5
CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=CONTEXT)
def cli() -> None:
    """Pretrain foundation language models."""


@cli.command(context_settings=CONTEXT)
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def train(config: str, overrides: tuple[str, ...]) -> None:
    """Train the run that CONFIG describes, or go on with it.

    Under torchrun or srun it uses the ranks it is given; alone, it starts the local ranks the layout needs.
    """
    _quiet_libraries()
    sys.exit(_guard(lambda: (_train_rank if started_by_launcher() else _train_local)(load_run(config, overrides))))


@cli.command(context_settings=CONTEXT)
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def show(config: str, overrides: tuple[str, ...]) -> None:
    """Print the resolved config and what follows from it."""
    from rich.console import Console

    from pretrain.inspect.show import show as show_run

    def act() -> int:
        show_run(load_run(config, overrides), Console())
        return FINISHED

    sys.exit(_guard(act))


@cli.command(context_settings=CONTEXT)
@click.argument("path", metavar="CHECKPOINT_OR_RUN_DIR")
@click.option("--deep", is_flag=True, help="Read every byte and compare the hashes.")
def verify(path: str, deep: bool) -> None:
    """Compare a checkpoint, or all of a run, with the manifests.

    The exit code is 76 if one fails. Nothing is changed or set aside.
    """
    from rich.console import Console

    from pretrain.inspect.verify import verify as verify_path

    sys.exit(_guard(lambda: DAMAGED if verify_path(path, deep, Console()) else FINISHED))


@cli.command("export", context_settings=CONTEXT)
@click.argument("checkpoint")
@click.argument("overrides", nargs=-1, metavar="[data.KEY=VALUE]...")
@click.option(
    "--to", "folder", required=True, metavar="DIR", help="Folder to write; it must not be there, or be empty."
)
@click.option("--dtype", type=click.Choice(["bf16", "fp32"]), help="Of the weights; left out, what was trained.")
@click.option("--max-shard-bytes", default=5_000_000_000, show_default=True, help="Of tensors in a file.")
@click.option("--samples", default=4, show_default=True, help="Held-out samples that the certificate is made on.")
@click.option("--without-shards", is_flag=True, help="Certify on built-in text: the run's shards are not at hand.")
@click.option("--bos/--no-bos", "adds_bos", default=None, help="Whether texts get a BOS; left out, as in the shards.")
@click.option("--layer-by-layer", is_flag=True, help="Certify with a layer in memory, also where the model fits.")
@click.option("--licence", metavar="ID", help="Of the model, for its card, such as apache-2.0.")
@click.option("--date", metavar="YYYY-MM-DD", help="Of the certificate; left out, today.")
def export_command(checkpoint: str, overrides: tuple[str, ...], folder: str, **options: Any) -> None:
    """Write a checkpoint, or a run's newest whole one, as a Hugging Face folder with a certificate.

    The folder is compared with the checkpoint as `transformers` loads it; the exit code is 76 if the two are not the same.
    It needs no GPU and no torchrun. Overrides say where tokenizer and shards are now, if they were moved.
    """
    _quiet_libraries()

    def act() -> int:
        from rich.console import Console

        from pretrain.convert.to_hf import ExportOptions, export, summary

        chosen = ExportOptions(
            dtype=options["dtype"],
            max_shard_bytes=options["max_shard_bytes"],
            num_samples=options["samples"],
            with_shards=not options["without_shards"],
            adds_bos=options["adds_bos"],
            memory="layers" if options["layer_by_layer"] else "auto",
            licence=options["licence"],
            date=options["date"] or datetime.date.today().isoformat(),
        )
        Console().print(
            summary(export(checkpoint, folder, chosen, overrides)), highlight=False, markup=False, soft_wrap=True
        )
        return FINISHED

    sys.exit(_guard(act))


def _train_rank(run: RunConfig) -> int:
    """Train as one rank of a world that torchrun or srun started."""
    from pretrain.train.loop import train as train_run

    return int(train_run(run))


def _train_local(run: RunConfig) -> int:
    """Train on local ranks; checks what can be checked before any starts."""
    from pretrain.config.derive import world_size
    from pretrain.data.sources import open_sources
    from pretrain.log.run_dir import open_run_dir
    from pretrain.parallel.device import resolve_device
    from pretrain.parallel.local import run_local_ranks
    from pretrain.train.local_rank import local_rank

    open_sources(run)
    folder = open_run_dir(run.run_dir)
    device_type = resolve_device(run.parallel.device)
    code, failure = run_local_ranks(
        local_rank,
        run,
        preload=["pretrain.train.loop"],
        num_ranks=world_size(run.parallel),
        device_type=device_type,
        log_dir=folder / "logs",
    )
    if failure is None:
        return code
    if code in (WRONG_INPUT, DAMAGED):
        print(f"error: {failure.error}", file=sys.stderr)
    else:
        print(f"rank {failure.rank} failed:\n{failure.text}", file=sys.stderr)
        code = CRASH
    return code


def _quiet_libraries() -> None:
    """megatron-core warns of each optional package it does without, on every rank. Ranks inherit the environment."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(megatron|torch)\.")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning,ignore::FutureWarning")


def _guard(act: Callable[[], int]) -> int:
    """Run ``act``; a mistake of the user's becomes one line and exit code 2, damaged data one line and 76, else a traceback and 70.

    All ranks of a world find the same mistake. The first of each node says so at once; the others wait for it, since
    torchrun ends every rank when one exits, and speak only if they are still there.
    """
    try:
        return act()
    except Exception as error:
        code = exit_code_of(error)
        _, _, local_rank = rank_and_size()
        if code in (WRONG_INPUT, DAMAGED):
            if local_rank != 0:
                time.sleep(LET_THE_FIRST_SPEAK_S)
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        return code


if __name__ == "__main__":
    cli()
