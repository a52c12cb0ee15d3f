"""Runs with objectives: an independent Llama on the samples that anyone can recompute, other layouts, and a resume."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fanal.run_folder import checkpoints_dir, step_name
from fanal.run_progress import metrics
from pretrain.config.schema import RunConfig
from pretrain.config.steps import consumed_samples_at
from pretrain.data.forensics import sample_as_trained
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.optim.schedule import learning_rate
from pretrain.parallel.local import run_local_ranks
from tests.dist.harness import Trace, assert_same_training, make_run, run_and_trace
from tests.dist.test_independent_llama import shape_of, write_weights_and_gradients
from tests.reference.llama import ReferenceLlama, train_reference
from tests.runs.cases import DP2, OVERLAP, PP2, PP4, SP, TP2, VP2
from tests.unit.data.objective_runs import (
    END_OF_DOCUMENT,
    FILL_IN_THE_MIDDLE,
    GOLDFISH,
    MASKED_SPANS,
    SPAN_CORRUPTION,
    write_documents,
)

STEPS = 4
REARRANGED = (FILL_IN_THE_MIDDLE, SPAN_CORRUPTION, GOLDFISH, END_OF_DOCUMENT)
MASKED = (MASKED_SPANS, GOLDFISH, END_OF_DOCUMENT)
IN_LAYOUTS = (*REARRANGED, "data.document_mask=true", "train.z_loss_weight=0.01")
CHECKPOINT = ("checkpoint.interval=2",)


@pytest.fixture(scope="session")
def documents(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of the small run."""
    folder = tmp_path_factory.mktemp("documents")
    return [*write_documents(data_folder, folder, longest=60, marks=True), f"train.train_steps={STEPS}"]


@pytest.fixture(scope="session")
def one_rank(small_run: Path, documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trace]:
    """A run with a checkpoint on its way."""
    folder = tmp_path_factory.mktemp("one-rank")
    return folder, run_and_trace(make_run(small_run, folder, *documents, *IN_LAYOUTS, *CHECKPOINT))


def loss_tokens(folder: Path) -> list[int]:
    """Tokens that took part in the loss of each step, from the log."""
    return [record["loss_tokens"] for record in metrics(folder) if record["kind"] == "step"]


