"""The command line: parse, call one function, exit code. ``fanal --help``.

Rooms are imported inside the commands, so that ``--help`` and ``show`` do not wait for megatron-core.
"""

import datetime
import os
import secrets
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pretrain.parallel.environment import note_exit_code, rank_and_size, started_by_launcher
from pretrain.parallel.signals import end_as_interrupted, ignore_stop_signals, stop_signal_comes_within
from pretrain.parallel.start import begin_train

if __name__ == "__main__" and sys.argv[1:2] == ["train"]:  # before the imports that take a while
    begin_train()

import click

from fanal.command_group import CommandGroup, complete_path
from fanal.errors import UserError, run_guarded, user_path
from fanal.exit_codes import FINISHED, INTERRUPTED
from fanal.output import let_go_of_output, outlive_output
from pretrain.check_commands import sign, verify
from pretrain.config.load import load_run, load_run_to_train
from pretrain.config.path_rules import paths_of
from pretrain.drafts.command import draft
from pretrain.evaluate.command import evaluate
from pretrain.ledger.command import ledger
from pretrain.parallel.caches import use_private_caches
from pretrain.report.command import report
from pretrain.start_training import train_local, train_rank
from pretrain.trace.command import trace

LET_THE_FIRST_SPEAK_S = 20
CONTEXT = {"help_option_names": ["-h", "--help"]}
scale_option = click.option(
    "--scale",
    metavar="FRACTION",
    help="Take the small twin of CONFIG's run, such as 1/64 of it, for a CPU or one GPU; KEY=VALUE changes the twin.",
)


@click.group(cls=CommandGroup, context_settings=CONTEXT)
def cli() -> None:
    """Pretrain foundation language models."""


cli.add_command(trace)
cli.add_command(ledger)
cli.add_command(verify)
cli.add_command(sign)
cli.add_command(report)
cli.add_command(draft)
cli.add_command(evaluate)


@cli.command(context_settings=CONTEXT)
@click.argument("config", shell_complete=complete_path)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@scale_option
def train(config: str, overrides: tuple[str, ...], scale: str | None) -> None:
    """Train the run that CONFIG describes, or resume it from its last checkpoint.

    Under torchrun or srun it uses the ranks that it is given; without either it starts the ranks that the layout needs here.
    """
    _prepare_libraries()
    outlive_output()
    start = train_rank if started_by_launcher() else train_local
    code = _guard(lambda: start(load_run_to_train(config, overrides, scale)))
    ignore_stop_signals()
    if started_by_launcher():
        note_exit_code(code)
    let_go_of_output()
    if code == INTERRUPTED:
        end_as_interrupted()
    sys.exit(code)


@cli.command(context_settings=CONTEXT)
@click.argument("config", shell_complete=complete_path)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@scale_option
def show(config: str, overrides: tuple[str, ...], scale: str | None) -> None:
    """Print the resolved config and what follows from it."""
    from fanal.console import Console
    from pretrain.inspect.show import show as show_run

    def act() -> int:
        show_run(load_run_to_train(config, overrides, scale), Console())
        return FINISHED

    sys.exit(_guard(act))


@cli.command(context_settings=CONTEXT)
@click.argument("config", shell_complete=complete_path)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@scale_option
@click.option("--ranks", type=int, metavar="N", help="Ranks of the run; by default as many as the layout states.")
@click.option(
    "--rank", type=int, metavar="R", help="The rank; by default one of the first, a middle and the last pipeline stage."
)
@click.option("--memory", type=float, metavar="GIB", help="Memory of a GPU; by default several usual sizes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in which the peak is broken down by lines of code.")
def rehearse(
    config: str,
    overrides: tuple[str, ...],
    scale: str | None,
    ranks: int | None,
    rank: int | None,
    memory: float | None,
    as_json: bool,
) -> None:
    """Rehearse the step of a run on any number of GPUs, without one: memory, collectives and waits of a rank.

    The run's own code builds the model and trains two steps on tensors that have shapes and no values. Neither shards nor a
    tokenizer is read, and nothing is written.
    """
    _prepare_libraries()
    from fanal.console import Console
    from pretrain.config.derive import world_size
    from pretrain.rehearse.rehearse import rehearse as rehearse_run
    from pretrain.rehearse.report import show as show_rehearsal
    from pretrain.rehearse.report import to_json

    def act() -> int:
        run = load_run(config, overrides, scale)
        if memory is not None and not memory > 0:
            raise UserError(f"--memory ({memory:g}) must be above 0; --memory 80 works")
        found = rehearse_run(run, num_ranks=world_size(run.parallel) if ranks is None else ranks, rank=rank)
        if as_json:
            print(to_json(config, found))
        else:
            show_rehearsal(config, run, found, memory, Console())
        return FINISHED

    sys.exit(_guard(act))


