"""train.compile: with norms, activations and rotary positions compiled by torch, ranks train what they train without."""

import shutil
from pathlib import Path

import pytest

from tests.dist.harness import assert_same_training, make_run, run_and_trace

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
LAYOUTS = {
    "one rank": (),
    "TP2 + SP": ("parallel.tensor_model_parallel_size=2", "parallel.sequence_parallel=true"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_compiled_operations_train_what_torch_s_train(
    layout: tuple[str, ...], small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of processes in each rank
    plain = run_and_trace(make_run(small_run, tmp_path / "plain", *layout))
    compiled = run_and_trace(make_run(small_run, tmp_path / "compiled", *layout, "train.compile=true"))
    assert_same_training(compiled, plain)
    assert compiled.losses != plain.losses  # not the same bits: it was another code
