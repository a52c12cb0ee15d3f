"""``fanal prove``: a straight run against runs that were killed with SIGKILL and resumed, here and in other layouts.

Real processes through the real command line, in a folder of its own below the run's. Nothing else of the run is touched.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from fanal.console import Console
from fanal.errors import UserError
from fanal.exit_codes import CRASH, DAMAGED, DIFFERENT, FINISHED, WRONG_INPUT
from fanal.parent_death import follow_parent
from fanal.run_folder import checkpoints_dir
from fanal.run_progress import newest_step, standing
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.config.load import to_yaml
from pretrain.config.schema import RunConfig
from pretrain.config.steps import last_step
from pretrain.data.sources import open_sources
from pretrain.inspect.bounds import Bounds, bounds_of
from pretrain.inspect.compare import PropertyComparison, compare, optimizer_tensors
from pretrain.inspect.evidence import Evidence, read_evidence
from pretrain.inspect.kill import Kill, KillPlan, Running, kill_at
from pretrain.inspect.layouts import Layout, layouts_for
from pretrain.inspect.prove_plan import kill_plans, num_steps, proof_overrides, with_decay_stated
from pretrain.inspect.prove_progress import ProveProgress
from pretrain.inspect.prove_report import ProvedRun, print_report, write_record
from pretrain.log.run_dir import open_run_dir
from pretrain.parallel.device_type import num_local_devices, resolve_device
from pretrain.parallel.environment import started_by_launcher
from pretrain.parallel.precision import imitated_precision
from pretrain.train.memory import check_memory

CONFIG, OUTPUT = "config.yaml", "output.txt"
MOST_CHAINS_PER_KILL = 3
"""A run that ends before its planned kill is compared all the same, and another one takes its place: so often."""
SOONER = 10.0
"""Each next try of a kill waits so many times less: the step or the save of a fast machine was over before the last one came."""

Start = Callable[[Path, Sequence[str], Path], Running]
"""Starts a training run: config, overrides, the file that takes its output."""


def start_training(config: Path, overrides: Sequence[str], output: Path) -> Running:
    """``fanal train``, as anyone would start it, but that it is asked to stop when this process ends, however that ends."""
    with output.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "pretrain", "train", str(config), *overrides],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
            preexec_fn=partial(follow_parent, signal.SIGTERM),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The settings that all runs of a proof share."""

    run: RunConfig
    folder: Path
    steps: int
    device: str
    """cuda or cpu."""
    base: Layout
    """Layout of the straight run and of those that are killed."""
    others: list[Layout]
    plans: list[KillPlan]
    start: Start
    progress: ProveProgress

    def begin(self, run_dir: Path, layout: Layout) -> Running:
        """Start, or resume, the run of this folder."""
        run_dir.mkdir(parents=True, exist_ok=True)
        overrides = (
            f"run_dir={run_dir}",
            *proof_overrides(self.run.optim, self.run.train, self.steps, device=self.device),
            *layout.overrides,
        )
        return self.start(self.folder / CONFIG, overrides, run_dir / OUTPUT)

    def run_to_the_end(self, run_dir: Path, layout: Layout, *, what: str) -> int:
        """The exit code. Args: what: words for it."""
        self.progress.begin(what)
        code = self.progress.wait_for(self.begin(run_dir, layout), run_dir)
        self.progress.end()
        return code


def prove(
    run: RunConfig, *, steps: int | None, kills: int, seed: int, console: Console, start: Start = start_training
) -> int:
    """Prove a run, print what was found, and keep the record as prove.json.

    Returns: 0 if everything is as it must be, 1 on a difference; the straight run's own exit code if that one failed.
    Raises: UserError if the config, the options or this machine do not allow a proof.
    """
    proof, device = prepare(run, steps=steps, kills=kills, seed=seed, start=start, console=console)
    console.print(
        f"{proof.steps} steps as {proof.base.name} on {proof.base.num_ranks} x {device}, {kills} kills, seed {seed}; resumed also "
        f"as: {', '.join(layout.name for layout in proof.others) or 'none, no other layout fits'}",
        highlight=False,
        soft_wrap=True,
    )
    slow = imitated_precision(run.train.precision, device)
    if slow is not None:
        console.print(slow, soft_wrap=True)
    run_dir = proof.folder / "straight"
    code = proof.run_to_the_end(run_dir, proof.base, what="the straight run")
    if code != FINISHED:
        return straight_failed(run_dir / OUTPUT, code)
    straight = read_evidence(run_dir)
    proved = same_layout(proof, straight)
    proved += [other_layout(proof, layout, straight) for layout in proof.others]
    settings = {
        "steps": proof.steps,
        "seed": seed,
        "overrides": list(proof_overrides(proof.run.optim, proof.run.train, proof.steps, device=device)),
    }
    record = write_record(proof.folder, run, settings, proof.base, straight, proved)
    return FINISHED if print_report(proved, record, console) else DIFFERENT