@cli.command(context_settings=CONTEXT)
@click.argument("config", shell_complete=complete_path)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--steps", type=int, help="Optimizer steps of each run; default 8, or all if the run has fewer.")
@click.option("--kills", type=int, default=3, show_default=True, help="Number of times the run is killed.")
@click.option("--seed", type=int, help="Seed that decides when and what is killed; default: random, and printed.")
def prove(config: str, overrides: tuple[str, ...], steps: int | None, kills: int, seed: int | None) -> None:
    """Prove that this machine resumes CONFIG as if nothing had happened.

    Trains a few steps without interruption, and again in runs that are killed with SIGKILL and resumed, in the same layout and
    in others; compares data order, losses and optimizer states; prints a table. All runs and evidence are in
    RUN_DIR/prove/TIME; the rest of RUN_DIR is not touched.

    The exit code is 0 if all is equal, 1 on a difference, 2 if the input is wrong.
    """
    _prepare_libraries()
    from fanal.console import Console
    from pretrain.inspect.prove import prove as prove_run

    chosen = secrets.randbelow(1_000_000) if seed is None else seed

    def act() -> int:
        run = load_run(config, overrides)
        with user_path(run.run_dir, *paths_of(run).values()):
            return prove_run(run, steps=steps, kills=kills, seed=chosen, console=Console())

    sys.exit(_guard(act))


@cli.command(name="import", context_settings=CONTEXT)
@click.argument("hf_dir", shell_complete=complete_path)
@click.option(
    "--to",
    required=True,
    metavar="CHECKPOINT",
    shell_complete=complete_path,
    help="Folder of the checkpoint to write; it must not exist yet.",
)
@click.option(
    "--make-vocab-size-divisible-by",
    default=128,
    show_default=True,
    help="Pad the vocabulary to a multiple of this: the model.make_vocab_size_divisible_by of the run that will use it.",
)
def import_model(hf_dir: str, to: str, make_vocab_size_divisible_by: int) -> None:
    """Make a checkpoint of the weights in HF_DIR, a Hugging Face folder of a Llama-family model in safetensors.

    A run starts from it with checkpoint.init_from. Nothing in the folder is executed; an unsupported model is refused by name.
    """
    _prepare_libraries()
    from pretrain.convert.importing.import_folder import import_hf

    def act() -> int:
        with user_path(hf_dir, to):
            made = import_hf(hf_dir, to, make_vocab_size_divisible_by=make_vocab_size_divisible_by)
        print(f"imported {made.num_parameters:,} parameters to {made.checkpoint} ({made.num_bytes:,} bytes)")
        return FINISHED

    sys.exit(_guard(act))


@cli.command(context_settings=CONTEXT)
@click.argument("paths", nargs=-1, required=True, metavar="RUN_DIR|CHECKPOINT...", shell_complete=complete_path)
@click.option(
    "--to",
    required=True,
    metavar="FOLDER",
    shell_complete=complete_path,
    help="Folder of the checkpoint to write; it must not exist yet, or be empty.",
)
@click.option("--last", type=int, metavar="K", help="Average the newest K checkpoints of the run.")
@click.option("--from-step", type=int, metavar="STEP", help="Leave out the run's checkpoints of earlier steps.")
@click.option("--to-step", type=int, metavar="STEP", help="Leave out the run's checkpoints of later steps.")
@click.option(
    "--ema", is_flag=True, help="Average the moving averages (optim.ema_decay), by default of the newest alone."
)
def average(
    paths: tuple[str, ...], to: str, last: int | None, from_step: int | None, to_step: int | None, ema: bool
) -> None:
    """Make a checkpoint whose weights are the mean of several: of a run's newest, or of those that are named.

    Every byte of them is verified first. The average is exported, generates, and starts runs (checkpoint.init_from) as any other
    checkpoint; it has no optimizer. Its average.json names what it is the mean of.
    """
    from pretrain.convert.averaging.average import average as average_of
    from pretrain.convert.averaging.sources import Wanted
    from pretrain.optim.registry import EMA, MASTER

    def act() -> int:
        wanted = Wanted(
            paths=tuple(map(Path, paths)), last=last, from_step=from_step, to_step=to_step, state=EMA if ema else MASTER
        )
        with user_path(*paths, to):
            made = average_of(wanted, to)
        steps = ", ".join(f"{source.state.step:,}" for source in made.sources)
        of = "1 checkpoint (step" if len(made.sources) == 1 else f"{len(made.sources)} checkpoints (steps"
        print(f"averaged {of} {steps}) to {made.checkpoint} ({made.num_bytes:,} bytes)")
        return FINISHED

    sys.exit(_guard(act))


