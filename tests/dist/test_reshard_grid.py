"""Every layout loads what every other layout has saved: the same numbers to the last bit, and the training goes on the same."""

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fanal import checkpoint_files
from fanal.run_folder import checkpoints_dir, step_name
from pretrain.checkpoint.disk.stored_sums import sum_problems
from pretrain.checkpoint.disk.tensor_index import TensorIndex, read_index
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.config.derive import world_size
from pretrain.config.schema import RunConfig
from pretrain.parallel.local import run_local_ranks
from pretrain.plan.retention import checkpoint_inodes
from tests.dist.harness import Trace, assert_same_training, make_run, read_trace
from tests.dist.resharding import (
    FAULTS,
    FRESH_STEP,
    SMALL_FILE_BYTES,
    load_all,
    load_with_faults,
    numbers,
    save_sources,
)
from tests.runs.cases import DP2, NO_DISTRIBUTED_OPTIMIZER, ONE_AND_THREE, PP2, SP, TIED, TP2, VP2
from tests.runs.context_cases import CP2

LAYOUTS = {
    "tp1": (),
    "tp2-sp": (*TP2, *SP),
    "pp2": PP2,
    "pp2-vp2": (*PP2, *VP2),
    "pp2-1-3": (*PP2, *ONE_AND_THREE),
    "dp2": DP2,
    "dp2-replicated": (*DP2, *NO_DISTRIBUTED_OPTIMIZER),
    "tp2-pp2": (*TP2, *PP2),
    "cp2-tp2-sp": (*CP2, *TP2, *SP),
    "cp2-dp2-replicated": (*CP2, *DP2, *NO_DISTRIBUTED_OPTIMIZER),
}
NAMES = list(LAYOUTS)
PAIRS = list(itertools.permutations(NAMES, 2))
UNEVEN = (
    "model.hidden_size=72", "model.num_attention_heads=4", "model.num_query_groups=2", "model.ffn_hidden_size=100",
    "model.vocab_size=250",
)  # fmt: skip
"""Sizes with which the distributed optimizer cuts a row of a tied model in the middle, and a vocabulary that is padded."""
KINDS = {
    "fp32": (*UNEVEN, "optim.ema_decay=0.9"),
    "bf16-tied": (*UNEVEN, *TIED, "train.precision=bf16"),
    "fp32-tied": (*UNEVEN, *TIED),
    "ademamix": (
        *UNEVEN, "optim.name=ademamix", "optim.ademamix_alpha_warmup_steps=0", "optim.ademamix_beta3_warmup_steps=0",
    ),
    "muon": (*UNEVEN, *TIED, "optim.name=muon"),
}  # fmt: skip
"""With AdEMAMix every parameter has a state more, with Muon the matrices of the layers have one less."""
TRAINED = ("data.seq_length=32", "train.global_batch_size=4", "data.validation=[]", "checkpoint.interval=5")


@dataclass(frozen=True)
class Grid:
    """The folders and traces of all runs."""

    folder: Path
    config: Path
    straight: Trace
    """Of ten steps on one rank."""
    resumed: dict[tuple[str, str], Trace]
    """By (source, target)."""

    def saved(self, source: str, kind: str, step: int) -> Path:
        return checkpoints_dir(self.folder / source / kind) / step_name(step)

    def saved_again(self, source: str, target: str, kind: str) -> Path:
        return checkpoints_dir(self.folder / target / f"{kind}-again") / step_name(NAMES.index(source) + 1)


def run_layout(work: object, *args: object, run: RunConfig) -> None:
    """Ranks of this run's layout that do some work."""
    code, failure = run_local_ranks(
        work, *args,  # type: ignore[arg-type]
        preload=["pretrain.train.loop"], num_ranks=world_size(run.parallel), device_type="cpu", log_dir=Path(run.run_dir) / "logs",
    )  # fmt: skip
    assert code == 0, f"{run.run_dir}: {failure and failure.text}"


def last_five(trace: Trace) -> Trace:
    kept = {step for step in trace.losses if step > 5}
    fields = ("losses", "grad_norms", "loss_by_domain")
    return Trace(**vars(trace) | {name: {step: getattr(trace, name)[step] for step in kept} for name in fields})


