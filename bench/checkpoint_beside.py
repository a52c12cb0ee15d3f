"""What a save costs the training steps beside it, on a machine whose every core is training.

    python -m bench.checkpoint_beside [--folder DIR] [--rounds N]

The same steps are timed alone, with a save begun just before them, and with that save's writer process made nice. They are
in fp32: a CPU without bf16 instructions takes 60 times as long for a product in bf16, and the save would be lost in it.
Results are added to bench/results/checkpoint.md.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from bench.checkpoint_big import NUM_LAYERS, RESULTS
from bench.checkpoint_state import Bench, open_bench
from bench.compare import append_result, ratio, shuffled, table
from fanal.run_folder import checkpoints_dir
from pretrain.checkpoint.saving.save import Saver, open_saver
from pretrain.data.batch import train_micro_batches
from pretrain.state import TrainState
from pretrain.train.step import train_step

NUM_STEPS, NICE = 4, 10
ALONE, BESIDE, BESIDE_NICE = (
    f"{NUM_STEPS} steps",
    f"{NUM_STEPS} steps beside a save",
    f"the same, its writer at nice {NICE}",
)


class Steps:
    """Steps with and without a save."""

    def __init__(self, bench: Bench, saver: Saver) -> None:
        self._bench, self._saver = bench, saver
        self._saves = 0

    def alone(self) -> dict[str, float]:
        return {ALONE: self._steps()}

    def beside(self) -> dict[str, float]:
        return self._with_save(BESIDE)

    def beside_nice(self) -> dict[str, float]:
        writer = self._saver._writer._process
        assert writer is not None
        before = {task: os.getpriority(os.PRIO_PROCESS, task) for task in _threads(writer.pid)}
        for task in before:
            os.setpriority(os.PRIO_PROCESS, task, NICE)  # threads that it starts are as nice as itself
        try:
            return self._with_save(BESIDE_NICE)
        finally:
            for task, niceness in before.items():
                os.setpriority(os.PRIO_PROCESS, task, niceness)

    def _with_save(self, name: str) -> dict[str, float]:
        shutil.rmtree(checkpoints_dir(self._bench.run.run_dir), ignore_errors=True)
        os.sync()
        self._saves += 1
        started = time.perf_counter()
        self._saver.begin(TrainState(step=self._saves), self._bench.reader.position(0))
        steps_s = self._steps()
        self._saver.settle()
        (report,) = self._saver.reports()
        assert report.save_s <= time.perf_counter() - started
        return {name: steps_s, f"{name}: the save": report.save_s}

    def _steps(self) -> float:
        bench, run = self._bench, self._bench.run
        started = time.perf_counter()
        for _ in range(NUM_STEPS):
            batches = train_micro_batches(bench.reader, run.train, bench.world, consumed_samples=0, global_batch_size=1)
            train_step(
                bench.model,
                bench.optimizer,
                batches,
                run,
                bench.world,
                state=TrainState(),
                global_batch_size=1,
                domains=bench.reader.data.domains,
            )
            self._saver.poll()
        return time.perf_counter() - started


def _threads(process: int) -> list[int]:
    return [int(path.name) for path in Path(f"/proc/{process}/task").iterdir()]


def compare_steps(bench: Bench, saver: Saver, rounds: int) -> None:
    steps = Steps(bench, saver)
    timings = shuffled({ALONE: steps.alone, BESIDE: steps.beside, BESIDE_NICE: steps.beside_nice}, rounds=rounds)
    rows = []
    for name, timing in timings.items():
        line = [name, f"{timing.median_s:.2f}", "{:.2f} to {:.2f}".format(*timing.range_s)]
        is_steps = not name.endswith("the save")
        line.append("{:.2f} ({:.2f} to {:.2f})".format(*ratio(timing, timings[ALONE])) if is_steps else "")
        rows.append(line)
    append_result(
        RESULTS,
        "Training steps beside a save",
        f"{bench.num_bytes:,} bytes to save, 1 rank that trains in fp32 on every core; the steps are those right after the stall, "
        "which is not counted. Ratios inside a round, median and range.\n\n"
        + table(["", "s, median", f"range of {rounds}", "time / alone"], rows),
    )


def main() -> None:
    """Make the model in the folder, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a folder on the disk to save to; a temporary one if left out")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as temporary,
        open_bench(Path(temporary), num_layers=NUM_LAYERS, precision="fp32") as bench,
        open_saver(bench.run, bench.model, bench.optimizer, bench.world) as saver,
    ):
        compare_steps(bench, saver, options.rounds)


if __name__ == "__main__":
    main()
