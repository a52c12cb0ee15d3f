"""Weights that must be equal on several ranks and are not stop the run before they reach a checkpoint; and what a checkpoint holds
is compared with what was trained."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fanal.console import Console
from fanal.run_folder import COMPLETE, MANIFEST, TENSORS, checkpoints_dir, shard_path, step_name
from pretrain.checkpoint.disk.manifest import Manifest, describe, manifest_bytes, seal_text
from pretrain.checkpoint.disk.tensor_index import entry_name, read_index
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.inspect.verify import verify
from pretrain.parallel.local import run_local_ranks
from tests.dist.drifting import drifting_rank
from tests.dist.harness import make_run, run_and_trace
from tests.runs.cases import DP2, NO_DISTRIBUTED_OPTIMIZER, PP2, TIED, TP2
from tests.runs.context_cases import CP2
from tests.runs.files import files_below

SMALL = (
    "data.validation=[]", "data.seq_length=32", "train.train_steps=4", "train.global_batch_size=4", "model.num_layers=2",
    "checkpoint.interval=2",
)  # fmt: skip
BF16 = ("train.precision=bf16",)
EMBEDDING = "embedding.word_embeddings.weight"
NORM = "decoder.layers.1.input_layernorm.weight"
SPLIT = "decoder.layers.1.mlp.linear_fc1.weight"


@pytest.mark.parametrize(
    ("layout", "name", "kind"),
    [
        (DP2, SPLIT, "data-parallel"),
        ((*DP2, *NO_DISTRIBUTED_OPTIMIZER, *BF16), NORM, "data-parallel"),
        (CP2, SPLIT, "data- and context-parallel"),
        ((*CP2, *NO_DISTRIBUTED_OPTIMIZER, *BF16), NORM, "data- and context-parallel"),
        (TP2, "final layer norm", "tensor-parallel"),
        ((*TP2, *BF16), "final layer norm", "tensor-parallel"),
        ((*PP2, *TIED), EMBEDDING, "first and last pipeline"),
        ((*PP2, *TIED, *BF16), EMBEDDING, "first and last pipeline"),
    ],
    ids=[
        "dp2",
        "dp2-replicated-bf16",
        "cp2",
        "cp2-replicated-bf16",
        "tp2-norm",
        "tp2-norm-bf16",
        "pp2-tied",
        "pp2-tied-bf16",
    ],
)
def test_one_flipped_bit_on_one_replica_stops_the_run_before_it_reaches_a_checkpoint(
    layout: tuple[str, ...], name: str, kind: str, small_run: Path, tmp_path: Path
) -> None:
    name = "decoder.final_layernorm.weight" if name == "final layer norm" else name
    run = make_run(small_run, tmp_path, *SMALL, *layout)
    code, failure = run_local_ranks(
        drifting_rank, run, name, 4,
        preload=["pretrain.train.loop"], num_ranks=2, device_type="cpu", log_dir=tmp_path / "logs",
    )  # fmt: skip
    assert code == 70 and failure is not None
    message = str(failure.error)
    assert "weights that must be equal have drifted apart, in 1 parameters: " in message
    assert f"{name} (among {kind} ranks): rank 0 has " in message and "rank 1 has " in message
    assert "No checkpoint was written; the newest one was written while they were equal" in message
    (left,) = checkpoints_dir(tmp_path).iterdir()
    assert left.name == step_name(2) and not verify_checkpoint(left, deep=True).problems


@pytest.fixture(scope="module", params=[(), BF16], ids=["fp32", "bf16"])
def trained(request: pytest.FixtureRequest, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two replicas. Not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    trace = run_and_trace(make_run(small_run, folder, *SMALL, *DP2, *TIED, *request.param))
    assert trace.exit_code == 0, trace.failure
    return checkpoints_dir(folder) / step_name(4)


def change(checkpoint: Path, tensor: str, state: str) -> None:
    """Another number in a tensor, and a seal on it."""
    index = read_index(checkpoint)
    part = index.tensors[tensor].stored[0]
    path = checkpoint / shard_path(part.file)
    content = path.read_bytes()
    entry = f'"{entry_name(tensor, state, part.box)}":'
    offsets = content[content.index(entry.encode()) :].split(b'"data_offsets":[', 1)[1].split(b"]", 1)[0]
    start = 8 + int.from_bytes(content[:8], "little") + int(offsets.split(b",")[0])
    number = np.frombuffer(content[start : start + 4], np.float32) * np.float32(1.1)
    path.write_bytes(content[:start] + number.tobytes() + content[start + 4 :])
    seal(checkpoint)


def seal(checkpoint: Path) -> None:
    paths = [path for path in files_below(checkpoint) if path not in (MANIFEST, COMPLETE)]
    content = manifest_bytes(Manifest(step=4, files=tuple(describe(checkpoint, path) for path in paths)))
    (checkpoint / MANIFEST).write_bytes(content)
    (checkpoint / COMPLETE).write_text(seal_text(content))


def test_verify_deep_finds_a_number_that_was_changed_and_sealed_again(trained: Path, tmp_path: Path) -> None:
    console = Console(quiet=True)
    assert not verify(trained, True, console)
    copy = Path(shutil.copytree(trained, tmp_path / trained.name))
    change(copy, SPLIT, "param")
    assert not verify_checkpoint(copy, deep=True).problems, "its hashes are right"
    assert not verify(copy, False, console), "only the deep look adds up"
    (problem,) = verify(copy, True, console)
    assert (
        f"the stored values of {SPLIT} have the sum " in problem
        and f"({TENSORS}): other values were stored than were trained" in problem
    )


def test_the_sum_is_of_the_weights_and_of_nothing_else(trained: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / trained.name))
    change(copy, SPLIT, "exp_avg")
    assert not verify(copy, True, Console(quiet=True))


def test_a_missing_box_is_a_problem_and_no_traceback(trained: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / trained.name))
    index = (copy / TENSORS).read_text()
    (copy / TENSORS).write_text(index.replace(f'"{SPLIT}"', '"another.name"'))
    seal(copy)
    (problem,) = verify(copy, True, Console(quiet=True))
    assert "has no entry another.name/param@" in problem