def prepare(
    run: RunConfig, *, steps: int | None, kills: int, seed: int, start: Start, console: Console
) -> tuple[Proof, str]:
    """(The proof with its folder, the device type), after everything was checked that can be before a run starts.

    Raises: as ``prove``.
    """
    refuse_launcher()
    run = with_decay_stated(run, standing(Path(run.run_dir)).decay_start_sample)
    steps = num_steps(replace(run.train, train_steps=last_step(run.optim, run.train)), steps)
    open_sources(run)
    device = resolve_device(run.parallel.device)
    base, others = layouts_for(run, num_ranks=num_local_devices(device))
    one_replica = replace(
        run.parallel,
        tensor_model_parallel_size=base.num_ranks,
        pipeline_model_parallel_size=1,
        context_parallel_size=1,
    )
    least = replace(run, parallel=one_replica)  # of all layouts with so many ranks
    check_memory(least, device_type=device, num_ranks=base.num_ranks, ranks_here=base.num_ranks)
    plans = kill_plans(kills=kills, steps=steps, num_ranks=base.num_ranks, seed=seed)
    folder = new_folder(run.run_dir)
    (folder / CONFIG).write_text(to_yaml(run))
    progress = ProveProgress(console, num_starts=2 + len(plans) + len(others), num_steps=steps)
    proof = Proof(
        run=run,
        folder=folder,
        steps=steps,
        device=device,
        base=base,
        others=others,
        plans=plans,
        start=start,
        progress=progress,
    )
    return proof, device


def same_layout(proof: Proof, straight: Evidence) -> list[ProvedRun]:
    """One run that is killed at each planned moment and resumed after it, to its end; another one in its place if it ends before,
    or is killed when its last checkpoint is whole already: no layout has a step left to resume. Each scene of a kill is also kept
    for the other layouts to resume from."""
    chains: list[tuple[Path, list[Kill], int]] = []
    run_dir, landed = proof.folder / "killed-1", []
    for index, plan in enumerate(proof.plans):
        for attempt in range(MOST_CHAINS_PER_KILL):
            proof.progress.begin(f"a run that is killed, kill {index + 1} of {len(proof.plans)}")
            process = proof.begin(run_dir, proof.base)
            kill = watch(process, run_dir, replace(plan, delay_s=plan.delay_s / SOONER**attempt), proof.base)
            code = FINISHED if kill else proof.progress.wait_for(process, run_dir)
            proof.progress.end()
            if kill is not None:
                landed.append(kill)
                if newest_step(run_dir) < proof.steps:
                    break
                code = proof.run_to_the_end(run_dir, proof.base, what="a run that was killed at its end")
            chains.append((run_dir, landed, code))
            run_dir, landed = proof.folder / f"killed-{len(chains) + 1}", []
        else:
            return [judged(proof, *chain, straight) for chain in chains] + [never_killed(run_dir, proof.base, plan)]
        for other in proof.others[index :: len(proof.plans)]:
            keep_scene(run_dir, proof.folder / other.name.lower())
    code = proof.run_to_the_end(run_dir, proof.base, what="the killed run, to its end")
    chains.append((run_dir, landed, code))
    return [judged(proof, *chain, straight) for chain in chains]


def other_layout(proof: Proof, layout: Layout, straight: Evidence) -> ProvedRun:
    """The scene of a kill, resumed in another layout, against the straight run within the bounds."""
    run_dir = proof.folder / layout.name.lower()
    resumed_from = newest_step(run_dir)
    code = proof.run_to_the_end(run_dir, layout, what=f"resumed as {layout.name}")
    found, bounds = read_evidence(run_dir), bounds_of(proof.run.train.precision)
    comparisons = ending(run_dir, code)
    comparisons += compare(found, straight, steps=proof.steps, bounds=bounds, first_step=resumed_from + 1)
    comparisons.append(optimizer_across_layouts(found, straight, bounds))
    return ProvedRun(run_dir=run_dir, layout=layout, same=False, resumed_from=resumed_from, comparisons=comparisons)


