"""Every optimizer against one in plain PyTorch, in every layout, and through a resume; a planted fault for each.

A new optimizer is a row of CASES: its keys, its reference (tests/reference/optimizers.py), and its faults (optimizer_ranks.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fanal.run_folder import checkpoints_dir, step_name
from pretrain.__main__ import cli
from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.config.derive import world_size
from pretrain.config.schema import OptimConfig, RunConfig
from pretrain.config.steps import consumed_samples_at
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.inspect.show import consequences
from pretrain.model.families.tensors import tensors_of
from pretrain.optim.registry import checkpoint_states, checkpoint_states_of, decay_described
from pretrain.optim.schedule import learning_rate
from pretrain.parallel.local import run_local_ranks
from tests.dist.harness import PRELOAD, make_run
from tests.dist.optimizer_ranks import WEIGHTS, Job, train_all
from tests.dist.test_independent_llama import global_batch, shape_of
from tests.reference.muon import ReferenceMuon
from tests.reference.optimizers import (
    ReferenceAdamW,
    ReferenceAdEMAMix,
    ReferenceLion,
    ReferenceOptimizer,
    ReferenceStableAdamW,
    trained_weights,
)
from tests.runs.cases import DP2, PP2, SP, TIED, TP2

STEPS, SAVED = 20, 10
WEIGHT_TOLERANCE = 2e-6
"""Distance of a tensor from its reference in double precision, over the reference's norm."""
SIGNS = 2e-5
"""The same where updates are signs: a number that is 0 within rounding has either, and moves by two rates the other way. A few do."""
STATE_TOLERANCE = 2e-5
"""The same for what the optimizer keeps: moments are averages of gradients, which carry the rounding of the whole step."""
LAYOUTS = {"one": (), "tp2-sp": (*TP2, *SP), "pp2": PP2, "dp2": DP2, "tp2-pp2": (*TP2, *PP2)}
RUN = (
    f"train.train_steps={STEPS}", f"checkpoint.interval={SAVED}", "data.validation=[]", "data.seq_length=32",
    "model.num_layers=2", "train.micro_batch_size=4", "checkpoint.asynchronous=false",
    "model.init_method_std=0.05", "optim.lr=5e-4", "optim.min_lr=5e-5", "optim.adam_eps=1e-5", "optim.clip_grad=0.5",
    "optim.weight_decay=1",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """An optimizer, or an option of it."""

    overrides: tuple[str, ...]
    reference: Callable[[OptimConfig], ReferenceOptimizer]
    faults: tuple[str, ...]
    """Functions of optimizer_ranks.py after which the comparison with the reference fails."""
    fault_layout: str = "one"
    """Layout in which its faults are planted."""
    weight_tolerance: float = WEIGHT_TOLERANCE


def adamw(optim: OptimConfig) -> ReferenceOptimizer:
    return ReferenceAdamW(
        peak_rate=optim.lr, weight_decay=optim.weight_decay, embeddings_decay=optim.weight_decay_on_embeddings,
        vectors_decay=optim.weight_decay_on_vectors, decay_follows_the_rate=optim.adamc_weight_decay,
        beta1=optim.adam_beta1, beta2=optim.adam_beta2, eps=optim.adam_eps,
    )  # fmt: skip


def stable_adamw(optim: OptimConfig) -> ReferenceOptimizer:
    return ReferenceStableAdamW(
        peak_rate=optim.lr, weight_decay=optim.weight_decay, beta1=optim.adam_beta1, beta2=optim.adam_beta2, eps=optim.adam_eps
    )  # fmt: skip


def ademamix(optim: OptimConfig) -> ReferenceOptimizer:
    return ReferenceAdEMAMix(
        peak_rate=optim.lr, weight_decay=optim.weight_decay, beta1=optim.adam_beta1, beta2=optim.adam_beta2,
        beta3=optim.ademamix_beta3, eps=optim.adam_eps, alpha=optim.ademamix_alpha,
        alpha_warmup=optim.ademamix_alpha_warmup_steps or 1, beta3_warmup=optim.ademamix_beta3_warmup_steps or 1,
    )  # fmt: skip


def lion(optim: OptimConfig) -> ReferenceOptimizer:
    return ReferenceLion(
        peak_rate=optim.lr, weight_decay=optim.weight_decay, beta1=optim.lion_beta1, beta2=optim.lion_beta2
    )


def muon(optim: OptimConfig) -> ReferenceOptimizer:
    return ReferenceMuon(
        peak_rate=optim.lr, weight_decay=optim.weight_decay, num_query_groups=4, kv_channels=8, momentum=optim.muon_momentum,
        nesterov=optim.muon_nesterov, num_steps=optim.muon_num_ns_steps, scale=optim.muon_scale,
        betas=(optim.adam_beta1, optim.adam_beta2), eps=optim.adam_eps,
    )  # fmt: skip


CASES = {
    "adamw": Case((), adamw, ("bias_correction_left_out",)),
    "adamw-decay-groups": Case(
        (*TIED, "optim.weight_decay_on_embeddings=false", "optim.weight_decay_on_vectors=true"), adamw,
        ("decay_of_vectors_and_embeddings_exchanged",),
    ),
    "adamc": Case(("optim.adamc_weight_decay=true",), adamw, ("decay_that_stays",)),
    "stable_adamw": Case(
        ("optim.name=stable_adamw", "optim.adam_beta2=0.99", *TIED), stable_adamw, ("tensors_not_clipped", "parts_of_tensors_clipped"),
        fault_layout="dp2",
    ),
    "ademamix": Case(
        (
            "optim.name=ademamix", "optim.adam_beta2=0.999", "optim.ademamix_beta3=0.999",
            "optim.ademamix_beta3_warmup_steps=30", "optim.ademamix_alpha_warmup_steps=15",
        ),
        ademamix, ("bias_correction_left_out", "slow_average_corrected", "beta3_along_a_line"),
    ),
    "muon": Case(
        ("optim.name=muon",), muon,
        ("orthogonalized_by_each_rank_for_itself", "queries_keys_and_values_as_one_matrix", "scale_left_out"),
        fault_layout="tp2-sp",
    ),
    "muon-keys": Case(
        (
            "optim.name=muon", *TIED, "optim.muon_nesterov=false", "optim.muon_scale=spectral", "optim.muon_num_ns_steps=3",
            "optim.muon_momentum=0.8",
        ),
        muon, ("gate_and_up_as_one_matrix",),
    ),
    "lion": Case(("optim.name=lion", "optim.lr=1e-4", "optim.min_lr=1e-5"), lion, ("lions_betas_exchanged",), weight_tolerance=SIGNS),
}  # fmt: skip
KEPT = "stable_adamw", "ademamix", "muon", "lion"
"""Cases that are resumed, one for each optimizer; AdamW is in test_resume.py and test_reshard_grid.py."""
OF_RESUMES = {"ademamix": "updates_not_counted_at_a_resume", "muon": "momentum_forgotten_at_a_resume"}
"""Faults that show in a resume alone: the warm-ups begin anew, or the momentum does."""


@dataclass(frozen=True)
class Trained:
    """Folders of all runs that were trained."""

    folder: Path
    config: Path

    def run(self, layout: str, kind: str, case: str) -> RunConfig:
        overrides = (*LAYOUTS[layout], *RUN, *CASES[case].overrides)
        return make_run(self.config, self.folder / layout / kind / case, *overrides)

    def saved(self, layout: str, kind: str, case: str, step: int = STEPS) -> Path:
        return checkpoints_dir(self.run(layout, kind, case).run_dir) / step_name(step)


def train_under(layout: str, jobs: list[Job]) -> None:
    first = jobs[0].run
    code, failure = run_local_ranks(
        train_all, jobs,
        preload=PRELOAD, num_ranks=world_size(first.parallel), device_type="cpu", log_dir=Path(first.run_dir).parent / "logs",
    )  # fmt: skip
    assert code == 0, f"{layout}: {failure and failure.text}"


@pytest.fixture(scope="module")
def trained(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Straight runs of every case in every layout; then resumes from the middle of them, and from that of the layout before."""
    trained = Trained(tmp_path_factory.mktemp("optimizers"), small_run)
    for before, layout in zip([None, *LAYOUTS], LAYOUTS, strict=False):
        jobs = [Job(run=trained.run(layout, "straight", case)) for case in CASES]
        for kind, source in (("resumed", layout), ("resharded", before)):
            if source is not None:
                jobs += [
                    Job(run=trained.run(layout, kind, case), resumes=trained.saved(source, "straight", case, SAVED))
                    for case in KEPT
                ]
        train_under(layout, jobs)
    return trained


@cache
def reference(trained: Trained, case: str) -> tuple[dict[str, torch.Tensor], ReferenceOptimizer]:
    """Weights and optimizer of the plain training of a case."""
    run = trained.run("one", "straight", case)
    data = TrainData(open_sources(run), run.data)
    batches = [global_batch(run, data, step) for step in range(STEPS)]
    rates = [learning_rate(run.optim, run.train, consumed_samples_at(run.train, step)) for step in range(STEPS)]
    optimizer = CASES[case].reference(run.optim)
    weights = torch.load(Path(run.run_dir) / WEIGHTS)
    return (
        trained_weights(shape_of(run), weights, batches, rates, optimizer, clip_grad=run.optim.clip_grad), optimizer,
    )  # fmt: skip


def assert_as_the_reference(trained: Trained, checkpoint: Path, case: str) -> None:
    """Every weight, and every state of it, is what the plain training came to."""
    weights, optimizer = reference(trained, case)
    run = trained.run("one", "straight", case)
    assert read_index(checkpoint).states == checkpoint_states(run.optim), "the registry names what is in a checkpoint"
    found = dict(read_whole(checkpoint))
    specs = tensors_of(run.model)
    states = {name: checkpoint_states_of(run.optim, specs[name]) for name in weights}
    assert found.keys() == {f"{name}/{state}" for name in weights for state in states[name]}
    for name, weight in weights.items():
        assert set(states[name]) == {"param", *optimizer.states[name]}, f"the plain optimizer keeps others of {name}"
        for state in states[name]:
            expected = weight if state == "param" else optimizer.states[name][state]
            values = torch.from_numpy(found[f"{name}/{state}"]).double()[: len(expected)]  # the rest is padding
            error = float((values - expected).norm() / expected.norm())
            bound = CASES[case].weight_tolerance if state == "param" else STATE_TOLERANCE
            assert error <= bound, f"{name}/{state}: {error:.1e} off, more than {bound:.0e}"


def assert_same_bits(checkpoint: Path, other: Path) -> None:
    assert read_index(checkpoint).num_updates == read_index(other).num_updates
    expected = dict(read_whole(other))
    for name, values in read_whole(checkpoint):
        assert np.array_equal(values.view(np.uint32), expected.pop(name).view(np.uint32)), f"{name} of {checkpoint}"
    assert not expected


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_come_to_the_weights_and_states_of_a_plain_optimizer(
    trained: Trained, case: str, layout: str
) -> None:
    assert_as_the_reference(trained, trained.saved(layout, "straight", case), case)


def test_the_updates_of_stable_adamw_are_clipped_in_some_steps_and_not_in_all(trained: Trained) -> None:
    weights, optimizer = reference(trained, "stable_adamw")
    assert isinstance(optimizer, ReferenceStableAdamW) and 0 < optimizer.clipped < STEPS * len(weights)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", KEPT)
def test_a_resume_has_every_state_of_the_straight_run_bit_for_bit(trained: Trained, case: str, layout: str) -> None:
    assert_same_bits(trained.saved(layout, "resumed", case), trained.saved(layout, "straight", case))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", KEPT)
def test_a_resume_in_another_layout_comes_to_the_plain_optimizer_s_weights(
    broken: Trained, case: str, layout: str
) -> None:
    assert_as_the_reference(broken, broken.saved(layout, "resharded", case), case)


def test_an_export_and_show_say_the_optimizer_and_leave_its_states_behind(trained: Trained, tmp_path: Path) -> None:
    run_dir = trained.run("tp2-pp2", "straight", "ademamix").run_dir
    result = CliRunner().invoke(cli, ["export", run_dir, "--to", str(tmp_path / "export")])
    assert result.exit_code == 0, result.output
    card = (tmp_path / "export" / "README.md").read_text()
    assert (
        "AdEMAMix, learning rate 0.0005 to 5e-05 (cosine), weight decay 1, betas 0.9, 0.999 and 0.999 (warmed" in card
    )
    rows = consequences(trained.run("one", "straight", "ademamix"))
    assert rows["masters and states"] == "16 bytes a parameter" and rows["optimizer"].startswith("AdEMAMix, betas 0.9")
    assert decay_described(trained.run("one", "straight", "adamw-decay-groups").optim) == (
        "weight decay 1 (none on embeddings, on norms and biases too)"
    )
    assert (
        decay_described(trained.run("one", "straight", "adamc").optim)
        == "weight decay 1 (falling with the learning rate)"
    )


@pytest.fixture(scope="module")
def broken(trained: Trained) -> Trained:
    """Runs under the faults of each case, in a folder of the fault's name. Beside them, the last resume in another layout: on one
    rank, from four."""
    jobs: dict[str, list[Job]] = {"one": []}
    for name, case in CASES.items():
        jobs.setdefault(case.fault_layout, []).extend(
            Job(run=trained.run(case.fault_layout, fault, name), fault=fault) for fault in case.faults
        )
    for case, fault in OF_RESUMES.items():
        layout = CASES[case].fault_layout
        middle = trained.saved(layout, "straight", case, SAVED)
        jobs[layout].append(Job(run=trained.run(layout, fault, case), fault=fault, resumes=middle))
    jobs["one"] += [
        Job(run=trained.run("one", "resharded", case), resumes=trained.saved("tp2-pp2", "straight", case, SAVED))
        for case in KEPT
    ]
    for layout, there in jobs.items():
        train_under(layout, there)
    return trained


@pytest.mark.parametrize(
    ("case", "fault"),
    [*((name, fault) for name, case in CASES.items() for fault in case.faults), *OF_RESUMES.items()],
)
def test_a_planted_fault_of_an_optimizer_is_noticed(broken: Trained, case: str, fault: str) -> None:
    with pytest.raises(AssertionError, match="off, more than"):
        assert_as_the_reference(broken, broken.saved(CASES[case].fault_layout, fault, case), case)
