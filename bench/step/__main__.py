"""Time one training step, ours beside others': `make bench-step`.

    python -m bench.step [--precision fp32|bf16] [--threads N] [--rounds N] [--steps N] [--only NAMES] [--profile]

Without a precision or a number of threads it takes both, and two threads and one, each in a process of its own. Contestants
start from the same weights and train the same batches; where a loss or a gradient norm is not Fanal's within rounding, the command
ends with code 1 and measures nothing. CPU seconds of all threads are what counts, and their ratio to Fanal's inside each round:
above 1 Fanal is faster.
"""

import argparse
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from bench.compare import append_result
from bench.step.kinds import profiled
from bench.step.ours import Fanal, Precision, one_rank
from bench.step.race import REFERENCE, disagreements, take_turns, trained
from bench.step.report import NAMES, report
from bench.step.task import Contestant, Shape, Weights, batches
from fanal.errors import UserError
from pretrain.parallel.world import World

RESULTS = Path(__file__).parents[1] / "results" / "step.md"
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
THREADS = (2, 1)
DESCRIPTION = "Time one training step, ours beside others'."
AGREEING_STEPS = 5
PROFILED_STEPS = 3


def makers(shape: Shape, precision: Precision, weights: Weights) -> dict[str, Callable[[], Contestant]]:
    """Return what makes each contestant but Fanal. Megatron's needs the world that Fanal is in."""

    def megatron() -> Contestant:
        from bench.step.megatron import MegatronCore

        return MegatronCore(shape, precision, weights)

    def plain(*, compiled: bool = False) -> Contestant:
        from bench.step.plain import Plain

        return Plain(shape, precision, weights, compiled=compiled)

    def hugging_face() -> Contestant:
        from bench.step.hugging_face import HuggingFace

        return HuggingFace(shape, precision, weights)

    def products() -> Contestant:
        from bench.step.products import Products

        return Products(shape, precision)

    return {
        "megatron": megatron,
        "plain": plain,
        "compiled": lambda: plain(compiled=True),
        "hf": hugging_face,
        "products": products,
    }


def contestants(shape: Shape, precision: Precision, world: World, names: Sequence[str]) -> Mapping[str, Contestant]:
    """Make those of these names, Fanal first, all with Fanal's initial weights."""
    fanal = Fanal(shape, precision, world)
    known = makers(shape, precision, fanal.weights())
    return {REFERENCE: fanal, **{name: make() for name, make in known.items() if name in names}}


def race(precision: Precision, given: argparse.Namespace) -> int:
    """Race at one precision and number of threads, in this process. Returns: the exit code."""
    torch.set_num_threads(given.threads)
    shape = Shape()
    with one_rank() as world:
        racing = contestants(shape, precision, world, given.only)
        found = trained(racing, batches(shape, AGREEING_STEPS))
        for name, figures in found.items():
            print(f"{NAMES[name]:26s} losses {' '.join(f'{one.loss:.6f}' for one in figures)}", flush=True)
        wrong = disagreements(found, precision)
        for line in wrong:
            print(line, file=sys.stderr)
        if wrong:
            return 1
        turns, loads = take_turns(racing, batches(shape, given.steps + 1), rounds=given.rounds, steps=given.steps)
    title = f"One step, {precision}, {given.threads} thread{'s' * (given.threads > 1)}"
    title += f", {given.rounds} round{'s' * (given.rounds > 1)} of {given.steps} steps"
    append_result(given.results, title, report(turns, loads, precision, shape))
    return 0


def print_profile(precision: Precision, threads: int) -> int:
    """Print Fanal's step by kinds of work. Returns: the exit code."""
    torch.set_num_threads(threads)
    with one_rank() as world:
        print(precision, profiled(Fanal(Shape(), precision, world), batches(Shape(), PROFILED_STEPS)), flush=True)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises: UserError."""
    parser = argparse.ArgumentParser(prog="python -m bench.step", description=DESCRIPTION)
    parser.add_argument("--precision", choices=PRECISIONS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=2, help="counted steps of a contestant in a round")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(NAMES), metavar="NAMES")
    parser.add_argument("--profile", action="store_true", help="print where Fanal's step spends its time; one thread")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    for name in ("threads", "rounds", "steps"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} ({value}) must be at least 1; --{name} 1 works")
    unknown = [name for name in given.only if name not in NAMES]
    if unknown:
        raise UserError(f"--only ({','.join(unknown)}) must name contestants: --only {','.join(NAMES)} works")
    if "compiled" in given.only and not given.profile:
        from bench.step.plain import check_compiler

        check_compiler()
    return given


def main(arguments: Sequence[str]) -> int:
    logging.disable(logging.WARNING)
    try:
        given = parse(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    precisions: Sequence[Precision] = [given.precision] if given.precision else PRECISIONS
    threads: Sequence[int] = [given.threads] if given.threads else [1] if given.profile else THREADS
    if len(precisions) == len(threads) == 1:
        given.threads = threads[0]
        return print_profile(precisions[0], threads[0]) if given.profile else race(precisions[0], given)
    codes = []
    for precision in precisions:
        for count in threads:
            own = ["--precision", precision, "--threads", str(count)]
            command = [sys.executable, "-W", "ignore", "-m", "bench.step", *arguments, *own]
            codes.append(subprocess.run(command, check=False).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
