"""What an earlier version wrote is read by this one: tests/golden/formats/v1, which make.py beside it says how it was made.

A test that fails here says that runs, shards and tokenizers of users are lost with this version. Mend the code, not the files.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fanal.errors import DamageError
from launch.status.status import status
from pretrain.__main__ import cli
from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.config.schema import RunConfig
from pretrain.convert.importing.import_folder import import_hf
from tests.dist.harness import Trace, assert_same_training, make_run, read_trace, run_and_trace
from tokenizer.shards.shard import open_shard
from tokenizer.shards.verify import verify
from tokenizer.vocabulary.load import load_tokenizer

V1 = Path(__file__).parents[1] / "golden" / "formats" / "v1"
SAVED_STEP, LAST_STEP = 8, 13
CHECKPOINT = Path("checkpoint") / "checkpoints" / "step-00000008"
SHARDS = ("held_out-code", "held_out-prose", "train-code", "train-prose")
ONE_RANK = ("parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1")
LAYOUTS = pytest.mark.parametrize("layout", [(), ONE_RANK], ids=["tp2-pp2", "one rank"])


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy, to be trained on or damaged."""
    return Path(shutil.copytree(V1, tmp_path / "v1"))


def kept(name: str) -> Any:
    """What the version that wrote the files found in them."""
    return json.loads((V1 / name).read_text(encoding="utf-8"))


