"""A run that begins with an imported model is the run that begins with the model it was made of, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.convert.importing.import_folder import import_hf
from tests.dist.harness import make_run, run_and_trace
from tests.runs.cases import PP2, TP2

ROOT = Path(__file__).parents[2]
BY_WHOM = {"README.md", "certificate.json"}
"""Files of an export that say what was exported, and from where."""


def pretrain(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pretrain", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_next_five_losses_are_those_of_the_original_bit_for_bit(
    tied: bool, small_run: Path, tmp_path: Path
) -> None:
    model = (f"model.share_embeddings_and_output_weights={tied}", "train.validation_interval=100")
    first = run_and_trace(make_run(small_run, tmp_path / "first", *model, "train.train_steps=3", *TP2, *PP2))
    assert first.exit_code == 0, first.failure
    exported = tmp_path / "hf"
    assert pretrain("export", tmp_path / "first", "--to", exported).returncode == 0
    imported = import_hf(exported, tmp_path / "imported").checkpoint
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
    assert (same.losses, same.grad_norms, same.validation) == (
        original.losses,
        original.grad_norms,
        original.validation,
    )
    for step, loss in original.losses.items():
        assert other.losses[step] == pytest.approx(loss, rel=2e-6)
    assert original.losses[1] != first.losses[1], "trained weights, not initial ones"


def test_the_export_of_an_import_is_the_first_export_byte_for_byte(small_run: Path, tmp_path: Path) -> None:
    run = run_and_trace(make_run(small_run, tmp_path / "run", "train.train_steps=2", "train.precision=bf16", *TP2))
    assert run.exit_code == 0, run.failure
    first, second = tmp_path / "first", tmp_path / "second"
    for source, folder in ((tmp_path / "run", first), (tmp_path / "imported", second)):
        done = pretrain("export", source, "--to", folder)
        assert done.returncode == 0, done.stderr
        if folder is first:
            import_hf(first, tmp_path / "imported")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    differing = {name for name in names if (first / name).read_bytes() != (second / name).read_bytes()}
    assert differing == BY_WHOM and "model.safetensors" in names and "tokenizer.json" in names
