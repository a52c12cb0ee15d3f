"""Kill a run again and again, resume it each time, and check after each kill what must never be lost.

One chain is one run folder: start, kill, resume, kill, ... to the end of the run; then the next one, until there were as
many kills as asked for. Most are aimed at saves.
"""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fanal.run_folder import METRICS_FILE, checkpoints_dir, is_part, step_of
from fanal.run_progress import parse_metrics
from pretrain.checkpoint.disk.retention import bad_in, checkpoints_in
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.inspect.compare import compare, losses
from pretrain.inspect.evidence import Evidence, read_evidence
from pretrain.inspect.kill import Aim, Kill, KillPlan, Running, Target, kill_at
from pretrain.inspect.layouts import Layout
from pretrain.inspect.prove import Start
from pretrain.inspect.prove_progress import wait_for

KEEP_LAST = 2
OVERRIDES = ("checkpoint.interval=1", f"checkpoint.keep_last={KEEP_LAST}", "data.validation=[]", "log.interval=1")
AIMS: tuple[tuple[Aim, float], ...] = (("save", 0.7), ("step", 0.15), ("start-up", 0.15))
TARGETS: tuple[tuple[Target, float], ...] = (("one rank", 0.5), ("all ranks", 0.25), ("launcher", 0.25))
LONGEST_DELAY_S = {"save": 0.03, "step": 0.1, "start-up": 1.0}
"""After the planned moment, drawn evenly from 0."""
MOST_STEPS_BETWEEN_KILLS = 3

TP2_PP2 = Layout(
    name="TP2-PP2",
    overrides=("parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2"),
    num_ranks=4,
)
DP2 = Layout(name="DP2", overrides=("parallel.data_parallel_size=2",), num_ranks=2)
CP2 = Layout(name="CP2", overrides=("parallel.context_parallel_size=2",), num_ranks=2)


@dataclass
class Tortured:
    """What came of it."""

    layout: Layout
    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    chains: int = 0


def torture(
    config: Path,
    folder: Path,
    layout: Layout,
    *,
    kills: int,
    steps: int,
    seed: int,
    start: Start,
    tell: Callable[[str], None],
) -> Tortured:
    """Kill runs of ``steps`` steps in ``folder`` until ``kills`` kills have landed; ends early on the first problem."""
    draw, result = random.Random(f"{seed} {layout.name}"), Tortured(layout=layout)
    straight = folder / "straight"
    overrides = (*OVERRIDES, *layout.overrides, f"train.train_steps={steps}")

    def begin(run_dir: Path, *more: str) -> Running:
        run_dir.mkdir(parents=True, exist_ok=True)
        return start(config, (f"run_dir={run_dir}", *overrides, *more), run_dir / "output.txt")

    code = wait_for(begin(straight, "checkpoint.interval=null"))
    if code != 0:
        result.problems.append(f"the straight run ended with {code}; see {straight / 'output.txt'}")
        return result
    expected = read_evidence(straight)
    while len(result.kills) < kills and not result.problems:
        result.chains += 1
        run_dir = folder / f"chain-{result.chains}"
        _one_chain(run_dir, begin, draw, result, expected, kills=kills, steps=steps, tell=tell)
        if not result.problems:
            shutil.rmtree(run_dir)
    return result


def _one_chain(
    run_dir: Path,
    begin: Callable[..., Running],
    draw: random.Random,
    result: Tortured,
    expected: Evidence,
    *,
    kills: int,
    steps: int,
    tell: Callable[[str], None],
) -> None:
    while not result.problems:
        before = names_of(run_dir)
        offset = metrics_size(run_dir)
        process = begin(run_dir)
        kill = None
        if len(result.kills) < kills:
            kill = kill_at(process, run_dir, draw_plan(draw, result.layout, before), num_ranks=result.layout.num_ranks)
        if kill is None:
            code = wait_for(process)
            found = problems_at_the_end(run_dir, expected, code=code, steps=steps)
        else:
            result.kills.append(kill)
            found = problems_after_a_kill(run_dir, before, kill) + wrong_losses(run_dir, expected)
        found += wrong_start(run_dir, offset, before)
        what = "the end" if kill is None else f"kill {len(result.kills)} ({kill.plan.target}, {kill.phase})"
        tell(f"{result.layout.name} {run_dir.name}, {what}: {'; '.join(found) or 'good'}")
        result.problems += [f"{result.layout.name} {run_dir}, {what}: {problem}" for problem in found]
        if kill is None:
            return