@cli.command(context_settings=CONTEXT)
@click.argument("path", metavar="CHECKPOINT_OR_HF_DIR", shell_complete=complete_path)
@click.option("--prompt", required=True, help="Text to continue.")
@click.option("--max-new-tokens", default=64, show_default=True, help="Tokens to generate, at most.")
@click.option("--temperature", type=float, help="Sample with the logits divided by this; 0 takes the likeliest token.")
@click.option("--top-k", type=int, help="Sample among this many of the likeliest tokens.")
@click.option("--top-p", type=float, help="Sample among the likeliest tokens whose probabilities add up to this.")
@click.option("--seed", default=0, show_default=True, help="Seed of the sampling.")
@click.option(
    "--tokenizer",
    metavar="DIR",
    shell_complete=complete_path,
    help="Folder of the tokenizer, if it is not where the model's config names it.",
)
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option("--deep", is_flag=True, help="Compare every byte of a checkpoint with its manifest first.")
@click.option("--ema", is_flag=True, help="Take the moving average of a checkpoint's weights (optim.ema_decay).")
def generate(
    path: str,
    prompt: str,
    max_new_tokens: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    tokenizer: str | None,
    device: Literal["auto", "cuda", "cpu"],
    deep: bool,
    ema: bool,
) -> None:
    """Generate text from a prompt with a checkpoint, a run's newest one, or a Hugging Face folder.

    It takes the likeliest token each time, unless --temperature, --top-k or --top-p asks for sampling.
    """
    _prepare_libraries()
    from pretrain.inspect.generate import GenerationRequest
    from pretrain.inspect.generate import generate as generate_text
    from pretrain.model.sampling import Sampling

    if temperature is None:
        temperature = 0.0 if top_k is None and top_p is None else 1.0

    def act() -> int:
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        request = GenerationRequest(prompt=prompt, max_new_tokens=max_new_tokens, sampling=sampling, device=device)
        with user_path(path, *([tokenizer] if tokenizer else [])):
            generate_text(path, request, tokenizer=tokenizer, deep=deep, ema=ema)
        return FINISHED

    sys.exit(_guard(act))


@cli.command("export", context_settings=CONTEXT)
@click.argument("checkpoint", shell_complete=complete_path)
@click.argument("overrides", nargs=-1, metavar="[data.KEY=VALUE]...")
@click.option(
    "--to",
    "folder",
    required=True,
    metavar="DIR",
    shell_complete=complete_path,
    help="Folder to write; it must not exist yet, or be empty.",
)
@click.option(
    "--dtype", type=click.Choice(["bf16", "fp32"]), help="Precision of the weights; by default that of training."
)
@click.option(
    "--max-shard-bytes", default=5_000_000_000, show_default=True, help="Bytes of tensors in a file, at most."
)
@click.option("--samples", default=4, show_default=True, help="Validation samples that the certificate is made on.")
@click.option("--without-shards", is_flag=True, help="Certify on built-in text, without the run's shards.")
@click.option("--bos/--no-bos", "adds_bos", default=None, help="Whether texts get a BOS; by default as in the shards.")
@click.option("--layer-by-layer", is_flag=True, help="Certify with one layer in memory, even where the model fits.")
@click.option("--ema", is_flag=True, help="Export the moving average of the weights (optim.ema_decay) in their place.")
@click.option("--licence", metavar="ID", help="Licence of the model for its card, such as apache-2.0.")
@click.option(
    "--co2-g-per-kwh",
    type=float,
    metavar="N",
    help="Grams of CO2 a kilowatt hour, for the card: of the place of the run.",
)
@click.option("--date", metavar="YYYY-MM-DD", help="Date of the certificate; by default today.")
def export_command(checkpoint: str, overrides: tuple[str, ...], folder: str, **options: Any) -> None:
    """Write a checkpoint, or a run's newest complete one, as a Hugging Face folder with a certificate.

    The folder is compared with the checkpoint as `transformers` loads it; the exit code is 76 if the two are not the same.
    It needs no GPU and no torchrun. Overrides name the places of tokenizer and shards, if they were moved.
    """
    _prepare_libraries()

    def act() -> int:
        from fanal.console import Console
        from pretrain.convert.exporting.export import ExportOptions, export, summary

        chosen = ExportOptions(
            dtype=options["dtype"],
            max_shard_bytes=options["max_shard_bytes"],
            num_samples=options["samples"],
            with_shards=not options["without_shards"],
            adds_bos=options["adds_bos"],
            memory="layers" if options["layer_by_layer"] else "auto",
            licence=options["licence"],
            ema=options["ema"],
            co2_g_per_kwh=options["co2_g_per_kwh"],
            date=options["date"] or datetime.date.today().isoformat(),
        )
        with user_path(checkpoint, folder):
            made = export(checkpoint, folder, chosen, overrides)
        Console().print(summary(made), soft_wrap=True)
        return FINISHED

    sys.exit(_guard(act))


def _prepare_libraries() -> None:
    """megatron-core warns of each optional package it does without, on every rank; and compilers need a folder that is nobody
    else's. Ranks inherit the environment."""
    use_private_caches()
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(megatron|torch)\.")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning,ignore::FutureWarning")


def _guard(act: Callable[[], int]) -> int:
    """Run ``act`` as every command runs (fanal/errors.py).

    All ranks of a world find the same mistake. The first of each node says so at once; the others wait for it, since
    torchrun ends every rank when one exits, and speak only if they are still there. Of a crash every rank prints its traceback.
    """

    def speaks() -> bool:
        _, _, local_rank = rank_and_size()
        return local_rank == 0 or not stop_signal_comes_within(LET_THE_FIRST_SPEAK_S)

    return run_guarded(act, speaks=speaks)


if __name__ == "__main__":
    cli()
