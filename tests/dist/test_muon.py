"""Muon against one in plain PyTorch, in every layout, and through resumes in the same layout and in another; a fault for each."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from fanal.run_folder import checkpoints_dir, step_name
from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.config.derive import consumed_samples_at, world_size
from pretrain.config.schema import RunConfig
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.optim.registry import num_states
from pretrain.optim.schedule import learning_rate
from pretrain.parallel.local import run_local_ranks
from tests.dist.harness import PRELOAD, make_run
from tests.dist.muon_ranks import WEIGHTS, Task, train_all
from tests.dist.test_independent_llama import global_batch, shape_of
from tests.reference.muon import ReferenceMuon, trained_with_muon
from tests.runs.cases import DP2, NO_DISTRIBUTED_OPTIMIZER, PP2, SP, TP2

STEPS, SAVED = 20, 10
WEIGHT_TOLERANCE = 2e-6
"""Distance of a tensor from its reference in double precision, over the reference's norm."""
STATE_TOLERANCE = 2e-5
"""The same for what the optimizer keeps: averages of gradients, which carry the rounding of the whole step."""
LAYOUTS = {
    "one": (), "tp2-sp": (*TP2, *SP), "pp2": PP2, "dp2": DP2, "dp2-replicated": (*DP2, *NO_DISTRIBUTED_OPTIMIZER),
    "tp2-pp2": (*TP2, *PP2), "tp2-dp2": (*TP2, *DP2),
}  # fmt: skip
CHAIN = list(LAYOUTS)
RUN = (
    "optim.name=muon", f"train.train_steps={STEPS}", f"checkpoint.interval={SAVED}", "data.validation=[]",
    "data.seq_length=32", "model.init_method_std=0.05", "optim.lr=5e-4", "optim.min_lr=5e-5", "optim.adam_eps=1e-5",
    "optim.clip_grad=0.5", "optim.weight_decay=1",
)  # fmt: skip
OPTIONS = (
    "optim.muon_nesterov=false",
    "optim.muon_scale=spectral",
    "optim.muon_num_ns_steps=3",
    "optim.muon_momentum=0.8",
)
FAULTS = {
    "orthogonalized_by_each_rank_for_itself": "tp2-sp",
    "queries_keys_and_values_as_one_matrix": "one",
    "gate_and_up_as_one_matrix": "one",
    "scale_left_out": "one",
    "momentum_forgotten_at_a_resume": "one",
}
"""Functions of muon_ranks.py, and the layouts that show them."""


@dataclass(frozen=True)
class Trained:
    """Folders of all runs that were trained."""

    folder: Path
    config: Path

    def run(self, layout: str, kind: str) -> RunConfig:
        options = OPTIONS if kind == "options" else ()
        return make_run(self.config, self.folder / layout / kind, *LAYOUTS[layout], *RUN, *options)

    def saved(self, layout: str, kind: str, step: int = STEPS) -> Path:
        return checkpoints_dir(self.run(layout, kind).run_dir) / step_name(step)

    def task(self, layout: str, kind: str, *, source: str | None = None) -> Task:
        """A run, under a fault if its kind is one; with a source it resumes from the middle of that layout's straight run."""
        resumes = None if source is None else self.saved(source, "straight", SAVED)
        return Task(self.run(layout, kind), kind if kind in FAULTS else None, resumes)


def train_under(tasks: list[Task]) -> None:
    run = tasks[0].run
    code, failure = run_local_ranks(
        train_all, tasks,
        preload=PRELOAD, num_ranks=world_size(run.parallel), device_type="cpu", log_dir=Path(run.run_dir).parent / "logs",
    )  # fmt: skip
    assert code == 0, f"{run.run_dir}: {failure and failure.text}"


