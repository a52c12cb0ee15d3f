"""Show what a machine's GPU does with this code, in six minutes and one report: ``make gpu``.

    python3 -m bench.gpu [--out FOLDER] [--budget-s N] [--only NAMES] [--list]

It needs no installation: a stage whose packages are not there is left out, and says which. Exit code 1 if a stage failed or was
cut off, 0 if all passed or there is no GPU. docs/gpu.md says how to read the report.
"""

import argparse
import datetime
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from bench.compare import commit
from bench.gpu.found import LEFT_OUT
from bench.gpu.report import BAD, NAMES, RUNNING, Report, Result
from bench.gpu.runner import ROOT, run_stage
from bench.gpu.setting import Setting
from bench.gpu.stages import STAGES, Stage, missing
from fanal.errors import UserError

BUDGET_S = 360.0
LEAST_S = 8.0
"""A stage that has less time left is not begun."""
DESCRIPTION = "Show what a machine's GPU does with this code."


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises: UserError."""
    parser = argparse.ArgumentParser(prog="python3 -m bench.gpu", description=DESCRIPTION)
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder of the report; build")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help=f"seconds for all stages; {BUDGET_S:.0f}")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="NAMES", help="of stages, with commas")
    parser.add_argument("--list", action="store_true", help="print the stages, and why one would be left out here")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal at sizes of a test, without figures"
    )
    given = parser.parse_args(arguments)
    if not given.budget_s >= LEAST_S:
        raise UserError(f"--budget-s ({given.budget_s:g}) must be at least {LEAST_S:g}; --budget-s 360 works")
    names = [stage.name for stage in STAGES]
    unknown = [name for name in given.only or [] if name not in names]
    if unknown:
        raise UserError(f"--only ({','.join(unknown)}) must name stages: --only {','.join(names)} works")
    if given.out.exists() and not given.out.is_dir():
        raise UserError(f"--out ({given.out}) must be a folder; --out build works")
    return given


def num_gpus() -> int:
    """Return the GPUs that PyTorch sees; 0 without PyTorch. Starts no CUDA context."""
    if find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def run_stages(stages: Sequence[Stage], report: Report, setting: Setting, gpus: int) -> int:
    """Run stages one after the other until the budget is spent. Returns: the exit code."""
    end = time.monotonic() + report.budget_s
    for stage in stages:
        left_s = end - time.monotonic()
        reason = missing(stage, gpus)
        if reason is None and left_s < LEAST_S:
            reason = f"{max(0.0, left_s):.0f} s of the budget were left"
        if reason is not None:
            result = Result(name=stage.name, title=stage.title, status=LEFT_OUT, reason=reason)
            report.results.append(result)
        else:
            report.results.append(Result(name=stage.name, title=stage.title, status=RUNNING))

            def changed(result: Result) -> None:
                report.results[-1] = result
                report.write()

            result = run_stage(stage, setting, min(stage.limit_s, left_s), changed)
            report.results[-1] = result
        report.write()
        print(
            f"{result.name:12s} {result.status:9s} {result.seconds:4.0f} s  {result.reason or result.title}", flush=True
        )
        for line in result.last_lines if result.status in BAD else ():
            print(f"    {line}", flush=True)
    return report.exit_code()


def main(arguments: Sequence[str]) -> int:
    try:
        given = parse(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    gpus = num_gpus() if given.device == "cuda" else 2
    stages = [stage for stage in STAGES if given.only is None or stage.name in given.only]
    if given.list:
        for stage in stages:
            print(f"{stage.name:12s} {stage.limit_s:4.0f} s  {missing(stage, gpus) or stage.title}")
        return 0
    if not gpus:
        print("PyTorch sees no GPU here, so nothing was run; on a machine with one: make gpu, or python3 -m bench.gpu")
        return 0
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(
            f"--out ({given.out}) must be a folder that can be made ({error.strerror}); --out build works",
            file=sys.stderr,
        )
        return 2
    report = Report(
        folder=given.out, started=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"), commit=commit(),
        device=given.device, tiny=given.device == "cpu", budget_s=given.budget_s,
    )  # fmt: skip
    code = run_stages(stages, report, Setting(device=given.device, tiny=given.device == "cpu", folder=given.out), gpus)
    print(f"the report: {given.out / NAMES[1]}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
