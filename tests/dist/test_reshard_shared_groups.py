"""Layouts whose ranks share key/value groups, or hold uneven parts of a vocabulary, load what others saved, and others what they did."""

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fanal.run_folder import checkpoints_dir, step_name
from pretrain.checkpoint.disk.stored_sums import sum_problems
from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.parallel.local import run_local_ranks
from tests.dist.harness import Trace, assert_same_training, make_run, read_trace
from tests.dist.resharding import (
    FRESH_STEP,
    load_all,
    load_the_heads_of_the_first_group,
    save_every_copy,
    save_sources,
)
from tests.dist.test_reshard_grid import TRAINED, assert_same_numbers, described, last_five, run_layout
from tests.runs.cases import DP2, PP2, SP, TIED, TP2

TP4 = ("parallel.tensor_model_parallel_size=4",)
LAYOUTS = {"tp1": (), "tp4-sp": (*TP4, *SP), "tp2-pp2": (*TP2, *PP2), "tp2-dp2": (*TP2, *DP2)}
NAMES = list(LAYOUTS)
PAIRS = list(itertools.permutations(NAMES, 2))
ODD = (
    "model.hidden_size=72", "model.num_attention_heads=4", "model.ffn_hidden_size=100", "model.vocab_size=250",
    "model.make_vocab_size_divisible_by=251", "model.add_qkv_bias=true", "model.qk_layernorm=true",
)  # fmt: skip
KINDS = {
    "two-groups": (*ODD, "model.num_query_groups=2", "model.qk_layernorm_scope=full", "optim.ema_decay=0.9"),
    "one-group-bf16-tied": (*ODD, "model.num_query_groups=1", *TIED, "train.precision=bf16"),
    "one-group-muon": (*ODD, "model.num_query_groups=1", "optim.name=muon"),
}  # fmt: skip
"""Of four query heads: at TP4 ranks share each kind's groups, at TP2 a single one."""
RUN = (*TRAINED, "model.num_query_groups=1", "model.make_vocab_size_divisible_by=1", "model.vocab_size=2001")


@dataclass(frozen=True)
class Grid:
    folder: Path
    config: Path
    straight: Trace
    """Of ten steps on one rank."""
    resumed: dict[tuple[str, str], Trace]
    """By (source, target)."""

    def saved(self, source: str, kind: str, step: int) -> Path:
        return checkpoints_dir(self.folder / source / kind) / step_name(step)


@pytest.fixture(scope="module")
def grid(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Save under every layout, then load all of that under every layout."""
    folder = tmp_path_factory.mktemp("grid")
    for number, (name, layout) in enumerate(LAYOUTS.items()):
        kinds = [make_run(small_run, folder / name / kind, *layout, *o) for kind, o in KINDS.items()]
        ends = (f"train.train_steps={10 if number == 0 else 5}", "optim.lr_decay_samples=40")
        trained = make_run(small_run, folder / name / "trained", *layout, *RUN, *ends)
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
            run = make_run(small_run, folder / target / f"from-{source}", *layout, *RUN)
            shutil.copytree(grid.saved(source, "trained", 5), checkpoints_dir(run.run_dir) / step_name(5))
            resumed.append(run)
        run_layout(load_all, kinds, resumed, run=resumed[0])
        for run in resumed:
            source = Path(run.run_dir).name.removeprefix("from-")
            grid.resumed[source, target] = read_trace(Path(run.run_dir), 0, None)
    return grid


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_what_one_layout_saved_another_loads_to_the_last_bit(grid: Grid, source: str, target: str) -> None:
    number = NAMES.index(source)
    for kind in KINDS:
        checkpoint = grid.saved(target, f"{kind}-again", number + 1)
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
    first = grid.saved("tp1", kind, FRESH_STEP)
    expected = dict(read_whole(first))
    for name in NAMES[1:]:
        checkpoint = grid.saved(name, kind, FRESH_STEP)
        assert described(read_index(checkpoint)) == described(read_index(first))
        for key, found in read_whole(checkpoint):
            assert np.array_equal(found.view(np.uint32), expected[key].view(np.uint32)), f"{key} of {name}"


def test_heads_that_are_read_from_the_first_group_are_noticed(grid: Grid, tmp_path: Path) -> None:
    run = make_run(grid.config, tmp_path / "numbers", *LAYOUTS["tp4-sp"], *KINDS["two-groups"])
    source = grid.saved("tp1", "two-groups", 1)
    code, failure = run_local_ranks(
        load_the_heads_of_the_first_group, run, source,
        preload=["pretrain.train.loop"], num_ranks=4, device_type="cpu", log_dir=tmp_path / "logs",
    )  # fmt: skip
    # The second group's first holder writes what it has read, which is the first group's.
    assert code == 0, failure
    with pytest.raises(AssertionError):
        assert_same_numbers(checkpoints_dir(run.run_dir) / step_name(1), source, 0)


def test_copies_that_every_holder_writes_are_refused(grid: Grid, tmp_path: Path) -> None:
    run = make_run(grid.config, tmp_path / "numbers", *LAYOUTS["tp4-sp"], *KINDS["two-groups"])
    code, failure = run_local_ranks(
        save_every_copy, run, grid.saved("tp1", "two-groups", 1),
        preload=["pretrain.train.loop"], num_ranks=4, device_type="cpu", log_dir=tmp_path / "logs",
    )  # fmt: skip
    assert code != 0 and failure is not None and "linear_qkv" in failure.text