def flip_a_bit(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def run_of(golden: Path, run_dir: Path, *overrides: str) -> RunConfig:
    """The run of the files, with its paths as they are now."""
    shards = {name: f"prefix: {golden / 'shards' / name}" for name in SHARDS}
    return make_run(
        golden / "run.yaml", run_dir, f"data.tokenizer={golden / 'tokenizer'}",
        f"data.train=[{{{shards['train-code']}, weight: 2}}, {{{shards['train-prose']}, weight: 1}}]",
        f"data.held_out=[{{{shards['held_out-code']}}}, {{{shards['held_out-prose']}}}]", *overrides,
    )  # fmt: skip


def resume(golden: Path, *overrides: str, fault: str | None = "start_is_saved") -> Trace:
    """Go on in the run's own folder, and keep what was loaded as a checkpoint of checkpoint/start."""
    run = run_of(golden, golden / "checkpoint", f"train.train_steps={LAST_STEP}", *overrides)
    return run_and_trace(run, fault, fresh=False)


def after_the_checkpoint(trace: Trace) -> Trace:
    """The steps that were trained now."""
    losses, norms, domains = (
        {step: value for step, value in values.items() if step > SAVED_STEP}
        for values in (trace.losses, trace.grad_norms, trace.loss_by_domain)
    )
    return Trace(trace.exit_code, trace.failure, losses, norms, trace.skipped, trace.validation, domains)


def straight() -> Trace:
    """The same steps by the version that wrote the checkpoint, in a run that never stopped."""
    names = {"held_out": "validation"}  # that version's word
    found = {
        names.get(name, name): {int(step): value for step, value in steps.items()}
        for name, steps in kept("losses.json").items()
    }
    return Trace(exit_code=0, failure=None, **found)


def sums_of(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of every master and moment, whole, by name."""
    return {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in read_whole(checkpoint)}


def differing(checkpoint: Path) -> set[str]:
    """Masters and moments that are not, bit for bit, those that were written; or that are not there."""
    return {name for name, _ in sums_of(checkpoint).items() ^ kept("sums.json")["sha256"].items()}


def masters_of(checkpoint: Path) -> dict[str, np.ndarray]:
    return {name: values for name, values in read_whole(checkpoint) if name.endswith("/param")}


def verify_deep(path: Path) -> Result:
    return CliRunner().invoke(cli, ["verify", str(path), "--deep"])


@LAYOUTS
def test_a_run_goes_on_from_the_kept_checkpoint_with_every_tensor_it_holds_and_to_the_losses_that_followed(
    golden: Path, layout: tuple[str, ...]
) -> None:
    resumed, expected, sums = resume(golden, *layout), straight(), kept("sums.json")
    assert resumed.exit_code == 0, resumed.failure
    assert list(expected.losses) == list(range(SAVED_STEP + 1, LAST_STEP + 1))
    assert_same_training(after_the_checkpoint(resumed), expected)
    for step, losses in expected.validation.items():
        assert resumed.validation[step] == pytest.approx(losses, rel=2e-6)
    loaded = golden / "checkpoint" / "start" / "checkpoints" / "step-00000008"
    assert not differing(loaded)
    for checkpoint in (golden / CHECKPOINT, loaded):
        index = read_index(checkpoint)
        assert {name: tensor.weights_sum for name, tensor in index.tensors.items()} == sums["weights_sums"]
        assert index.num_updates == sums["adam_step"] == SAVED_STEP


def test_moments_of_the_kept_checkpoint_that_are_not_loaded_would_be_noticed(golden: Path) -> None:
    forgotten = resume(golden, *ONE_RANK, fault="optimizer_state_forgotten")
    assert forgotten.exit_code == 0, forgotten.failure
    with pytest.raises(AssertionError, match="more than"):
        assert_same_training(after_the_checkpoint(forgotten), straight())


def test_the_kept_checkpoint_is_whole_and_one_flipped_bit_of_it_is_refused(golden: Path) -> None:
    assert not differing(golden / CHECKPOINT)
    found = verify_deep(golden / "checkpoint")
    assert found.exit_code == 0 and "every byte as written" in found.output, found.output
    shard = golden / CHECKPOINT / "shards" / "rank-00003.safetensors"
    flip_a_bit(shard)
    found = verify_deep(golden / "checkpoint")
    assert found.exit_code == 76 and f"error: {shard} has hash " in found.output
    assert len(differing(golden / CHECKPOINT)) == 1
    refused = resume(golden, *ONE_RANK)
    assert refused.exit_code == 76 and not after_the_checkpoint(refused).losses


@pytest.mark.parametrize("name", SHARDS)
def test_a_kept_shard_opens_with_its_tokens_and_one_flipped_bit_of_it_is_named(golden: Path, name: str) -> None:
    prefix, expected = golden / "shards" / name, kept("tokens.json")["shards"][name]
    shard = open_shard(prefix)
    assert (shard.num_documents, shard.num_tokens) == (expected["num_documents"], expected["num_tokens"])
    document = shard.document(1)
    assert hashlib.sha256(document.astype("<i4").tobytes()).hexdigest() == expected["second_document"]
    text = load_tokenizer(golden / "tokenizer").decode(document.tolist())
    assert text.startswith(expected["its_text"])
    (result,) = verify([prefix], deep=True, tokenizer_dir=golden / "tokenizer")
    assert not result.failed, result.problems
    flip_a_bit(prefix.with_suffix(".bin"), place=10)
    (result,) = verify([prefix], deep=True)
    assert result.failed and f"{prefix}.bin" in result.problems[0]


def test_the_kept_tokenizer_gives_its_ids_and_the_text_back_and_one_that_was_altered_is_refused(golden: Path) -> None:
    tokenizer, expected = load_tokenizer(golden / "tokenizer"), kept("tokens.json")
    (ids,) = tokenizer.encode_batch([expected["text"]], num_threads=1)
    assert ids.tolist() == expected["ids"]
    assert tokenizer.decode(expected["ids"]) == expected["text"]
    assert tokenizer.encode_batch([expected["text"][1:]], num_threads=1)[0].tolist() != expected["ids"]
    flip_a_bit(golden / "tokenizer" / "tokenizer.json")
    with pytest.raises(ValueError, match="it was altered"):
        load_tokenizer(golden / "tokenizer")


def test_the_kept_export_is_imported_as_the_very_masters_of_the_checkpoint(golden: Path, tmp_path: Path) -> None:
    certificate = json.loads((golden / "export" / "certificate.json").read_text())
    for entry in certificate["files"]:
        assert hashlib.sha256((golden / "export" / entry["path"]).read_bytes()).hexdigest() == entry["sha256"], entry
    masters = masters_of(golden / CHECKPOINT)
    imported = masters_of(import_hf(golden / "export", tmp_path / "imported").checkpoint)
    assert imported.keys() == masters.keys() != set()
    assert all(values.tobytes() == masters[name].tobytes() for name, values in imported.items())
    flip_a_bit(golden / "export" / "model.safetensors")
    with pytest.raises(DamageError, match=r"model\.safetensors has .* it changed after the export"):
        import_hf(golden / "export", tmp_path / "other")
    (golden / "export" / "certificate.json").unlink()
    other = masters_of(import_hf(golden / "export", tmp_path / "other").checkpoint)
    assert len([name for name in other if other[name].tobytes() != masters[name].tobytes()]) == 1


def test_a_run_begins_with_the_kept_checkpoint_and_one_that_forgets_a_part_of_it_would_be_noticed(
    golden: Path, tmp_path: Path
) -> None:
    begin = (*ONE_RANK, f"checkpoint.init_from={golden / 'checkpoint'}", "train.train_steps=1")
    traces = {
        fault: run_and_trace(run_of(golden, tmp_path / fault, *begin), fault)
        for fault in ("start_is_saved", "origin_half_forgotten")
    }
    for trace in traces.values():
        assert trace.exit_code == 0, trace.failure
    start = tmp_path / "start_is_saved" / "start" / "checkpoints" / "step-00000000"
    assert not differing(start) and read_index(start).num_updates == SAVED_STEP
    expected = read_trace(golden / "checkpoint", 0, None).validation[SAVED_STEP]
    assert traces["start_is_saved"].validation[0] == pytest.approx(expected, rel=2e-6)
    assert differing(tmp_path / "origin_half_forgotten" / "start" / "checkpoints" / "step-00000000")


def test_status_reads_the_kept_run_and_a_loss_under_another_name_would_be_missed(golden: Path) -> None:
    found = status(golden / "checkpoint")
    assert (found["state"], found["step"], found["train_steps"], found["steps_left"]) == ("finished", 8, 8, 0)
    assert found["loss_nats"] == 5.663329243659973 and found["loss_step"] == SAVED_STEP
    assert found["validation_loss_nats"].keys() == {"code", "prose"} and found["validation_step"] == SAVED_STEP
    assert found["pace"]["num_records"] == SAVED_STEP and found["checkpoint"]["step"] == SAVED_STEP
    assert (found["consumed_tokens"], found["skipped_steps"], found["skipped_spikes"]) == (2048, 0, 0)
    metrics = golden / "checkpoint" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"loss": ', '"nats": '))
    assert status(golden / "checkpoint")["loss_nats"] is None
