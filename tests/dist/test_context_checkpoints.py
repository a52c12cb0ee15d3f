"""Runs whose ranks share sequences: killed, resumed, continued in other layouts, averaged and exported, as any other run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fanal.run_folder import DATA, checkpoints_dir, step_name
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.checkpoint.disk.stored_sums import sum_problems
from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.data.position import read_position
from tests.dist.export_faults import Case
from tests.dist.harness import Trace, assert_same_training, make_run, run_and_trace
from tests.dist.test_average_of_checkpoints import command, weights_of
from tests.dist.test_export import in_a_process, load, validation_ids
from tests.dist.test_independent_llama import shape_of
from tests.dist.test_init_from import changed, init_from, trained
from tests.dist.test_resume import after_step_5, cut_back_to_step_5
from tests.reference.llama import ReferenceLlama
from tests.runs.cases import NO_DISTRIBUTED_OPTIMIZER, PP2, TP2
from tests.runs.context_cases import CP2

KEPT = ("checkpoint.interval=5", "data.document_mask=true", "train.validation_interval=10")


@pytest.fixture(scope="module")
def straight(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trace]:
    """Ten steps under CP2 with a checkpoint at step 5. Not to be changed."""
    folder = tmp_path_factory.mktemp("straight")
    trace = run_and_trace(make_run(small_run, folder, *KEPT, *CP2))
    assert trace.exit_code == 0, trace.failure
    return folder, trace


@pytest.fixture(scope="module")
def one_rank(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trace]:
    folder = tmp_path_factory.mktemp("one-rank")
    trace = run_and_trace(make_run(small_run, folder, *KEPT))
    assert trace.exit_code == 0, trace.failure
    return folder, trace


def checkpoint(run_dir: Path, step: int = 10) -> Path:
    return checkpoints_dir(run_dir) / step_name(step)


def test_a_killed_run_resumes_bit_for_bit(small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]) -> None:
    run = make_run(small_run, tmp_path, *KEPT, *CP2, "checkpoint.interval=1", "checkpoint.asynchronous=false")
    killed = run_and_trace(run, "rank_1_is_killed_at_step_2")
    assert killed.exit_code != 0 and list(killed.losses) == [1]
    assert [path.name for path in checkpoints_in(checkpoints_dir(tmp_path))] == [step_name(1)]
    resumed = run_and_trace(run, fresh=False)
    assert resumed.exit_code == 0, resumed.failure
    assert resumed.losses == straight[1].losses and resumed.grad_norms == straight[1].grad_norms
    assert resumed.validation[10] == straight[1].validation[10]
    assert not changed(checkpoint(tmp_path), checkpoint(straight[0]))


@pytest.mark.parametrize("layout", [CP2, (*CP2, *PP2), TP2, ()], ids=["cp2", "cp2-pp2", "tp2", "one rank"])
def test_a_run_of_context_ranks_goes_on_in_any_layout(
    layout: tuple[str, ...], small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    cut_back_to_step_5(straight[0], tmp_path)
    resumed = run_and_trace(make_run(small_run, tmp_path, *KEPT, *layout), fresh=False)
    assert_same_training(resumed, after_step_5(straight[1]))
    if layout == CP2:
        assert resumed.losses == after_step_5(straight[1]).losses, "in the same layout not one bit differs"
        assert resumed.grad_norms == after_step_5(straight[1]).grad_norms


def test_a_run_of_one_rank_goes_on_with_context_ranks(
    small_run: Path, tmp_path: Path, straight: tuple[Path, Trace], one_rank: tuple[Path, Trace]
) -> None:
    cut_back_to_step_5(one_rank[0], tmp_path)
    resumed = run_and_trace(make_run(small_run, tmp_path, *KEPT, *CP2, *NO_DISTRIBUTED_OPTIMIZER), fresh=False)
    assert_same_training(resumed, after_step_5(straight[1]))
    forgotten = tmp_path / "forgotten"
    cut_back_to_step_5(one_rank[0], forgotten)
    broken = run_and_trace(make_run(small_run, forgotten, *KEPT, *CP2), "optimizer_state_forgotten", fresh=False)
    with pytest.raises(AssertionError, match="more than"):
        assert_same_training(replace(broken, exit_code=0), after_step_5(straight[1]))


def test_the_hash_of_what_was_read_is_that_of_one_rank(
    small_run: Path, tmp_path: Path, straight: tuple[Path, Trace], one_rank: tuple[Path, Trace]
) -> None:
    expected, found = (read_position(checkpoint(run_dir) / DATA) for run_dir in (one_rank[0], straight[0]))
    assert found.consumed_hash == expected.consumed_hash and found.last_step == expected.last_step
    assert run_and_trace(make_run(small_run, tmp_path, *KEPT, *CP2), "context_ranks_hash_too").exit_code == 0
    assert read_position(checkpoint(tmp_path) / DATA).consumed_hash != expected.consumed_hash, (
        "a fault would be noticed"
    )


def test_a_resume_reads_the_last_step_again_and_refuses_other_data(
    small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    cut_back_to_step_5(straight[0], tmp_path)
    refused = run_and_trace(make_run(small_run, tmp_path, *KEPT, *CP2), "all_read_the_next_sample", fresh=False)
    assert refused.exit_code != 0 and refused.failure is not None and not refused.losses
    assert "are no longer the tokens that were trained on" in str(refused.failure.error)


def test_phases_begin_with_each_other_s_weights_and_optimizer(
    small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]
) -> None:
    short = ("train.train_steps=1", "optim.lr_warmup_samples=0", "data.validation=[]", "checkpoint.init_optimizer=keep")
    longer = ("data.seq_length=128", "model.rotary_base=1e6")
    to_tensor = trained(make_run(small_run, tmp_path / "tp2", *TP2, *short, init_from(checkpoint(straight[0]))))
    assert not changed(to_tensor.start, checkpoint(straight[0]))
    layout = (*CP2, *NO_DISTRIBUTED_OPTIMIZER)
    back = trained(make_run(small_run, tmp_path / "cp2", *layout, *short, *longer, init_from(to_tensor.last)))
    assert not changed(back.start, to_tensor.last) and changed(back.last, to_tensor.last)
    assert read_index(back.last).num_updates == 12


def test_copies_are_written_once(small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]) -> None:
    few = ("train.train_steps=1", "optim.lr_warmup_samples=0", "data.validation=[]")
    replicated = run_and_trace(make_run(small_run, tmp_path, *few, *CP2, *NO_DISTRIBUTED_OPTIMIZER))
    assert replicated.exit_code == 0, replicated.failure
    for folder in (checkpoint(straight[0]), checkpoint(tmp_path, 1)):
        for name, tensor in read_index(folder).tensors.items():
            written = sum(torch.Size(part.box.size).numel() for part in tensor.stored)
            assert written == torch.Size(tensor.shape).numel(), name
        files = {part.file for tensor in read_index(folder).tensors.values() for part in tensor.stored}
        assert files == {0, 1}, "each rank writes a part"
        assert not verify_checkpoint(folder, deep=True).problems and not list(sum_problems(folder))


def test_an_average_and_an_export_are_certified(small_run: Path, tmp_path: Path, straight: tuple[Path, Trace]) -> None:
    pytest.importorskip("transformers")
    shutil.copytree(straight[0], tmp_path / "run")
    averaged = command("average", tmp_path / "run", "--to", tmp_path / "mean", "--last", 2)
    assert averaged.exit_code == 0, averaged.output
    sources = {"last": checkpoint(tmp_path / "run"), "mean": tmp_path / "mean"}
    cases = [Case(name, str(source), str(tmp_path / f"hf-{name}")) for name, source in sources.items()]
    code, failure = in_a_process(cases, tmp_path)
    assert code == 0, failure
    run = make_run(small_run, tmp_path / "run", *KEPT, *CP2)
    ids = validation_ids(run)
    for name, result in json.loads((tmp_path / "results.json").read_text()).items():
        assert result["code"] == 0 and result["is_there"], result["text"]
        with torch.no_grad():
            expected = ReferenceLlama(shape_of(run), weights_of(sources[name]))(ids)
            found = load(tmp_path / f"hf-{name}")(ids).logits
        assert torch.allclose(found, expected[..., : found.shape[-1]], atol=1e-4)