@pytest.fixture(scope="module")
def trained(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """In every layout a straight run, resumes of its middle and of that of the layout before, and runs under faults."""
    trained = Trained(tmp_path_factory.mktemp("muon"), small_run)
    for number, layout in enumerate(CHAIN):
        tasks = [trained.task(layout, "straight"), trained.task(layout, "resumed", source=layout)]
        if number:
            tasks.append(trained.task(layout, "resharded", source=CHAIN[number - 1]))
        else:
            tasks.append(trained.task(layout, "options"))
        for fault, shows in FAULTS.items():
            if layout == shows:
                tasks.append(trained.task(layout, fault, source=layout if "resume" in fault else None))
        train_under(tasks)
    train_under([trained.task(CHAIN[0], "resharded", source=CHAIN[-1])])
    return trained


@cache
def reference(trained: Trained, kind: str) -> tuple[dict[str, torch.Tensor], ReferenceMuon]:
    """Weights and optimizer of the plain training."""
    run = trained.run("one", kind)
    data, optim = TrainData(open_sources(run), run.data), run.optim
    batches = [global_batch(run, data, step) for step in range(STEPS)]
    rates = [learning_rate(optim, run.train, consumed_samples_at(run.train, step)) for step in range(STEPS)]
    optimizer = ReferenceMuon(
        shape=shape_of(run), momentum=optim.muon_momentum, nesterov=optim.muon_nesterov, num_steps=optim.muon_num_ns_steps,
        scale=optim.muon_scale, weight_decay=optim.weight_decay, betas=(optim.adam_beta1, optim.adam_beta2), eps=optim.adam_eps,
    )  # fmt: skip
    weights = torch.load(Path(run.run_dir) / WEIGHTS)
    return trained_with_muon(weights, batches, rates, optimizer, clip_grad=optim.clip_grad), optimizer


def assert_as_the_reference(trained: Trained, checkpoint: Path, kind: str = "straight") -> None:
    """Every weight, and every state of it, is what the plain training came to; there is no other state."""
    weights, optimizer = reference(trained, kind)
    expected = {f"{name}/param": weight for name, weight in weights.items()}
    expected |= {f"{name}/{key}": value for name, states in optimizer.states.items() for key, value in states.items()}
    found = dict(read_whole(checkpoint))
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        values = torch.from_numpy(found[name]).double()[: len(wanted)]  # the rest is padding
        error = float((values - wanted).norm() / wanted.norm())
        bound = WEIGHT_TOLERANCE if name.endswith("/param") else STATE_TOLERANCE
        assert error <= bound, f"{name}: {error:.1e} off, more than {bound:.0e}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_twenty_steps_of_muon_come_to_the_weights_and_states_of_a_plain_one(trained: Trained, layout: str) -> None:
    assert_as_the_reference(trained, trained.saved(layout, "straight"))


def test_the_keys_of_muon_do_what_they_do_in_a_plain_one(trained: Trained) -> None:
    assert_as_the_reference(trained, trained.saved("one", "options"), "options")
    with pytest.raises(AssertionError, match="off, more than"):
        assert_as_the_reference(trained, trained.saved("one", "options"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resume_with_muon_equals_the_straight_run_bit_for_bit(trained: Trained, layout: str) -> None:
    resumed, straight = trained.saved(layout, "resumed"), trained.saved(layout, "straight")
    assert read_index(resumed).num_updates == read_index(straight).num_updates == STEPS
    expected = dict(read_whole(straight))
    for name, values in read_whole(resumed):
        assert np.array_equal(values.view(np.uint32), expected.pop(name).view(np.uint32)), name
    assert not expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resume_with_muon_in_another_layout_comes_to_the_plain_one(trained: Trained, layout: str) -> None:
    assert_as_the_reference(trained, trained.saved(layout, "resharded"))


@pytest.mark.parametrize(("fault", "layout"), FAULTS.items())
def test_a_planted_fault_of_muon_is_noticed(trained: Trained, fault: str, layout: str) -> None:
    with pytest.raises(AssertionError, match="off, more than"):
        assert_as_the_reference(trained, trained.saved(layout, fault))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_of_muon_has_no_second_moments_of_matrices_and_the_size_that_is_foreseen(
    trained: Trained, layout: str
) -> None:
    checkpoint, run = trained.saved(layout, "straight"), trained.run(layout, "straight")
    index = read_index(checkpoint)
    assert index.states == ("param", "exp_avg", "exp_avg_sq")
    assert index.states_of("decoder.layers.1.mlp.linear_fc2.weight") == ("param", "exp_avg")
    assert index.states_of("output_layer.weight") == index.states
    foreseen = checkpoint_bytes(run.model, num_states=num_states(run.optim))
    stored = sum(path.stat().st_size for path in (checkpoint / "shards").iterdir())
    assert 0 <= stored - foreseen < 64 * 1024 * world_size(run.parallel)
    assert not verify_checkpoint(checkpoint, deep=True).problems
