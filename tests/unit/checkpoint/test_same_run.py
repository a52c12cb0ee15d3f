"""Which configuration may go on from a checkpoint."""

import errno
from pathlib import Path

import pytest

from fanal.errors import UserError
from fanal.run_folder import CONFIG
from pretrain.checkpoint.disk import config_file
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.checkpoint.loading.load import check_same_run
from pretrain.config.load import load_run, to_yaml

RUN = """
run_dir: runs/x
model: {num_layers: 4, hidden_size: 64, ffn_hidden_size: 176, num_attention_heads: 8, num_query_groups: 4, vocab_size: 2000}
data: {tokenizer: t, seq_length: 64, train: [{prefix: a}]}
optim: {lr: 1.0e-3}
train: {train_steps: 10, global_batch_size: 8, micro_batch_size: 2}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    (tmp_path / CONFIG).write_text(to_yaml(load_run(path)))
    return path


@pytest.mark.parametrize(
    "change",
    [
        "run_dir=elsewhere",
        "optim.lr=1e-4",
        "train.train_steps=99",
        "train.global_batch_size=16",
        "parallel.tensor_model_parallel_size=2",
        "model.attention_backend=reference",
        "model.kv_channels=8",
        "model.make_vocab_size_divisible_by=64",
        "data.validation=[{prefix: b}]",
        "data.train=[{prefix: moved/a}]",
    ],
)
def test_what_is_no_part_of_the_model_or_its_data_may_change(config: Path, change: str) -> None:
    check_same_run(load_run(config, [change]), config.parent)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("model.num_layers=8", r"model.num_layers \(checkpoint 4, config 8\)"),
        ("model.hidden_size=128", r"model.hidden_size \(checkpoint 64, config 128\)\. Set them back"),
        ("model.kv_channels=16", r"model.kv_channels \(checkpoint 8, config 16\)"),
        (
            "model.make_vocab_size_divisible_by=100",
            r"model.make_vocab_size_divisible_by \(checkpoint 2048 rows in memory, ",
        ),
        ("model.rotary_base=5e5", r"model.rotary_base \(checkpoint 10000.0, config 500000.0\)"),
        ("data.seq_length=32", r"data.seq_length \(checkpoint 64, config 32\)"),
        ("data.seed=1", r"data.seed \(checkpoint 42, config 1\)"),
        ("data.document_mask=true", r"data.document_mask \(checkpoint False, config True\)"),
    ],
)
def test_another_model_or_order_is_refused_by_name(config: Path, change: str, difference: str) -> None:
    with pytest.raises(ValueError, match=rf"belongs to another run: {difference}.*start a new run in another run_dir"):
        check_same_run(load_run(config, [change]), config.parent)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("data.document_mask=true", r"data.document_mask \(checkpoint False, config True\)"),
        ("model.rotary_base=5e5", r"model.rotary_base \(checkpoint 10000.0, config 500000.0\)"),
    ],
)
def test_a_checkpoint_older_than_a_field_had_its_default(config: Path, change: str, difference: str) -> None:
    saved, field = config.parent / CONFIG, change.partition("=")[0].partition(".")[2]
    lines = saved.read_text().splitlines()
    older = [line for line in lines if not line.lstrip().startswith(f"{field}:")]
    assert len(older) == len(lines) - 1
    saved.write_text("\n".join(older))
    check_same_run(load_run(config), config.parent)
    with pytest.raises(UserError, match=difference):
        check_same_run(load_run(config, [change]), config.parent)


@pytest.mark.parametrize("section", ["model", "data"])
def test_a_checkpoint_younger_than_this_version_is_refused_by_the_field_that_is_not_known(
    config: Path, section: str
) -> None:
    saved = config.parent / CONFIG
    saved.write_text(saved.read_text().replace(f"\n{section}:\n", f"\n{section}:\n  of_tomorrow: false\n"))
    with pytest.raises(
        UserError, match=rf"a newer version of Fanal: this one does not know {section}.of_tomorrow \(False\)"
    ):
        check_same_run(load_run(config), config.parent)


def test_every_difference_is_named_at_once(config: Path) -> None:
    with pytest.raises(ValueError, match=r"model.num_layers .*; data.seed "):
        check_same_run(load_run(config, ["model.num_layers=8", "data.seed=1"]), config.parent)


def test_a_run_keeps_its_optimizer_to_its_end(config: Path) -> None:
    saved = config.parent / CONFIG
    saved.write_text(saved.read_text().replace("\n  name: adamw\n", "\n  name: of_tomorrow\n"))
    with pytest.raises(UserError, match=r"optim.name \(checkpoint of_tomorrow, config adamw\)"):
        check_same_run(load_run(config), config.parent)
    saved.write_text(saved.read_text().replace("\n  name: of_tomorrow\n", "\n"))
    check_same_run(load_run(config), config.parent)


def test_a_config_that_the_disk_does_not_give_now_is_no_damage(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(config_file, "read_small_file", fails)
    with pytest.raises(OSError, match="Input/output error"):
        check_same_run(load_run(config), config.parent)


def test_a_config_of_a_single_value_is_damage(config: Path) -> None:
    (config.parent / CONFIG).write_text("5\n")
    with pytest.raises(DamagedCheckpointError, match="is not the config of a run"):
        check_same_run(load_run(config), config.parent)