@pytest.fixture(scope="module")
def grid(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Save under every layout, then load all of that under every layout."""
    folder = tmp_path_factory.mktemp("grid")
    for number, (name, layout) in enumerate(LAYOUTS.items()):
        kinds = [make_run(small_run, folder / name / kind, *layout, *o) for kind, o in KINDS.items()]
        # The first one goes on to step 10 and is what the others are compared with.
        steps = 10 if number == 0 else 5
        ends = (f"train.train_steps={steps}", "optim.lr_decay_samples=40")
        trained = make_run(small_run, folder / name / "trained", *layout, *TRAINED, *ends)
        run_layout(save_sources, kinds, trained, number, run=trained)
    grid = Grid(folder, small_run, read_trace(folder / "tp1" / "trained", 0, None), {})
    for target, layout in LAYOUTS.items():
        kinds = [
            (
                make_run(small_run, folder / target / f"{kind}-again", *layout, *o),
                [grid.saved(source, kind, NAMES.index(source) + 1) for source in NAMES],
            )
            for kind, o in KINDS.items()
        ]
        resumed = []
        for source in (name for name in NAMES if name != target):
            run = make_run(small_run, folder / target / f"from-{source}", *layout, *TRAINED)
            shutil.copytree(grid.saved(source, "trained", 5), checkpoints_dir(run.run_dir) / step_name(5))
            resumed.append(run)
        run_layout(load_all, kinds, resumed, run=resumed[0])
        for run in resumed:
            source = Path(run.run_dir).name.removeprefix("from-")
            grid.resumed[source, target] = read_trace(Path(run.run_dir), 0, None)
    return grid


def assert_same_numbers(checkpoint: Path, source: Path, number: int) -> None:
    """Names, shapes and bits of everything are what the source was given, and what its own files hold."""
    before, after = read_index(source), read_index(checkpoint)
    assert described(after) == described(before) and after.num_updates == number + 1
    stored = dict(read_whole(source))
    for name, found in read_whole(checkpoint):
        expected = numbers(number, *name.rsplit("/", 1), found.shape)
        assert np.array_equal(found.view(np.uint32), expected.view(np.uint32)), f"{name} of {checkpoint}"
        assert np.array_equal(found.view(np.uint32), stored.pop(name).view(np.uint32)), f"{name} of {source}"
    assert not stored


def described(index: TensorIndex) -> dict[str, tuple[tuple[int, ...], str]]:
    return {tensor.name: (tensor.shape, tensor.weights_sum) for tensor in index.tensors.values()}


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_what_one_layout_saved_another_loads_to_the_last_bit(grid: Grid, source: str, target: str) -> None:
    number = NAMES.index(source)
    for kind in KINDS:
        checkpoint = grid.saved_again(source, target, kind)
        assert_same_numbers(checkpoint, grid.saved(source, kind, number + 1), number)
        assert not verify_checkpoint(checkpoint, deep=True).problems and not list(sum_problems(checkpoint))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_next_five_steps_in_another_layout_are_those_of_the_straight_run(
    grid: Grid, source: str, target: str
) -> None:
    trace = grid.resumed[source, target]
    assert trace.losses.keys() == {6, 7, 8, 9, 10}
    assert_same_training(trace, last_five(grid.straight))


@pytest.mark.parametrize("kind", KINDS)
def test_initial_values_are_saved_as_the_same_tensors_by_every_layout(grid: Grid, kind: str) -> None:
    """They depend on names and seed alone, so this says that each layout knows what its numbers are."""
    first = grid.saved("tp1", kind, FRESH_STEP)
    expected = dict(read_whole(first))
    for name in NAMES[1:]:
        checkpoint = grid.saved(name, kind, FRESH_STEP)
        assert described(read_index(checkpoint)) == described(read_index(first))
        for key, found in read_whole(checkpoint):
            assert np.array_equal(found.view(np.uint32), expected[key].view(np.uint32)), f"{key} of {name}"


def test_the_grid_has_rows_cut_in_the_middle_and_files_of_more_than_one_rank(grid: Grid) -> None:
    for kind in KINDS:
        index = read_index(grid.saved("dp2", kind, FRESH_STEP))
        stored = [part for tensor in index.tensors.values() for part in tensor.stored]
        if "tied" in kind:  # else the model is symmetric, and its middle is a tensor's end
            assert any(part.box.offset[1:] not in ((), (0,)) for part in stored), "no row was cut"
        files = {part.file for part in stored}
        assert {file % 2 for file in files} == {0, 1} and len(files) > 4, "several files of each rank"


@pytest.mark.parametrize("name", NAMES)
def test_preflight_counts_the_files_that_every_layout_writes(
    grid: Grid, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_files, "FILE_BYTES", SMALL_FILE_BYTES)
    for kind, overrides in KINDS.items():
        run = make_run(grid.config, grid.folder / name / kind, *LAYOUTS[name], *overrides)
        folder = grid.saved(name, kind, FRESH_STEP)
        counted, _ = checkpoint_inodes(run, num_ranks=world_size(run.parallel))
        assert 1 + sum(1 for _ in folder.rglob("*")) == counted > 8 + world_size(run.parallel), (
            "several files of each rank"
        )


def test_each_planted_fault_of_loading_fails_both_comparisons(grid: Grid, tmp_path: Path) -> None:
    run = make_run(grid.config, tmp_path / "numbers", *TP2, *KINDS["fp32"])
    resumed = make_run(grid.config, tmp_path / "resumed", *TP2, *TRAINED)
    for fault in FAULTS:
        copy = checkpoints_dir(tmp_path / "resumed" / fault) / step_name(5)
        shutil.copytree(grid.saved("tp1", "trained", 5), copy)
    source = grid.saved("tp1", "fp32", 1)
    run_layout(load_with_faults, run, source, resumed, run=run)
    for fault in FAULTS:
        with pytest.raises(AssertionError):
            assert_same_numbers(checkpoints_dir(tmp_path / "numbers" / fault) / step_name(1), source, 0)
        with pytest.raises(AssertionError, match="more than"):
            assert_same_training(read_trace(tmp_path / "resumed" / fault, 0, None), last_five(grid.straight))
