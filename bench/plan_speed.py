"""The time of a step that `fanal plan` computes with a measured machine, beside that of real runs on a CPU: `make bench-plan`.

The cores are measured as `fanal launch preflight --write-machine` does, twelve layouts of at most two ranks are trained by
`fanal train`, each rank on a core, and the factors are fitted to two of them, chosen beforehand. All of it is done in rounds, one
after the other, and medians count: ranks that wait for one another have luck. The machine should have nothing else to do.
"""

import datetime
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from bench.compare import append_result, table
from fanal.node_name import node_name
from pretrain.plan.calibration import Calibration, Factors, calibrate, calibrated, plan_of
from pretrain.plan.machine import MachineConfig, figures
from pretrain.plan.measure import measure
from pretrain.plan.measured_machine import Measured, machine_of
from pretrain.plan.run_log import LoggedRun, logged_run
from tests.dist.measured_ranks import ROOT
from tests.runs.small import make_small_data, write_small_run

RESULTS = Path(__file__).parent / "results" / "plan_speed.md"
STEPS = 13
ROUNDS = 3
"""Of measuring the cores and training every layout."""
MODEL = (
    "model.hidden_size=384", "model.ffn_hidden_size=1024", "model.num_attention_heads=6", "model.num_query_groups=2",
    "data.seq_length=256", "train.micro_batch_size=2", "train.global_batch_size=4", f"train.train_steps={STEPS}",
    "train.validation_interval=null", "checkpoint.interval=null",
)  # fmt: skip
PIPELINE = ("parallel.pipeline_model_parallel_size=2", "train.micro_batch_size=1")
TENSOR = ("parallel.tensor_model_parallel_size=2", "parallel.sequence_parallel=true")
LAYOUTS: dict[str, tuple[str, ...]] = {
    "one rank": (),
    "one rank, micro batch 1": ("train.micro_batch_size=1",),
    "one rank, bf16": ("train.precision=bf16",),
    "all recomputed": ("train.recompute=full",),
    "parts recomputed": ("train.recompute=selective", "train.recompute_modules=[core_attn,layernorm,activation]"),
    "tensor 2 + SP": TENSOR,
    "documents, tensor 2 + SP": (*TENSOR, "data.document_mask=true"),
    "pipeline 2": PIPELINE,
    "pipeline 2 x 2 virtual stages": (*PIPELINE, "parallel.virtual_pipeline_model_parallel_size=2"),
    "tied embeddings, pipeline 2": (*PIPELINE, "model.share_embeddings_and_output_weights=true"),
    "context 2": ("parallel.context_parallel_size=2",),
    "data 2": ("parallel.data_parallel_size=2",),
}  # fmt: skip
FITTED = ("one rank", "tensor 2 + SP")
"""The layouts that factors are fitted to."""
PLANTED = 2.0
"""By how much a planted wrong factor makes products slower."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """What a machine's figures are worth for the order and the times of runs."""

    rank_correlation: float
    """Spearman's, of planned and real times."""
    worst: float
    median: float


