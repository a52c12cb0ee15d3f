"""The pieces of an export that need no training: files, folder, bounds, config."""

import errno
import fcntl
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.config.load import load_run
from pretrain.config.schema import ModelConfig
from pretrain.convert.certificate.compare import BOUND, ModelComparison, PointFigures, TextFigures, max_or_nan
from pretrain.convert.exporting.export import ExportOptions, export
from pretrain.convert.exporting.folder import ExportTargetError, check_target, part_of, write_small
from pretrain.convert.exporting.model_card import settings_rows
from pretrain.convert.exporting.weights import index_json, plan_files, rounded
from pretrain.convert.ours.names import hf_tensors
from pretrain.state import TrainState

MODEL = ModelConfig(
    num_layers=2, hidden_size=8, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, vocab_size=50
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, r"--samples \(0\) must be above 0; 4 works"),
        ({"num_samples": -1}, r"--samples \(-1\)"),
        ({"max_shard_bytes": 0}, r"--max-shard-bytes \(0\) must be above 0"),
        ({"date": "yesterday"}, r"--date \(yesterday\) must be a day as YYYY-MM-DD"),
        ({"date": "20251231"}, r"--date \(20251231\)"),
        ({"date": "2025-02-30"}, r"--date \(2025-02-30\)"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_read(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export(tmp_path / "no run", tmp_path / "out", ExportOptions(**{"date": "2025-12-31", **options}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("samples", "row"), [(64, "batch"), (96, "full batch of the last session")])
def test_a_card_claims_one_batch_only_for_a_run_that_had_one(samples: int, row: str, small_run: Path) -> None:
    rows = dict(settings_rows(load_run(small_run), TrainState(step=8, consumed_samples=samples)))
    assert rows[row] == "8 samples, 512 tokens"


def test_a_card_names_the_context_size_of_a_run_that_divided_its_sequences(small_run: Path) -> None:
    def layout(*overrides: str) -> str:
        return dict(settings_rows(load_run(small_run, overrides), TrainState()))["layout of the last session"]

    assert layout() == "tensor 1, pipeline 1, data as many as the ranks allowed"
    divided = layout("parallel.context_parallel_size=2", "parallel.data_parallel_size=4")
    assert divided == "tensor 1, pipeline 1, context 2, data 4"


def test_a_card_says_the_batch_of_the_last_stage_and_where_the_decay_began(small_run: Path) -> None:
    overrides = [
        "train.batch_stages=[{start_sample: 64, global_batch_size: 16}]",
        "optim.lr_decay_style=constant", "optim.lr_wsd_decay_samples=1000", "optim.lr_wsd_decay_style=minus_sqrt",
    ]  # fmt: skip
    state = TrainState(step=10, consumed_samples=96, decay_start_sample=80)
    rows = dict(settings_rows(load_run(small_run, overrides), state))
    assert rows["full batch of the last session"] == "16 samples, 1,024 tokens"
    assert (
        "learning rate 0.002 to 0.0002 (constant, minus_sqrt over 1,000 samples from sample 80 on)" in rows["optimizer"]
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("max_shard_bytes", [1, 1000, 2000, 10**9])
def test_every_tensor_is_in_one_file_and_no_file_is_larger_than_asked_for(dtype: str, max_shard_bytes: int) -> None:
    tensors = hf_tensors(MODEL, vocab_size=47)
    files = plan_files(tensors, dtype=dtype, max_shard_bytes=max_shard_bytes)
    assert [tensor for file in files for tensor in file.tensors] == tensors
    for file in files:
        assert file.num_bytes - len(file.header) <= max_shard_bytes or len(file.tensors) == 1
    assert [file.name for file in files][:1] == (
        ["model.safetensors"] if len(files) == 1 else [f"model-00001-of-{len(files):05d}.safetensors"]
    )
    assert set(index_json(files)["weight_map"]) == {tensor.name for tensor in tensors}  # type: ignore[call-overload]


def test_a_header_is_what_safetensors_reads(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    (file,) = plan_files(hf_tensors(MODEL, vocab_size=47), dtype="bfloat16", max_shard_bytes=10**9)
    (tmp_path / file.name).write_bytes(file.header + bytes(file.num_bytes - len(file.header)))
    assert len(file.header) % 8 == 0, "the numbers begin where they can be mapped"
    with safetensors.safe_open(tmp_path / file.name, framework="pt") as found:
        assert found.metadata() == {"format": "pt"}
        for tensor in file.tensors:
            part = found.get_tensor(tensor.name)
            assert (part.shape, part.dtype) == (tensor.shape, torch.bfloat16)


def test_rounding_is_to_nearest_even_as_torch_s_and_keeps_what_is_no_number() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3e-40, np.inf, np.nan, 3.4e38], np.float32)
    found = torch.from_numpy(rounded(values)).view(torch.bfloat16).float()
    assert found[:3].tolist() == [1.0, 1.0, 1.015625], "ties go to the even neighbour"
    assert math.isnan(found[5]) and found[4] == math.inf and found[6] == math.inf


def test_a_folder_appears_when_the_block_is_done(tmp_path: Path) -> None:
    with part_of(tmp_path / "out") as part:
        write_small(part, "a.txt", b"a")
        assert part == tmp_path / "out.part" and not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"a"


def test_an_empty_target_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    check_target(tmp_path / "out", weight_bytes=0)
    with part_of(tmp_path / "out") as part:
        write_small(part, "a.txt", b"a")
    assert (tmp_path / "out" / "a.txt").is_file()


def test_leftovers_of_a_killed_export_are_wiped_and_strangers_are_not(tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "model.safetensors").write_bytes(b"half")
    with part_of(tmp_path / "out") as part:
        assert list(part.iterdir()) == []
    (tmp_path / "other.part" / "mine").mkdir(parents=True)
    with (
        pytest.raises(ExportTargetError, match=r"other.part is in the way, with mine that no export wrote"),
        part_of(tmp_path / "other"),
    ):
        pass
    assert (tmp_path / "other.part" / "mine").is_dir()
    (tmp_path / "third.part").mkdir()
    (tmp_path / "third.part" / "config.json").write_text("{}")
    (tmp_path / "third.part" / "notes.txt").write_text("mine")
    with pytest.raises(ExportTargetError, match=r"with notes\.txt that no export wrote"), part_of(tmp_path / "third"):
        pass
    assert sorted(path.name for path in (tmp_path / "third.part").iterdir()) == ["config.json", "notes.txt"]


def test_two_exports_to_one_folder_refuse_each_other(tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    held = os.open(tmp_path / "out.part", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(ExportTargetError, match="is being written by another export"), part_of(tmp_path / "out"):
            pass
    finally:
        os.close(held)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_an_exception_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), part_of(tmp_path / "out") as part:
        write_small(part, "a.txt", b"a")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_the_user_s_to_mend_and_a_broken_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(ExportTargetError, match="nothing is left of it: No space left"), part_of(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="Input/output error"), part_of(tmp_path / "out"):
        raise OSError(errno.EIO, "Input/output error")


def test_a_target_that_filled_up_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ExportTargetError, match="could not be written"), part_of(tmp_path / "out"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("theirs")
    assert (tmp_path / "out" / "theirs").read_text() == "theirs" and not (tmp_path / "out.part").exists()


def test_space_is_looked_at_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        ExportTargetError, match=r"the export needs [\d,]+ bytes and the disk of .* has [\d,]+ left; free [\d,]+ bytes"
    ):
        check_target(tmp_path / "out", weight_bytes=1 << 60)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for taken in ("file", "link"):
        with pytest.raises(ExportTargetError, match="must not exist, or be an empty folder"):
            check_target(tmp_path / taken, weight_bytes=0)


def point(difference: float, value: float = 1.0, name: str = "embedding") -> PointFigures:
    return PointFigures(name=name, largest_difference=difference, largest_value=value)


def text(difference: float) -> TextFigures:
    return TextFigures(
        name="text", kind="edge", num_tokens=1, largest_logit_difference=difference, top1_agreement=1.0, our_loss=None, their_loss=None,
    )  # fmt: skip


def test_a_logit_has_an_absolute_bound_and_a_state_one_in_proportion_that_says_where() -> None:
    assert ModelComparison(points=[point(0.9e-5)], texts=[text(BOUND)]).is_within
    assert not ModelComparison(points=[point(0.0)], texts=[text(1.01 * BOUND)]).is_within
    assert not point(1.1e-5).is_within and point(1.1e-5, value=2.0).is_within and not point(1e-7, value=1e-3).is_within
    apart = ModelComparison(
        points=[point(0.0), point(1.0, name="layer 0, attention"), point(2.0, name="later")], texts=[text(0.0)]
    )
    assert apart.first_point_apart is not None
    assert apart.first_point_apart.name == "layer 0, attention"


def test_what_is_no_number_is_within_no_bound() -> None:
    assert math.isnan(max_or_nan([1.0, math.nan, 2.0])) and math.isnan(max_or_nan([math.nan, 1.0]))
    assert not ModelComparison(points=[point(0.0)], texts=[text(0.0), text(math.nan), text(0.0)]).is_within
    apart = ModelComparison(points=[point(0.0), point(math.nan, name="layer 0, attention")]).first_point_apart
    assert apart is not None and apart.name == "layer 0, attention"
    assert not point(0.0, value=math.nan).is_within, "a state that is no number agrees with nothing"
    assert not point(math.nan, value=math.inf).is_within
