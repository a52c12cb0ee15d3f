"""A run that begins with an imported model is the run that begins with the model it was made of, bit for bit."""

from dataclasses import fields
from pathlib import Path

import pytest

from pretrain.config.schema import CheckpointConfig
from pretrain.convert.from_hf import import_hf
from tests.dist.harness import make_run, run_and_trace
from tests.dist.hf_folder import write_hf_folder
from tests.runs.cases import PP2, TP2

pytestmark = pytest.mark.skipif(
    "init_from" not in {field.name for field in fields(CheckpointConfig)}, reason="needs checkpoint.init_from"
)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_next_five_losses_are_those_of_the_original_bit_for_bit(
    tied: bool, small_run: Path, tmp_path: Path
) -> None:
    model = (f"model.share_embeddings_and_output_weights={tied}", "train.eval_interval=100")
    first = run_and_trace(make_run(small_run, tmp_path / "first", *model, "train.train_steps=3", *TP2, *PP2))
    assert first.exit_code == 0, first.failure
    imported = import_hf(write_hf_folder(tmp_path / "first", tmp_path / "hf"), tmp_path / "imported").checkpoint
    fresh = ("checkpoint.init_optimizer=fresh", "train.train_steps=5", "data.seed=7")
    traces = {}
    for name, origin, layout in (
        ("original", tmp_path / "first", ()),
        ("imported", imported, ()),
        ("imported, another layout", imported, (*TP2, *PP2)),
    ):
        run = make_run(
            small_run,
            tmp_path / "runs" / name.replace(", ", "-"),
            *model,
            *fresh,
            f"checkpoint.init_from={origin}",
            *layout,
        )
        traces[name] = run_and_trace(run)
        assert traces[name].exit_code == 0, traces[name].failure
    original, same, other = traces.values()
    assert len(original.losses) == 5
    assert (same.losses, same.grad_norms, same.held_out) == (original.losses, original.grad_norms, original.held_out)
    for step, loss in original.losses.items():
        assert other.losses[step] == pytest.approx(loss, rel=2e-6)
    assert original.losses[1] != first.losses[1], "trained weights, not initial ones"
