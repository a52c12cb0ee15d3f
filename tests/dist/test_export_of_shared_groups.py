"""What ranks with shared key/value groups and an uneven vocabulary have trained goes on elsewhere, and is exported and certified."""

import json
from pathlib import Path

import numpy as np
import pytest

from pretrain.checkpoint.disk.tensors import open_tensors
from pretrain.convert.importing.import_folder import import_hf
from tests.dist.export_faults import Case
from tests.dist.harness import Trace, assert_same_training, make_run, run_and_trace
from tests.dist.test_export import in_a_process
from tests.runs.cases import PP2, SP, TP2

MODEL = (
    "model.num_query_groups=2", "model.make_vocab_size_divisible_by=1", "model.vocab_size=2001",
    "data.validation=[]",
)  # fmt: skip
TP4 = ("parallel.tensor_model_parallel_size=4", *SP)
FAST = ("train.train_steps=5", "optim.lr=1.0e-2")
"""At this rate five steps move the weights so far that a fault shows."""


@pytest.fixture(scope="module")
def trained(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of step 5 of four ranks that share two groups."""
    folder = tmp_path_factory.mktemp("shared")
    trace = run_and_trace(make_run(small_run, folder, *MODEL, *TP4, *FAST))
    assert trace.exit_code == 0, trace.failure
    return folder / "checkpoints" / "step-00000005"


def test_the_export_is_certified_and_comes_back_bit_for_bit_and_one_with_rows_moved_is_not(
    trained: Path, tmp_path: Path
) -> None:
    sound, fault = tmp_path / "sound", ("rows_moved", "model.layers.1.self_attn.v_proj.weight")
    cases = [
        Case("sound", str(trained), str(sound), {"dtype": "fp32"}),
        Case("broken", str(trained), str(tmp_path / "broken"), {"dtype": "fp32"}, (), fault),
    ]
    code, failure = in_a_process(cases, tmp_path)
    assert code == 0, failure
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["sound"]["code"] == 0, results["sound"]["text"]
    assert json.loads((sound / "certificate.json").read_text())["figures"]["top1_agreement"] == 1.0
    assert results["broken"]["code"] == 76 and not results["broken"]["is_there"]
    imported = import_hf(sound, tmp_path / "imported").checkpoint
    with open_tensors(trained) as before, open_tensors(imported) as after:
        for tensor in before.index.tensors:
            kept = after.read_all(tensor, "param")
            rows = min(len(kept), 2000)  # of an embedding, those that stand for a token
            assert np.array_equal(before.read_all(tensor, "param")[:rows], kept[:rows]), tensor


def test_a_run_begins_with_it_alike_in_every_layout(trained: Path, small_run: Path, tmp_path: Path) -> None:
    begin = (*MODEL, f"checkpoint.init_from={trained}", "checkpoint.init_optimizer=keep", "train.train_steps=4")

    def begun(name: str, *layout: str) -> Trace:
        return run_and_trace(make_run(small_run, tmp_path / name, *begin, *layout))

    reference = begun("tp1")
    for name, layout in {"tp4": TP4, "tp2-pp2": (*TP2, *PP2)}.items():
        assert_same_training(begun(name, *layout), reference)
    fresh = run_and_trace(make_run(small_run, tmp_path / "fresh", *MODEL, "train.train_steps=4"))
    with pytest.raises(AssertionError, match=r"loss of step 1: .* more than"):
        assert_same_training(fresh, reference)