def recomputed(run: RunConfig, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """Inputs, labels and loss mask of the samples of a step, from 0 on, and their domains."""
    data = TrainData(open_sources(run), run.data)
    first = consumed_samples_at(run.train, step)
    numbers = range(first, first + run.train.global_batch_size)
    samples = [sample_as_trained(data, number) for number in numbers]
    tokens = torch.from_numpy(np.stack([sample.tokens for sample in samples]))
    counted = torch.from_numpy(np.stack([sample.counted for sample in samples])).float()
    sources, _ = data.places(np.array(numbers))
    return tokens[:, :-1], tokens[:, 1:], counted, [data.sources.train[source].domain for source in sources]


def test_a_run_that_predicts_nothing_ends_with_its_first_step(
    small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    """Spans from the start of each document to its end are all that there is."""
    whole = 'objective.mask_between=[{start_token: "<s>", end_token: "</s>"}]'
    trace = run_and_trace(make_run(small_run, tmp_path, *documents, "data.validation=[]", whole))
    assert trace.exit_code == 2 and trace.failure is not None
    assert "of the 512 of the first batch none counts; objective.mask_between=[] works" in str(trace.failure.error)
    assert not checkpoints_dir(tmp_path).exists() or not list(checkpoints_dir(tmp_path).iterdir())


@pytest.mark.parametrize("objectives", [REARRANGED, MASKED], ids=["rearranged", "masked"])
def test_a_run_trains_what_an_independent_llama_trains_on_the_recomputed_samples(
    objectives: tuple[str, ...], small_run: Path, documents: list[str], tmp_path: Path
) -> None:
    run = make_run(small_run, tmp_path, *documents, *objectives, "model.init_method_std=0.05")
    code, failure = run_local_ranks(
        write_weights_and_gradients, run, num_ranks=1, device_type="cpu", log_dir=tmp_path / "logs"
    )
    assert code == 0, failure
    weights = torch.load(tmp_path / "weights.pt")
    batches = [recomputed(run, step) for step in range(STEPS)]
    steps = train_reference(
        ReferenceLlama(shape_of(run), weights),
        [batch[:3] for batch in batches],
        [learning_rate(run.optim, run.train, consumed_samples_at(run.train, step)) for step in range(STEPS)],
        betas=(run.optim.adam_beta1, run.optim.adam_beta2),
        eps=run.optim.adam_eps,
        weight_decay=run.optim.weight_decay,
        clip_grad=run.optim.clip_grad,
    )
    trace = run_and_trace(run)
    assert trace.exit_code == 0, trace.failure
    for step, (loss, grad_norm) in enumerate(steps, start=1):
        assert trace.losses[step] == pytest.approx(loss, rel=2e-6), f"loss of step {step}"
        assert trace.grad_norms[step] == pytest.approx(grad_norm, rel=2e-5), f"gradient norm of step {step}"
    assert loss_tokens(tmp_path) == [int(counted.sum()) for _, _, counted, _ in batches]
    for step, (_, _, counted, domains) in enumerate(batches, start=1):
        of_domain = {
            name: sum(float(row.sum()) for row, of in zip(counted, domains, strict=True) if of == name)
            for name in domains
        }
        weighed = sum(trace.loss_by_domain[step][name] * tokens for name, tokens in of_domain.items())
        assert weighed / sum(of_domain.values()) == pytest.approx(trace.losses[step], rel=1e-12)

    broken = run_and_trace(run, "mask_forgotten_in_the_count")
    assert broken.exit_code == 0, broken.failure
    for step, (loss, _) in enumerate(steps, start=1):
        assert broken.losses[step] != pytest.approx(loss, rel=1e-2), "the comparison must tell these apart"


@pytest.mark.parametrize(
    "layout",
    [(*TP2, *SP), PP4, (*PP2, *VP2), (*DP2, *OVERLAP), (*TP2, *PP2, *DP2)],
    ids=["tp2-sp", "pp4", "pp2-vp2", "dp2-overlap", "tp2-pp2-dp2"],
)
def test_a_layout_trains_what_one_rank_trains_with_objectives(
    layout: tuple[str, ...], small_run: Path, documents: list[str], tmp_path: Path, one_rank: tuple[Path, Trace]
) -> None:
    folder, expected = one_rank
    trace = run_and_trace(make_run(small_run, tmp_path, *documents, *IN_LAYOUTS, *layout))
    assert_same_training(trace, expected)
    assert trace.validation[STEPS] == pytest.approx(expected.validation[STEPS], rel=2e-6)
    assert trace.z_losses == pytest.approx(expected.z_losses, rel=2e-6)
    assert loss_tokens(tmp_path) == loss_tokens(folder)


@pytest.mark.parametrize("fault", ["objectives_of_another_sample_on_one_rank", "mask_forgotten_on_one_rank"])
def test_a_fault_in_the_objectives_of_one_rank_breaks_parity(
    fault: str, small_run: Path, documents: list[str], tmp_path: Path, one_rank: tuple[Path, Trace]
) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *documents, *IN_LAYOUTS, *DP2), fault)
    assert trace.exit_code == 0, f"the fault must go unnoticed by the run itself: {trace.failure}"
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of step \d+: .* more than"):
        assert_same_training(trace, one_rank[1])


def test_a_resume_goes_on_with_the_same_samples_bit_for_bit_and_refuses_other_objectives(
    small_run: Path, documents: list[str], tmp_path: Path, one_rank: tuple[Path, Trace]
) -> None:
    folder, straight = one_rank
    shutil.copytree(checkpoints_dir(folder) / step_name(2), checkpoints_dir(tmp_path / "a") / step_name(2))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    resumed = run_and_trace(make_run(small_run, tmp_path / "a", *documents, *IN_LAYOUTS, *CHECKPOINT), fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    assert resumed.losses == {step: loss for step, loss in straight.losses.items() if step > 2}
    assert resumed.grad_norms == {step: norm for step, norm in straight.grad_norms.items() if step > 2}
    assert loss_tokens(tmp_path / "a") == loss_tokens(folder)[2:]
    other = (*IN_LAYOUTS, "objective.goldfish.k=5", "objective.fill_in_the_middle=null")
    refused = run_and_trace(make_run(small_run, tmp_path / "b", *documents, *other), fresh=False)
    assert refused.exit_code == 2 and refused.failure is not None
    said = str(refused.failure.error)
    assert "objective.goldfish (checkpoint {k: 4, h: 7}, config {k: 5, h: 7})" in said
    assert "objective.fill_in_the_middle (checkpoint {rate: 0.4, spm_rate: 0.3, prefix_token: <0x11>, " in said
    assert "middle_token: <0x13>}, config null)" in said and "objective.eod_mask_loss" not in said
