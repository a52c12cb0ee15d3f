"""Packed rows (data.packing best_fit): every layout trains what one rank trains, that is each piece of a document by itself."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fanal.run_folder import checkpoints_dir, step_name
from pretrain.config.schema import RunConfig
from pretrain.data.forensics import PackedSamplePlace, sample_places
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.optim.schedule import learning_rate
from pretrain.parallel.local import run_local_ranks
from tests.dist.harness import Trace, assert_same_training, make_run, run_and_trace
from tests.dist.test_independent_llama import consumed_samples_at, shape_of, write_weights_and_gradients
from tests.reference.llama import ReferenceLlama, train_reference
from tests.runs.cases import DP2, PP2, PP4, TP2, Layout
from tests.unit.data.objective_runs import write_documents
from tokenizer.shards.shard import open_shard

STEPS, SAVED = 6, 3
ALONE_STEPS = 2
"""Steps of the reference, which runs every piece by itself."""
MASK = "data.document_mask=true"
LAYOUTS = (
    Layout("dp2", (*DP2, MASK), "one_replica_reads_the_next_row_of_its_plan"),
    Layout("tp2-pp2", (*TP2, *PP2, MASK), "documents_begin_where_their_row_does"),
    Layout("pp4", (*PP4, MASK), "documents_ignored_in_the_middle"),
    Layout("dp2-one-text", DP2, "first_tokens_of_packed_documents_count_on_one_rank"),
    Layout("pp2-one-text", PP2, "first_tokens_of_packed_documents_count_on_one_rank"),
)


@pytest.fixture(scope="session")
def packed(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of the small run: documents of 3 to 152 tokens in rows of 64."""
    overrides = write_documents(data_folder, tmp_path_factory.mktemp("packed-documents"), longest=150)
    return [*overrides, "data.packing=best_fit", f"train.train_steps={STEPS}"]


@pytest.fixture(scope="session")
def one_rank(small_run: Path, packed: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Trace]:
    """By whether documents are kept apart."""
    traces = {}
    for masked in (True, False):
        folder = tmp_path_factory.mktemp(f"packed-{masked}")
        traces[masked] = run_and_trace(make_run(small_run, folder, *packed, *[MASK] * masked))
        assert traces[masked].exit_code == 0, traces[masked].failure
        assert "data.packing best_fit: " in traces[masked].output and "padding" in traces[masked].output
    return traces


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_trains_on_packed_rows_as_one_rank_does(
    layout: Layout, small_run: Path, packed: list[str], tmp_path: Path, one_rank: dict[bool, Trace]
) -> None:
    expected = one_rank[MASK in layout.overrides]
    trace = run_and_trace(make_run(small_run, tmp_path, *packed, *layout.overrides))
    assert_same_training(trace, expected)
    assert trace.validation[STEPS] == pytest.approx(expected.validation[STEPS], rel=2e-6)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_fault_in_packed_rows_breaks_parity(
    layout: Layout, small_run: Path, packed: list[str], tmp_path: Path, one_rank: dict[bool, Trace]
) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path, *packed, *layout.overrides), layout.fault)
    assert trace.exit_code == 0, f"the fault must go unnoticed by the run itself: {trace.failure}"
    with pytest.raises(AssertionError, match=r"(loss|gradient norm) of .*: .* more than"):
        assert_same_training(trace, one_rank[MASK in layout.overrides])


def after(trace: Trace, step: int) -> Trace:
    return replace(
        trace,
        losses={at: loss for at, loss in trace.losses.items() if at > step},
        grad_norms={at: norm for at, norm in trace.grad_norms.items() if at > step},
        loss_by_domain={at: losses for at, losses in trace.loss_by_domain.items() if at > step},
    )


