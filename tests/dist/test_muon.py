"""Muon where replicas share a matrix in other ways than in test_optimizers.py, and what it leaves on the disk."""

from pathlib import Path

import numpy as np
import pytest

from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.config.derive import world_size
from pretrain.config.schema import RunConfig
from pretrain.inspect.bounds import BF16
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.optim.registry import num_states
from tests.dist.harness import make_run
from tests.dist.optimizer_ranks import Job
from tests.dist.test_optimizers import (
    CASES,
    RUN,
    SAVED,
    Trained,
    assert_as_the_reference,
    assert_same_bits,
    checkpoints_dir,
    step_name,
    train_under,
)
from tests.runs.cases import DP2, NO_DISTRIBUTED_OPTIMIZER, PP2, TP2

LAYOUTS = {
    "dp2-replicated": (*DP2, *NO_DISTRIBUTED_OPTIMIZER),
    "tp2-dp2": (*TP2, *DP2),
    "tp2-dp2-replicated": (*TP2, *DP2, *NO_DISTRIBUTED_OPTIMIZER),
    "pp2-dp2": (*PP2, *DP2),
}


IN_BF16 = "tp2-dp2", "tp2-dp2-replicated"


def run_of(trained: Trained, layout: str, kind: str) -> RunConfig:
    bf16 = ("train.precision=bf16",) if kind.startswith("bf16") else ()
    overrides = (*LAYOUTS[layout], *RUN, *CASES["muon"].overrides, *bf16)
    return make_run(trained.config, trained.folder / layout / kind, *overrides)


def saved(trained: Trained, layout: str, kind: str, step: int = 20) -> Path:
    return checkpoints_dir(run_of(trained, layout, kind).run_dir) / step_name(step)


@pytest.fixture(scope="module")
def muon(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """In every layout a straight run and a resume of its middle, in some in bf16 too; the initial weights, which one rank writes."""
    muon = Trained(tmp_path_factory.mktemp("muon"), small_run)
    train_under("one", [Job(run=muon.run("one", "straight", "muon"))])
    for layout in LAYOUTS:
        jobs = []
        for kind, resumed in (("straight", "resumed"), ("bf16", "bf16-resumed"))[: 1 + (layout in IN_BF16)]:
            middle = saved(muon, layout, kind, SAVED)
            jobs += [Job(run=run_of(muon, layout, kind)), Job(run=run_of(muon, layout, resumed), resumes=middle)]
        train_under(layout, jobs)
    return muon


@pytest.mark.parametrize("layout", LAYOUTS)
def test_replicas_that_share_matrices_come_to_the_weights_and_states_of_a_plain_muon(
    muon: Trained, layout: str
) -> None:
    assert_as_the_reference(muon, saved(muon, layout, "straight"), "muon")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resume_with_muon_equals_the_straight_run_bit_for_bit(muon: Trained, layout: str) -> None:
    assert_same_bits(saved(muon, layout, "resumed"), saved(muon, layout, "straight"))


@pytest.mark.parametrize("layout", IN_BF16)
def test_muon_over_bf16_weights_resumes_bit_for_bit_and_follows_fp32_within_rounding(
    muon: Trained, layout: str
) -> None:
    assert_same_bits(saved(muon, layout, "bf16-resumed"), saved(muon, layout, "bf16"))
    straight = dict(read_whole(saved(muon, layout, "straight")))
    for name, values in read_whole(saved(muon, layout, "bf16")):
        if name.endswith("/param"):
            error = np.linalg.norm(values - straight[name]) / np.linalg.norm(straight[name])
            assert 0 < error < BF16.optimizer / 10, f"{name}: {error:.1e}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_of_muon_has_no_second_moments_of_matrices_and_the_size_that_is_foreseen(
    muon: Trained, layout: str
) -> None:
    checkpoint, run = saved(muon, layout, "straight"), run_of(muon, layout, "straight")
    index = read_index(checkpoint)
    assert index.states == ("param", "exp_avg", "exp_avg_sq")
    assert index.states_of("decoder.layers.1.mlp.linear_fc2.weight") == ("param", "exp_avg")
    assert index.states_of("output_layer.weight") == index.states
    foreseen = checkpoint_bytes(run.model, num_states=num_states(run.optim))
    stored = sum(path.stat().st_size for path in (checkpoint / "shards").iterdir())
    assert 0 <= stored - foreseen < 64 * 1024 * world_size(run.parallel)
    assert not verify_checkpoint(checkpoint, deep=True).problems