def draw_plan(draw: random.Random, layout: Layout, before: tuple[str, ...]) -> KillPlan:
    """The next kill of a run that has these checkpoints."""
    aim, target = (draw.choices(*zip(*choices, strict=True))[0] for choices in (AIMS, TARGETS))
    newest = max((step_of(name) or 0 for name in before), default=0)
    return KillPlan(
        aim=aim,
        target=target,
        rank=draw.randrange(layout.num_ranks),
        after_step=newest + draw.randint(1, MOST_STEPS_BETWEEN_KILLS),
        delay_s=draw.uniform(0, LONGEST_DELAY_S[aim]),
    )


def problems_after_a_kill(run_dir: Path, before: tuple[str, ...], kill: Kill) -> list[str]:
    """What a kill must never do. Args: before: names of the whole checkpoints at this start of the run."""
    found = [f"{path.name} was set aside as damaged" for path in bad_in(checkpoints_dir(run_dir))]
    now = names_of(run_dir)
    for name in now:
        found += verify_checkpoint(checkpoints_dir(run_dir) / name, deep=True).problems
    # Only a checkpoint that KEEP_LAST newer ones have replaced may go; which ones there were, the watch has seen.
    ever = sorted({*before, *kill.seen_whole, *now}, key=lambda name: step_of(name) or 0)
    for name in ever[-KEEP_LAST:]:
        if name not in now:
            found.append(
                f"{name} was whole before the kill, had to be kept, and is gone; left: {', '.join(now) or 'none'}"
            )
    return found


def wrong_losses(run_dir: Path, expected: Evidence) -> list[str]:
    """Every step logged so far, trained once or again, against the straight run."""
    run = read_evidence(run_dir)
    return list(losses(run, expected, bounds=None).problems) if run.steps else []


def wrong_start(run_dir: Path, offset: int, before: tuple[str, ...]) -> list[str]:
    """Did this start go on from the newest checkpoint? Args: offset: bytes of the metrics file at the start."""
    if metrics_size(run_dir) == offset:
        return []
    with (run_dir / METRICS_FILE).open("rb") as stream:
        stream.seek(offset)
        steps = [record["step"] for record in parse_metrics(stream.read().decode()) if record["kind"] == "step"]
    newest = max((step_of(name) or 0 for name in before), default=0)
    return [f"the run went on with step {steps[0]} after step {newest}"] if steps and steps[0] != newest + 1 else []


def problems_at_the_end(run_dir: Path, expected: Evidence, *, code: int, steps: int) -> list[str]:
    """The run that came to its end must be the straight one, with nothing left over."""
    if code != 0:
        return [f"ended with exit code {code}; see {run_dir / 'output.txt'}"]
    comparisons = compare(read_evidence(run_dir), expected, steps=steps, bounds=None)
    found = [f"{comparison.what}: {problem}" for comparison in comparisons for problem in comparison.problems]
    return found + [f"{path.name} was left" for path in checkpoints_dir(run_dir).iterdir() if is_part(path.name)]


def names_of(run_dir: Path) -> tuple[str, ...]:
    """The checkpoints of a run by their names, newest first."""
    return tuple(path.name for path in checkpoints_in(checkpoints_dir(run_dir)))


def metrics_size(run_dir: Path) -> int:
    """Bytes."""
    metrics = run_dir / METRICS_FILE
    return metrics.stat().st_size if metrics.is_file() else 0
