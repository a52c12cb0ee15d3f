"""Documents kept apart: every layout trains what one rank trains, and that is each document by itself."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from pretrain.config.schema import RunConfig
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.optim.schedule import learning_rate
from pretrain.parallel.local import run_local_ranks
from tests.dist.harness import Trace, assert_same_training, make_run, run_and_trace
from tests.dist.short_documents import write_short_documents
from tests.dist.test_independent_llama import (
    GRADIENT_TOLERANCE,
    consumed_samples_at,
    global_batch,
    shape_of,
    write_weights_and_gradients,
)
from tests.reference.llama import ReferenceLlama, gradients_by_megatron_name, train_reference
from tests.runs.cases import DOCUMENT_LAYOUTS, Layout
from tokenizer.vocabulary.spec import BOS_ID, PAD_ID

STEPS = 4


@pytest.fixture(scope="session")
def short_documents(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of the small run."""
    overrides = write_short_documents(data_folder, tmp_path_factory.mktemp("short-documents"))
    return [*overrides, f"train.train_steps={STEPS}"]


@pytest.fixture(scope="session")
def one_rank(small_run: Path, short_documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return run_and_trace(make_run(small_run, tmp_path_factory.mktemp("one-rank"), *short_documents))


@pytest.mark.parametrize("layout", DOCUMENT_LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_keeps_documents_apart_as_one_rank_does(
    layout: Layout, small_run: Path, short_documents: list[str], tmp_path: Path, one_rank: Trace
) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *short_documents, *layout.overrides))
    assert_same_training(trace, one_rank)
    assert trace.validation[STEPS] == pytest.approx(one_rank.validation[STEPS], rel=2e-6)


@pytest.mark.parametrize("layout", DOCUMENT_LAYOUTS, ids=lambda layout: layout.name)
def test_a_fault_at_the_boundaries_breaks_parity(
    layout: Layout, small_run: Path, short_documents: list[str], tmp_path: Path, one_rank: Trace
) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *short_documents, *layout.overrides), layout.fault)
    assert trace.exit_code == 0, f"the fault must go unnoticed by the run itself: {trace.failure}"
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of step \d+: .* more than"):
        assert_same_training(trace, one_rank)


class DocumentByDocument(ReferenceLlama):
    """The independent Llama, run on every document of every row by itself, from that document's position 0."""

    def loss(
        self, tokens: torch.Tensor, labels: torch.Tensor, loss_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        del loss_mask  # what counts follows from the documents
        total, count = torch.zeros(()), torch.zeros(())
        for row in torch.cat([tokens, labels[:, -1:]], dim=1):  # [s + 1]
            starts = [0, *(torch.nonzero(row[1:] == BOS_ID)[:, 0] + 1).tolist(), len(row)]
            for first, end in pairwise(starts):
                document = row[None, first:end]
                if end - first > 1:
                    mask = (document[:, 1:] != PAD_ID).float()
                    part, counted = super().loss(document[:, :-1], document[:, 1:], mask)
                    total, count = total + part, count + counted
        return total, count


def steps_of(run: RunConfig, model: ReferenceLlama, data: TrainData) -> list[tuple[float, float]]:
    """(loss, gradient norm) of every step of the reference."""
    return train_reference(
        model,
        [global_batch(run, data, step) for step in range(STEPS)],
        [learning_rate(run.optim, run.train, consumed_samples_at(run.train, step)) for step in range(STEPS)],
        betas=(run.optim.adam_beta1, run.optim.adam_beta2),
        eps=run.optim.adam_eps,
        weight_decay=run.optim.weight_decay,
        clip_grad=run.optim.clip_grad,
    )


def test_losses_and_gradients_equal_an_independent_llama_that_runs_every_document_alone(
    small_run: Path, short_documents: list[str], tmp_path: Path
) -> None:
    run = make_run(small_run, tmp_path, *short_documents, "model.init_method_std=0.05")
    code, failure = run_local_ranks(
        write_weights_and_gradients, run, num_ranks=1, device_type="cpu", log_dir=tmp_path / "logs"
    )
    assert code == 0, failure
    weights, gradients = torch.load(tmp_path / "weights.pt"), torch.load(tmp_path / "gradients.pt")
    data = TrainData(open_sources(run), run.data)

    reference = DocumentByDocument(shape_of(run), weights)
    total, count = reference.loss(*global_batch(run, data, 0))
    (total / count).backward()
    labels = global_batch(run, data, 0)[1]
    begun, padding = int((labels == BOS_ID).sum()), int((labels == PAD_ID).sum())
    assert begun > 20 and padding > 20, "boundaries and padding must take part"
    assert count == labels.numel() - begun - padding
    for name, gradient in gradients_by_megatron_name(reference).items():
        error = (gradients[name][: gradient.shape[0]] - gradient).norm() / gradient.norm()
        assert error < GRADIENT_TOLERANCE, f"gradient of {name} is {error:.1e} off"

    trace = run_and_trace(run)
    assert trace.exit_code == 0, trace.failure
    for step, (loss, grad_norm) in enumerate(steps_of(run, DocumentByDocument(shape_of(run), weights), data), start=1):
        assert trace.losses[step] == pytest.approx(loss, rel=2e-6), f"loss of step {step}"
        assert trace.grad_norms[step] == pytest.approx(grad_norm, rel=2e-5), f"gradient norm of step {step}"

    broken = run_and_trace(run, "documents_begin_one_token_late_on_one_rank")
    whole_rows = steps_of(run, ReferenceLlama(shape_of(run), weights), data)
    for losses in (broken.losses.values(), (loss for loss, _ in whole_rows)):
        for found, sound in zip(losses, trace.losses.values(), strict=True):
            assert found != pytest.approx(sound, rel=1e-4), "the comparison must tell these apart"
