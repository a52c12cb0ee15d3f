"""``make torture``: kill real runs with SIGKILL, a hundred times and more, and write a row into docs/torture.md."""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import click

from pretrain.inspect.prove import start_training
from tests.runs.small import make_small_data, write_small_run
from tests.torture.chain import CP2, DP2, TP2_PP2, Tortured, torture

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "torture.md"
STEPS = 30


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kills", type=click.IntRange(3), default=104, show_default=True, help="In all, shared by the layouts.")
@click.option("--seed", type=int, default=20261124, show_default=True, help="Of moments, targets and delays.")
@click.option("--steps", type=click.IntRange(4), default=STEPS, show_default=True, help="Steps of each run.")
@click.option("--table", type=click.Path(path_type=Path), default=TABLE, help="The file that takes the row.")
def main(kills: int, seed: int, steps: int, table: Path) -> None:
    """Kill runs of TP2 x PP2, of DP2 and of CP2; exit code 1 if anything was lost."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    os.environ["OMP_NUM_THREADS"] = "1"
    make_small_data(folder)
    config = write_small_run(folder)
    shares = ((TP2_PP2, kills - 2 * (kills // 3)), (DP2, kills // 3), (CP2, kills // 3))
    results = [
        torture(
            config, folder / layout.name, layout,
            kills=share, steps=steps, seed=seed, start=start_training, tell=lambda line: print(line, flush=True),
        )
        for layout, share in shares
    ]  # fmt: skip
    with table.open("a", encoding="utf-8") as stream:
        stream.writelines(row(result, seed) + "\n" for result in results)
    problems = [problem for result in results for problem in result.problems]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{sum(len(result.kills) for result in results)} kills, {len(problems)} failures; rows in {table}")
    if problems:
        print(f"evidence: {folder}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def row(result: Tortured, seed: int) -> str:
    """A line of the table in docs/torture.md."""
    phases = Counter(kill.phase for kill in result.kills)
    targets = Counter(kill.plan.target for kill in result.kills)
    cells = [
        datetime.now(UTC).strftime("%Y-%m-%d"), commit(), str(os.cpu_count()), str(seed), result.layout.name,
        str(len(result.kills)), str(result.chains),
        *(str(phases[phase]) for phase in ("start-up", "step", "save", "deletion")),
        *(str(targets[target]) for target in ("one rank", "all ranks", "launcher")),
        str(len(result.problems)),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def commit() -> str:
    """Of the code that was tortured, marked if it was changed since."""
    try:
        found = [
            subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found[0] + ("+" if found[1] else "")


if __name__ == "__main__":
    main()
