"""A field that is added to the model does not orphan the checkpoints that are older than it, and the other way round.

The field is really added: the trainer runs from a copy of the packages whose schema has one more line.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fanal.run_folder import CONFIG
from pretrain.config.load import to_yaml
from pretrain.config.schema import RunConfig
from tests.dist.harness import assert_same_training, read_trace
from tests.golden.formats.kept import ONE_RANK, V1, KeptRun

ROOT = Path(__file__).parents[2]
LAST_FIELD = "    attention_backend: Literal[\n"
FIRST_USED = '        "num_layers",'
"""Where the fields are that every family uses."""
YOUNG_FIELD = '    of_tomorrow: bool = False\n    """Younger than the checkpoint."""\n'


@pytest.fixture(scope="module")
def tomorrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages as they are once the model has a field more."""
    folder = tmp_path_factory.mktemp("tomorrow")
    for package in ("fanal", "kernels", "tokenizer", "pretrain"):
        shutil.copytree(ROOT / package, folder / package, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    schema = folder / "pretrain" / "config" / "schema" / "model.py"
    text = schema.read_text()
    assert text.count(LAST_FIELD) == 1
    schema.write_text(text.replace(LAST_FIELD, YOUNG_FIELD + LAST_FIELD))
    family = folder / "pretrain" / "model" / "families" / "family.py"
    text = family.read_text()
    assert text.count(FIRST_USED) == 1
    family.write_text(text.replace(FIRST_USED, FIRST_USED + ' "of_tomorrow",'))
    return folder


@pytest.fixture
def golden(tmp_path: Path) -> KeptRun:
    return V1.copied(tmp_path / "v1")


def golden_run(golden: KeptRun) -> RunConfig:
    """The run of the kept checkpoint, on one rank."""
    return golden.run(golden.run_dir, *ONE_RANK, f"train.train_steps={golden.last_step}")


def resume(golden: KeptRun, packages: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Go on from the kept checkpoint with these packages, in processes of their own."""
    config = golden.folder / "again.yaml"
    config.write_text(to_yaml(golden_run(golden)))
    return subprocess.run(
        [sys.executable, "-m", "pretrain", "train", str(config), *overrides],
        cwd=packages, env={**os.environ, "PYTHONPATH": str(packages)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_run_goes_on_bit_for_bit_after_a_field_was_added_to_the_model(golden: KeptRun, tomorrow: Path) -> None:
    today = golden.copied(golden.folder.parent / "today")
    for copy, packages in ((golden, tomorrow), (today, ROOT)):
        done = resume(copy, packages)
        assert done.returncode == 0, done.stdout + done.stderr
    resumed, expected = (copy.after_the_checkpoint(read_trace(copy.run_dir, 0, None)) for copy in (golden, today))
    assert list(resumed.losses) == list(range(golden.saved_step + 1, golden.last_step + 1))
    assert (resumed.losses, resumed.grad_norms) == (expected.losses, expected.grad_norms)
    assert_same_training(resumed, golden.straight())
    written = golden.run_dir / "checkpoints" / f"step-{golden.last_step:08d}"
    assert "of_tomorrow: false" in (written / CONFIG).read_text(), "the packages were those of tomorrow"
    refused = resume(golden, ROOT)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "written by a newer version of Fanal: this one does not know model.of_tomorrow (False)" in refused.stderr


def test_another_value_than_the_default_of_a_field_that_was_added_is_another_model(
    golden: KeptRun, tomorrow: Path
) -> None:
    refused = resume(golden, tomorrow, "model.of_tomorrow=true")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert f"{golden.checkpoint} belongs to another run: model.of_tomorrow (checkpoint false, config true)" in (
        refused.stderr
    )
    assert "Set them back to the checkpoint's values, or start a new run in another run_dir" in refused.stderr


def test_a_head_size_that_is_stated_as_it_follows_is_the_same_model(golden: KeptRun) -> None:
    model = golden_run(golden).model
    done = resume(golden, ROOT, f"model.kv_channels={model.hidden_size // model.num_attention_heads}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert model.kv_channels is None
