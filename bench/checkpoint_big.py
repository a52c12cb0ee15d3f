"""Saving and loading more than 1 GiB: this framework, torch's own checkpoints, a copy in memory and the bare disk.

    python -m bench.checkpoint_big [--folder DIR] [--rounds N] [save|load]

save  how long training pauses, and how long until a checkpoint is complete on the disk
load  how long until the state is back, the files not in the page cache
Results are added to bench/results/checkpoint.md. The folder lies on the disk that is measured.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.checkpoint_peers import Memory, TorchCheckpoints
from bench.checkpoint_state import Bench, open_bench
from bench.compare import Timing, append_result, drop_from_page_cache, ratio, shuffled, table
from fanal.run_folder import checkpoints_dir
from pretrain.checkpoint.loading.load import load_checkpoint
from pretrain.checkpoint.saving.replicas import check_replicas, sums_of
from pretrain.checkpoint.saving.save import Saver, open_saver
from pretrain.model.placement import place_parameters
from pretrain.state import TrainState

RESULTS = Path(__file__).parent / "results" / "checkpoint.md"
NUM_LAYERS = 6
COPY, RAW, RAW_DIRECT = "memcpy on one core", "bare disk", "bare disk, O_DIRECT"
STALL, COMPLETE = "ours", "ours, complete"


def timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


class Saves:
    """Every contender's save; each leaves the disk as quiet as it found it."""

    def __init__(self, bench: Bench, saver: Saver, folder: Path) -> None:
        self._bench, self._saver, self._folder = bench, saver, folder / "peers"
        self._memory = Memory(bench.num_bytes)
        self._torch = {
            kind: TorchCheckpoints(bench.tensors, process=kind == "process") for kind in ("thread", "process")
        }
        self._placements = place_parameters(bench.model, bench.world)
        self._step = 1  # saved when both sides were proved equal

    def contenders(self) -> dict[str, Callable[[], dict[str, float]]]:
        return {
            "ours": self._ours,
            "async_save thread": lambda: self._async_save("thread"),
            "async_save process": lambda: self._async_save("process"),
            "dcp.save": lambda: self._clean({"dcp.save": lambda: self._torch["thread"].save(self._folder)}),
            "memory": lambda: self._clean(
                {
                    COPY: self._memory.copy,
                    "of it: sums of the weights, compared": lambda: check_replicas(
                        self._placements, sums_of(self._placements), self._bench.world
                    ),
                    "of it: the copy": self._saver._staging.fill,
                }
            ),
            "raw": lambda: self._clean({RAW: lambda: self._memory.write(self._folder / "raw", direct=False)}),
            "raw direct": lambda: self._clean(
                {RAW_DIRECT: lambda: self._memory.write(self._folder / "raw", direct=True)}
            ),
        }

    def _ours(self) -> dict[str, float]:
        self._clean({})
        self._step += 1
        state = TrainState(step=self._step)
        started = time.perf_counter()
        self._saver.begin(state, self._bench.reader.position(0))
        stall_s = time.perf_counter() - started
        self._saver.settle()
        complete_s = time.perf_counter() - started
        assert self._saver.newest is not None
        self._clean({})
        return {STALL: stall_s, COMPLETE: complete_s}

    def _async_save(self, kind: str) -> dict[str, float]:
        self._clean({})
        started = time.perf_counter()
        save = self._torch[kind].begin(self._folder)
        stall_s = time.perf_counter() - started
        save.wait()
        complete_s = time.perf_counter() - started
        self._clean({})
        return {f"async_save, {kind}": stall_s, f"async_save, {kind}, complete": complete_s}

    def _clean(self, acts: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Remove what earlier saves left, wait for the disk, then time some acts."""
        checkpoints = checkpoints_dir(self._bench.run.run_dir)
        for folder in (self._folder, checkpoints):
            shutil.rmtree(folder, ignore_errors=True)
        self._folder.mkdir()
        os.sync()
        found = {name: timed(act) for name, act in acts.items()}
        if found:
            self._clean({})
        return found


def prove_equal(bench: Bench, saver: Saver, folder: Path) -> None:
    """Both sides save, forget and load: every bit comes back. Leaves a checkpoint of each."""
    expected = {name: tensor.clone() for name, tensor in bench.tensors.items()}
    saver.begin(TrainState(step=1), bench.reader.position(0))
    saver.settle()
    theirs = TorchCheckpoints(bench.tensors, process=False)
    theirs.save(folder / "peers")
    for what, load in (("ours", lambda: load_ours(bench)), ("dcp", lambda: theirs.load(folder / "peers"))):
        bench.forget()
        load()
        bench.assert_holds(expected, what)


def load_ours(bench: Bench) -> None:
    """As a run does when it starts: choose, compare every byte with its hash, restore, give the model its weights."""
    start = load_checkpoint(bench.run, bench.model, bench.optimizer, bench.reader, bench.world)
    assert start.state.step == 1, f"step {start.state.step} was loaded"


def rows(timings: dict[str, Timing], num_bytes: int, *to: str, speed_of: str | None = None) -> list[list[str]]:
    """A line each: median, range, GB/s, and the ratios to these, of times or (``speed_of``) of speeds."""
    found = []
    for name, timing in timings.items():
        line = [name, f"{timing.median_s:.3f}", "{:.3f} to {:.3f}".format(*timing.range_s)]
        line.append(f"{num_bytes / timing.median_s / 1e9:.2f}")
        for other in to:
            pair = (timings[other], timing) if speed_of else (timing, timings[other])
            line.append("{:.2f} ({:.2f} to {:.2f})".format(*ratio(*pair)))
        found.append(line)
    return found


def compare_saves(bench: Bench, saver: Saver, folder: Path, rounds: int) -> None:
    timings = shuffled(Saves(bench, saver, folder).contenders(), rounds=rounds)
    whole = {
        name: timing
        for name, timing in timings.items()
        if name.endswith("complete") or name in (RAW, RAW_DIRECT, "dcp.save")
    }
    stall = {name: timing for name, timing in timings.items() if name not in whole}
    what = f"{bench.num_bytes:,} bytes in {len(bench.tensors)} tensors: fp32 masters and two moments of a bf16 model, 1 rank"
    threads = f"{torch.get_num_threads()} thread(s) of torch"
    header = ["", "s, median", f"range of {rounds}", "GB/s"]
    append_result(
        RESULTS,
        "Training pauses for a save",
        f"{what}, {threads}, memory that an earlier save has touched. Every contender once per round, in random order; "
        "ratios inside a round, median and range. Ours also reads all weights to compare replicas and hands over the position "
        "in the data, which async_save does not; its parts were timed apart. Both sides' checkpoints came back equal in every "
        "bit.\n\n" + table([*header, "time / memcpy"], rows(stall, bench.num_bytes, COPY)),
    )
    append_result(
        RESULTS,
        "From the start of a save to a complete checkpoint",
        f"{what}. The bare disk: as many bytes in blocks of 8 MiB into one file, fsync; the disk was synced before each. Ours "
        "includes the stall, SHA-256 of every byte, the seal and the new name; torch syncs its files and hashes nothing.\n\n"
        + table(
            [*header, "speed / bare disk", "speed / bare disk, O_DIRECT"],
            rows(whole, bench.num_bytes, RAW, RAW_DIRECT, speed_of="disk"),
        ),
    )


def compare_loads(bench: Bench, folder: Path, rounds: int) -> None:
    memory = Memory(bench.num_bytes)
    theirs = TorchCheckpoints(bench.tensors, process=False)
    file = folder / "raw"
    memory.write(file, direct=False)

    def cold(name: str, act: Callable[[], object]) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            drop_from_page_cache(folder)
            return {name: timed(act)}

        return run

    acts: dict[str, Callable[[], object]] = {
        "ours, every byte compared with its hash": lambda: load_ours(bench),
        "dcp.load": lambda: theirs.load(folder / "peers"),
        RAW: lambda: memory.read(file, direct=False),
        RAW_DIRECT: lambda: memory.read(file, direct=True),
    }
    timings = shuffled({name: cold(name, act) for name, act in acts.items()}, rounds=rounds)
    append_result(
        RESULTS,
        "From the files to a model ready to train",
        f"{bench.num_bytes:,} bytes in {len(bench.tensors)} tensors, 1 rank, no file in the page cache. The bare disk: a file "
        "of as many bytes in blocks of 8 MiB into touched memory. Ours includes the choice of the checkpoint, SHA-256 of "
        "every byte and the bf16 weights; torch compares nothing and rounds nothing.\n\n"
        + table(
            ["", "s, median", f"range of {rounds}", "GB/s", "speed / bare disk", "speed / bare disk, O_DIRECT"],
            rows(timings, bench.num_bytes, RAW, RAW_DIRECT, speed_of="disk"),
        ),
    )


def main() -> None:
    """Make the model in the folder, prove both sides equal, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure; a temporary one if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("what", nargs="?", default="all", choices=("all", "save", "load"))
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as temporary,
        open_bench(Path(temporary), num_layers=NUM_LAYERS, precision="bf16") as bench,
        open_saver(bench.run, bench.model, bench.optimizer, bench.world) as saver,
    ):
        folder = Path(temporary)
        prove_equal(bench, saver, folder)
        if options.what in ("all", "load"):
            compare_loads(bench, folder, options.rounds)
        if options.what in ("all", "save"):
            compare_saves(bench, saver, folder, options.rounds)


if __name__ == "__main__":
    main()