def optimizer_across_layouts(run: Evidence, straight: Evidence, bounds: Bounds) -> PropertyComparison:
    """Whole tensors of both last checkpoints, once every byte of these was found to be as written."""
    damage = [problem for side in (run, straight) if side.finding is not None for problem in side.finding.problems]
    if damage or run.checkpoint is None or straight.checkpoint is None:
        found = damage or [f"{run.run_dir} has no checkpoint"]
        return PropertyComparison(what="optimizer", holds=False, figure="NOT THERE", problems=tuple(found))
    pairs = (read_whole(run.checkpoint), read_whole(straight.checkpoint))
    return optimizer_tensors(*pairs, bound=bounds.optimizer)


def watch(process: Running, run_dir: Path, plan: KillPlan, layout: Layout) -> Kill | None:
    """``kill_at``, leaving nothing behind if it fails."""
    try:
        return kill_at(process, run_dir, plan, num_ranks=layout.num_ranks)
    except BaseException:
        if process.poll() is None:
            os.kill(process.pid, 9)  # its ranks follow it
        raise


def judged(proof: Proof, run_dir: Path, kills: list[Kill], code: int, straight: Evidence) -> ProvedRun:
    """A killed run that came to its end, against the straight one, bit for bit."""
    comparisons = ending(run_dir, code)
    comparisons += compare(read_evidence(run_dir), straight, steps=proof.steps, bounds=None)
    return ProvedRun(run_dir=run_dir, layout=proof.base, same=True, kills=tuple(kills), comparisons=comparisons)


def never_killed(run_dir: Path, base: Layout, plan: KillPlan) -> ProvedRun:
    """No proof: the runs were over before the moment came."""
    problem = f"{MOST_CHAINS_PER_KILL} runs ended before they could be killed at {plan}; more --steps work"
    failed = PropertyComparison(what="end", holds=False, figure="NEVER KILLED", problems=(problem,))
    return ProvedRun(run_dir=run_dir, layout=base, same=True, comparisons=[failed])


def ending(run_dir: Path, code: int) -> list[PropertyComparison]:
    """Return whether the run came to its end."""
    if code == FINISHED:
        return []
    problem = f"ended with exit code {code}; what it wrote is in {run_dir / OUTPUT}"
    return [PropertyComparison(what="end", holds=False, figure=f"exit code {code}", problems=(problem,))]


def keep_scene(run_dir: Path, target: Path) -> None:
    """Keep what a kill left below checkpoints/, for another layout to find: by links where the file system has them, since no file
    of a checkpoint is ever written twice."""

    def link(source: str, copy: str) -> None:
        try:
            os.link(source, copy)
        except OSError:
            shutil.copy2(source, copy)

    shutil.copytree(checkpoints_dir(run_dir), checkpoints_dir(target), copy_function=link)


def refuse_launcher() -> None:
    """Raises: UserError inside a rank: the proof starts and kills its own."""
    if started_by_launcher() or "RANK" in os.environ:
        raise UserError(
            f"prove starts its own ranks and kills them, and this process is already a rank (RANK {os.environ.get('RANK')}, "
            f"SLURM_PROCID {os.environ.get('SLURM_PROCID')}); `fanal prove CONFIG` works without torchrun, and with "
            "srun --ntasks 1"
        )


def new_folder(run_dir: str) -> Path:
    """A folder of this proof alone: RUN_DIR/prove/TIME."""
    proofs = open_run_dir(run_dir) / "prove"
    stamp, count = datetime.now(UTC).strftime("%Y%m%d-%H%M%S"), 1
    while True:
        folder = proofs / (stamp if count == 1 else f"{stamp}-{count}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            count += 1


def straight_failed(output: Path, code: int) -> int:
    """Say why there is nothing to compare; the exit code to pass on."""
    lines = output.read_text(errors="replace").splitlines()
    told = next((line for line in reversed(lines) if line.startswith("error: ")), "\n".join(lines[-20:]))
    print(f"{told}\nthe straight run ended with exit code {code}, so nothing was proved; see {output}", file=sys.stderr)
    return code if code in (WRONG_INPUT, DAMAGED) else CRASH