def test_a_run_resumes_in_another_layout_and_only_on_its_own_plan(
    small_run: Path, packed: list[str], tmp_path: Path, one_rank: dict[bool, Trace]
) -> None:
    packed = [*packed, f"checkpoint.interval={SAVED}"]
    straight = run_and_trace(make_run(small_run, tmp_path / "straight", *packed, MASK, *TP2, *PP2))
    assert_same_training(straight, one_rank[True])
    for name in ("resumed", "concatenated"):
        shutil.copytree(
            checkpoints_dir(tmp_path / "straight") / step_name(SAVED),
            checkpoints_dir(tmp_path / name) / step_name(SAVED),
        )
    resumed = run_and_trace(make_run(small_run, tmp_path / "resumed", *packed, MASK, *DP2), fresh=False)
    assert_same_training(resumed, after(straight, SAVED))
    other = make_run(small_run, tmp_path / "concatenated", *packed, MASK, "data.packing=concatenate")
    refused = run_and_trace(other, fresh=False)
    assert refused.exit_code == 2 and refused.failure is not None
    assert "data.packing (checkpoint best_fit, config concatenate)" in str(refused.failure.error)


def pieces_of_steps(run: RunConfig) -> list[list[torch.Tensor]]:
    """The tokens of every piece of every step, copied from the shards where forensics says that they lie."""
    data = TrainData(open_sources(run), run.data)
    size, steps = run.train.global_batch_size, []
    for step in range(ALONE_STEPS):
        places = sample_places(data, first_sample=consumed_samples_at(run.train, step), num_samples=size)
        pieces = []
        for place in places:
            assert isinstance(place, PackedSamplePlace)
            tokens = open_shard(place.source).tokens
            for piece in place.pieces:
                held = tokens[piece.start_token : piece.start_token + piece.num_tokens]
                pieces.append(torch.from_numpy(held.astype("int64")))
        steps.append(pieces)
    return steps


class PieceByPiece(ReferenceLlama):
    """The independent Llama, run on every piece by itself. It gets the number of a step in place of tokens."""

    steps: list[list[torch.Tensor]]

    def loss(
        self, tokens: torch.Tensor, labels: torch.Tensor, loss_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        del labels, loss_mask
        total, count = torch.zeros(()), torch.zeros(())
        for piece in self.steps[int(tokens)]:
            if len(piece) > 1:
                part, counted = super().loss(piece[None, :-1], piece[None, 1:], torch.ones(1, len(piece) - 1))
                total, count = total + part, count + counted
        return total, count


def test_losses_and_gradient_norms_equal_an_independent_llama_that_runs_every_piece_alone(
    small_run: Path, packed: list[str], tmp_path: Path
) -> None:
    run = make_run(small_run, tmp_path, *packed, MASK, "model.init_method_std=0.05", f"train.train_steps={ALONE_STEPS}")
    code, failure = run_local_ranks(
        write_weights_and_gradients, run, num_ranks=1, device_type="cpu", log_dir=tmp_path / "logs"
    )
    assert code == 0, failure
    reference = PieceByPiece(shape_of(run), torch.load(tmp_path / "weights.pt"))
    reference.steps = pieces_of_steps(run)
    nothing = torch.zeros(())
    expected = train_reference(
        reference,
        [(torch.tensor(step), nothing, nothing) for step in range(ALONE_STEPS)],
        [learning_rate(run.optim, run.train, consumed_samples_at(run.train, step)) for step in range(ALONE_STEPS)],
        betas=(run.optim.adam_beta1, run.optim.adam_beta2),
        eps=run.optim.adam_eps,
        weight_decay=run.optim.weight_decay,
        clip_grad=run.optim.clip_grad,
    )
    trace = run_and_trace(run)
    assert trace.exit_code == 0, trace.failure
    for step, (loss, grad_norm) in enumerate(expected, start=1):
        assert trace.losses[step] == pytest.approx(loss, rel=2e-6), f"loss of step {step}"
        assert trace.grad_norms[step] == pytest.approx(grad_norm, rel=2e-5), f"gradient norm of step {step}"
    broken = run_and_trace(run, "documents_begin_one_token_late_on_one_rank")
    assert any(
        broken.losses[step] != pytest.approx(loss, rel=2e-6) for step, (loss, _) in enumerate(expected, start=1)
    ), "the comparison must tell these apart"