def trained(folder: Path, name: str, round_number: int) -> LoggedRun:
    """Train a layout, and return what its log says. The run's output is shown where it fails."""
    run_dir = folder / "runs" / f"{round_number}" / name.replace(" ", "-").replace(",", "")
    overrides = (*MODEL, *LAYOUTS[name], f"run_dir={run_dir}")
    command = [sys.executable, "-W", "ignore", "-m", "fanal", "train", str(folder / "run.yaml"), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return replace(logged_run(run_dir), run_dir=name)


def middle_run(rounds: Sequence[LoggedRun]) -> LoggedRun:
    """Return the run of a layout whose step took the median time."""
    return sorted(rounds, key=lambda one: one.step_s)[len(rounds) // 2]


def middle_measured(rounds: Sequence[Measured]) -> Measured:
    """Return the medians of what was measured."""
    trees = [asdict(one) for one in rounds]
    medians = {
        name: median(tree[name] for tree in trees) for name, value in trees[0].items() if isinstance(value, float)
    }
    return replace(rounds[0], **medians)


def errors(runs: Sequence[LoggedRun], machine: MachineConfig) -> Errors:
    """Compare what is planned for runs with what they took."""
    planned = [plan_of(one, machine).step_s for one in runs]
    misses = [abs(plan / one.step_s - 1) for plan, one in zip(planned, runs, strict=True)]
    correlation = rank_correlation(planned, [one.step_s for one in runs])
    return Errors(rank_correlation=correlation, worst=max(misses), median=median(misses))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation of two series without ties."""
    ranks = [[sorted(values).index(value) for value in values] for values in (first, second)]
    count = len(first)
    return 1 - 6 * sum((one - other) ** 2 for one, other in zip(*ranks, strict=True)) / (count * (count**2 - 1))


def report(rounds: Sequence[Sequence[LoggedRun]], machine: MachineConfig, fitted: Calibration) -> str:
    """Return the table of all runs, and what the plan is worth before and after the fit, and with a wrong factor."""
    after = calibrated(machine, fitted.factors)
    wrong = calibrated(after, Factors(products=PLANTED))
    runs, rows = [middle_run(of_layout) for of_layout in zip(*rounds, strict=True)], []
    for number, one in enumerate(runs):
        steps_ms = [of_round[number].step_s * 1e3 for of_round in rounds]
        before_s, after_s = (plan_of(one, at).step_s for at in (machine, after))
        rows.append(
            (
                one.run_dir + ("*" if one.run_dir in FITTED else ""), f"{one.num_ranks}", f"{one.step_s * 1e3:,.0f}",
                f"{min(steps_ms):,.0f} to {max(steps_ms):,.0f}",
                f"{before_s * 1e3:,.0f}", f"{before_s / one.step_s - 1:+.1%}", f"{after_s * 1e3:,.0f}",
                f"{after_s / one.step_s - 1:+.1%}",
            )
        )  # fmt: skip
    lines = [
        f"{name}: rank correlation {found.rank_correlation:.3f}, worst error {found.worst:.1%}, median {found.median:.1%}."
        for name, found in (
            ("As measured", errors(runs, machine)),
            (f"Fitted to the two marked by * ({_factors(fitted)})", errors(runs, after)),
            (f"The same, and products planted {PLANTED:g} times as slow", errors(runs, wrong)),
        )
    ]
    header = ("layout", "ranks", "ms a step", "in rounds", "planned", "error", "fitted", "error")
    return "\n\n".join([table(header, rows), *lines, _figures(machine)])


def _factors(fitted: Calibration) -> str:
    return ", ".join(f"{name} x{value:.2f}" for name, value in asdict(fitted.factors).items())


def _figures(machine: MachineConfig) -> str:
    known = {name: figure.value for name, figure in figures(machine)}
    link = known["node_gb_per_s"]
    return (
        f"Measured for a core: {known['fp32_tflops'] * 1e3:.1f} GFLOP/s in fp32 and {known['bf16_tflops'] * 1e3:.1f} in bf16, of "
        f"which products reach {known['fp32_product_fraction']:.0%} and {known['product_fraction']:.0%}, and attention "
        f"{known['fp32_attention_fraction']:.0%} and {known['attention_fraction']:.0%}; copies "
        f"{known['memory_gb_per_s']:.1f} GB/s, of which elementwise kernels reach {known['fp32_memory_fraction']:.0%} and "
        f"{known['memory_fraction']:.0%}; gathers {link * known['collective_fraction']:.2f} GB/s and "
        f"{known['node_latency_us']:.0f} us, sums {link * known['sum_fraction']:.2f} GB/s and "
        f"{known['node_sum_latency_us']:.0f} us; host {known['host_ms_per_layer']:.2f} ms a layer."
    )


def main(words: Sequence[str]) -> int:
    """Train all layouts, or those with a word in their names and the two that are fitted, and append to plan_speed.md."""
    names = [name for name in LAYOUTS if not words or name in FITTED or any(word in name for word in words)]
    today = datetime.datetime.now(datetime.UTC).date()
    with tempfile.TemporaryDirectory(prefix="fanal-plan-speed-") as path:
        folder = Path(path)
        make_small_data(folder)
        write_small_run(folder)
        measured, rounds = [], []
        for number in range(ROUNDS):
            measured.append(measure(device="cpu", precision="fp32"))
            rounds.append([trained(folder, name, number) for name in names])
    machine = machine_of(middle_measured(measured), None, node=node_name(), date=today)
    runs = [middle_run(of_layout) for of_layout in zip(*rounds, strict=True)]
    fitted = calibrate([one for one in runs if one.run_dir in FITTED], machine, date=today.isoformat())
    said = report(rounds, machine, fitted)
    print(said)
    append_result(RESULTS, "Planned and real time of a step on a CPU", said)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
