"""What earlier versions wrote is read by this one: tests/golden/formats, where make.py says how it was made.

A test that fails here says that runs, shards and tokenizers of users are lost with this version. Mend the code, not the files.
"""

import hashlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fanal.errors import DamageError, UserError
from launch.status.status import status
from pretrain.__main__ import cli
from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.convert.exporting.export import ExportOptions, export
from pretrain.convert.importing.import_folder import import_hf
from pretrain.convert.theirs.certified import read_certified
from pretrain.inspect.generate import GenerationRequest, generate
from pretrain.model.sampling import Sampling
from tests.dist.harness import assert_same_training, read_trace, run_and_trace
from tests.golden.formats.kept import GEMMA3, LLAMA, ONE_RANK, RUNS, SENTENCEPIECE, V1, KeptRun
from tests.runs.cases import PP2, TP2
from tests.runs.files import files_below
from tokenizer.encoding.encode import encode
from tokenizer.shards.shard import open_shard
from tokenizer.verify_shards import verify
from tokenizer.vocabulary.load import load_tokenizer

TP2_PP2 = (*TP2, *PP2, "parallel.data_parallel_size=1")
RESUMED = {
    "v1, tp2-pp2": (V1, ()), "v1, one rank": (V1, ONE_RANK), "v2-llama, one rank": (LLAMA, ONE_RANK),
    "v2-gemma3, dp2": (GEMMA3, ()), "v2-gemma3, tp2-pp2": (GEMMA3, TP2_PP2),
}  # fmt: skip
"""Each in the layout that wrote it, but v2-llama, which is v1's layout; and in another."""
SHARDS = {f"{run.name}, {prefix.name}": (run, prefix.name) for run in RUNS for prefix in run.shards}
TOKENIZERS = {run.name: run.folder for run in RUNS} | {"v2-sentencepiece": SENTENCEPIECE}
FILES_OF_TOKENIZERS = {
    f"{name}, {path.name}": path
    for name, folder in TOKENIZERS.items()
    for path in sorted((folder / "tokenizer").iterdir())
    if (name, path.name) != ("v1", "tokenizer-info.json")
}
"""All that a hash holds: v1's info has none."""
OF_V2 = pytest.mark.parametrize("kept_run", (LLAMA, GEMMA3), ids=lambda run: run.name)
OF_EACH = pytest.mark.parametrize("kept_run", RUNS, ids=lambda run: run.name)


def of(cases: dict[str, Any], names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(names, cases.values(), ids=cases)


def flip_a_bit(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def change(path: Path, **fields: object) -> None:
    """Give a JSON file other values, as an editor would."""
    content = json.loads(path.read_text())
    assert content.keys() >= fields.keys() and content != content | fields
    path.write_text(json.dumps(content | fields, indent=2))


def masters_of(checkpoint: Path, *, num_tokens: int) -> dict[str, np.ndarray]:
    """Master weights, without the rows of an embedding that stand for no token: an export does not have them."""
    masters = {name: values for name, values in read_whole(checkpoint) if name.endswith("/param")}
    return {name: values[:num_tokens] if is_of_tokens(name) else values for name, values in masters.items()}


def is_of_tokens(name: str) -> bool:
    return name.startswith(("embedding.word_embeddings.", "output_layer."))


def verify_deep(path: Path) -> Result:
    return CliRunner().invoke(cli, ["verify", str(path), "--deep"])


@of(RESUMED, "kept_run, layout")
def test_a_run_goes_on_from_the_kept_checkpoint_with_every_tensor_it_holds_and_to_the_losses_that_followed(
    kept_run: KeptRun, layout: tuple[str, ...], tmp_path: Path
) -> None:
    golden = kept_run.copied(tmp_path / "golden")
    trace, expected, sums = golden.resume(*layout), golden.straight(), golden.says("sums.json")
    assert trace.exit_code == 0, trace.failure
    resumed = golden.after_the_checkpoint(trace)
    assert list(expected.losses) == list(range(golden.saved_step + 1, golden.last_step + 1))
    assert_same_training(resumed, expected)
    for step, z_loss in expected.z_losses.items():
        assert (resumed.z_losses[step] is None) == (z_loss is None)
        assert z_loss is None or resumed.z_losses[step] == pytest.approx(z_loss, rel=2e-6)
    for step, losses in expected.validation.items():
        assert resumed.validation[step] == pytest.approx(losses, rel=2e-6)
    loaded = golden.run_dir / "start" / "checkpoints" / golden.checkpoint.name
    assert not golden.differing(loaded)
    for checkpoint in (golden.checkpoint, loaded):
        index = read_index(checkpoint)
        assert {name: tensor.weights_sum for name, tensor in index.tensors.items()} == sums["weights_sums"]
        assert index.num_updates == sums["adam_step"] == golden.saved_step


@pytest.mark.parametrize("kept_run", [V1, GEMMA3], ids=lambda run: run.name)
def test_moments_of_the_kept_checkpoint_that_are_not_loaded_would_be_noticed(kept_run: KeptRun, tmp_path: Path) -> None:
    golden = kept_run.copied(tmp_path / "golden")
    forgotten = golden.resume(*ONE_RANK, fault="optimizer_state_forgotten")
    assert forgotten.exit_code == 0, forgotten.failure
    with pytest.raises(AssertionError, match="more than"):
        assert_same_training(golden.after_the_checkpoint(forgotten), golden.straight())


@OF_EACH
def test_the_kept_checkpoint_is_whole_and_one_flipped_bit_of_it_is_refused(kept_run: KeptRun, tmp_path: Path) -> None:
    golden = kept_run.copied(tmp_path / "golden")
    assert not golden.differing(golden.checkpoint)
    found = verify_deep(golden.run_dir)
    assert found.exit_code == 0 and "every byte as written" in found.output, found.output
    shard = max((golden.checkpoint / "shards").iterdir())
    flip_a_bit(shard)
    found = verify_deep(golden.run_dir)
    assert found.exit_code == 76 and f"error: {shard} has hash " in found.output
    assert len(golden.differing(golden.checkpoint)) == 1
    refused = golden.resume(*ONE_RANK)
    assert refused.exit_code == 76 and not golden.after_the_checkpoint(refused).losses


@OF_V2
def test_a_flipped_bit_in_any_file_of_the_kept_checkpoint_is_found_by_name(kept_run: KeptRun, tmp_path: Path) -> None:
    golden = kept_run.copied(tmp_path / "golden")
    for name in files_below(golden.checkpoint):
        flip_a_bit(golden.checkpoint / name, place=50)
        found = verify_deep(golden.checkpoint)
        assert found.exit_code == 76 and str(golden.checkpoint / name) in found.output, (name, found.output)
        flip_a_bit(golden.checkpoint / name, place=50)
    assert verify_deep(golden.checkpoint).exit_code == 0


@of(SHARDS, "kept_run, name")
def test_a_kept_shard_opens_with_its_tokens_and_one_flipped_bit_of_it_is_named(
    kept_run: KeptRun, name: str, tmp_path: Path
) -> None:
    golden = kept_run.copied(tmp_path / "golden")
    prefix, expected = golden.folder / "shards" / name, golden.says("tokens.json")["shards"][name]
    shard = open_shard(prefix)
    assert (shard.num_documents, shard.num_tokens) == (expected["num_documents"], expected["num_tokens"])
    document = shard.document(1)
    assert hashlib.sha256(document.astype("<i4").tobytes()).hexdigest() == expected["second_document"]
    text = load_tokenizer(golden.tokenizer).decode(document.tolist())
    assert text.startswith(expected["its_text"])
    (result,) = verify([prefix], deep=True, tokenizer_dir=golden.tokenizer)
    assert not result.failed, result.problems
    flip_a_bit(prefix.with_suffix(".bin"), place=10)
    (result,) = verify([prefix], deep=True)
    assert result.failed and f"{prefix}.bin" in result.problems[0]


@OF_EACH
def test_the_text_of_the_kept_shards_gets_their_ids_again(kept_run: KeptRun, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(kept_run.tokenizer)
    for prefix in kept_run.shards:
        shard = open_shard(prefix)
        first = int(shard.manifest.options.append_bos)
        texts = [tokenizer.decode(shard.document(at)[first:-1].tolist()) for at in range(shard.num_documents)]
        lines = [json.dumps({"text": text}) for text in texts]
        (tmp_path / "text.jsonl").write_text("".join(f"{line}\n" for line in lines))
        encode(kept_run.tokenizer, [tmp_path / "text.jsonl"], tmp_path / prefix.name, num_workers=1)
        for suffix in (".bin", ".idx"):
            written = (tmp_path / prefix.name).with_suffix(suffix)
            assert written.read_bytes() == prefix.with_suffix(suffix).read_bytes(), written


@OF_V2
def test_a_changed_label_of_a_kept_shard_is_found(kept_run: KeptRun, tmp_path: Path) -> None:
    golden = kept_run.copied(tmp_path / "golden")
    for prefix in golden.shards:
        (result,) = verify([prefix])
        assert not result.failed and result.note is None
        change(prefix.with_suffix(".json"), licence="CC0-1.0")
        (result,) = verify([prefix])
        assert result.failed and f"{prefix}.json has content with sha256" in result.problems[0], result.problems


def test_shards_without_a_hash_of_their_labels_are_sound_and_that_is_said() -> None:
    for result in verify(V1.shards):
        assert not result.failed and "has no hash of its own, since an earlier version wrote it" in str(result.note)


@of(TOKENIZERS, "folder")
def test_the_kept_tokenizer_gives_its_ids_and_the_text_back(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer")
    expected = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    (ids,) = tokenizer.encode_batch([expected["text"]], num_threads=1)
    assert ids.tolist() == expected["ids"]
    assert tokenizer.decode(expected["ids"]) == expected["text"]
    assert tokenizer.encode_batch([expected["text"][1:]], num_threads=1)[0].tolist() != expected["ids"]


@of(FILES_OF_TOKENIZERS, "file")
def test_a_kept_tokenizer_that_was_altered_is_refused(file: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(file.parent, tmp_path / "tokenizer"))
    if file.name == "tokenizer-info.json":
        change(folder / file.name, proved_engine="gigatoken 9.9.9")
    else:
        flip_a_bit(folder / file.name)
    with pytest.raises(UserError, match=rf"{re.escape(file.name)} has .*: it was altered; "):
        load_tokenizer(folder)


@OF_EACH
def test_the_kept_export_is_imported_as_the_very_masters_of_the_checkpoint(kept_run: KeptRun, tmp_path: Path) -> None:
    golden = kept_run.copied(tmp_path / "golden")
    for entry in json.loads((golden.export / "certificate.json").read_text())["files"]:
        assert hashlib.sha256((golden.export / entry["path"]).read_bytes()).hexdigest() == entry["sha256"], entry
    num_tokens = load_tokenizer(golden.tokenizer).vocab_size
    masters = masters_of(golden.checkpoint, num_tokens=num_tokens)
    imported = masters_of(import_hf(golden.export, tmp_path / "imported").checkpoint, num_tokens=num_tokens)
    assert imported.keys() == masters.keys() and any(map(is_of_tokens, masters))
    assert all(values.tobytes() == masters[name].tobytes() for name, values in imported.items())
    flip_a_bit(golden.export / "model.safetensors")
    with pytest.raises(DamageError, match=r"model\.safetensors has .* it changed after the export"):
        import_hf(golden.export, tmp_path / "other")
    (golden.export / "certificate.json").unlink()
    other = masters_of(import_hf(golden.export, tmp_path / "other").checkpoint, num_tokens=num_tokens)
    assert len([name for name in other if other[name].tobytes() != masters[name].tobytes()]) == 1


@OF_V2
def test_a_flipped_bit_in_any_file_of_the_kept_export_or_a_figure_of_its_certificate_is_found(
    kept_run: KeptRun, tmp_path: Path
) -> None:
    folder = kept_run.copied(tmp_path / "golden").export
    certified = read_certified(folder)
    assert certified is not None and certified.has_proved_tokenizer
    assert {*certified.entries, "certificate.json"} == set(files_below(folder))
    certified.check()
    for name in certified.entries:
        flip_a_bit(folder / name)
        with pytest.raises(DamageError, match=rf"{name} has .* it changed after the export"):
            certified.check()
        flip_a_bit(folder / name)
    change(folder / "certificate.json", bound=0.1)
    with pytest.raises(DamageError, match=r"certificate\.json is not the certificate of an export"):
        read_certified(folder)


@OF_V2
def test_the_kept_checkpoint_and_its_export_continue_a_text_alike(kept_run: KeptRun) -> None:
    request = GenerationRequest(prompt="def f", max_new_tokens=8, sampling=Sampling(), device="cpu")
    said = generate(kept_run.export, request, out=io.StringIO())
    assert said == generate(kept_run.run_dir, request, tokenizer=str(kept_run.tokenizer), out=io.StringIO())
    assert len(said) == 8


def test_the_kept_checkpoint_is_exported_as_it_was(tmp_path: Path) -> None:
    again = tmp_path / "export"
    export(GEMMA3.run_dir, again, ExportOptions(date="2026-01-01"), GEMMA3.places())
    of_tokenizer = {path.name for path in GEMMA3.tokenizer.iterdir()} - {"tokenizer-info.json"}
    for name in {"model.safetensors", *of_tokenizer}:
        assert (again / name).read_bytes() == (GEMMA3.export / name).read_bytes(), name
    figures = [json.loads((path / "certificate.json").read_text())["figures"] for path in (again, GEMMA3.export)]
    assert figures[0]["tokenizer"] == figures[1]["tokenizer"] and figures[0]["tokenizer"]["num_different"] == 0
    losses = [[domain["exported"] for domain in found["validation_loss"]["domains"]] for found in figures]
    assert losses[0] == pytest.approx(losses[1], rel=2e-6)


@pytest.mark.parametrize("kept_run", [V1, GEMMA3], ids=lambda run: run.name)
def test_a_run_begins_with_the_kept_checkpoint_and_one_that_forgets_a_part_of_it_would_be_noticed(
    kept_run: KeptRun, tmp_path: Path
) -> None:
    golden = kept_run.copied(tmp_path / "golden")
    begin = (*ONE_RANK, f"checkpoint.init_from={golden.run_dir}", "train.train_steps=1")
    traces = {
        fault: run_and_trace(golden.run(tmp_path / fault, *begin), fault)
        for fault in ("start_is_saved", "origin_half_forgotten")
    }
    for trace in traces.values():
        assert trace.exit_code == 0, trace.failure
    start = tmp_path / "start_is_saved" / "start" / "checkpoints" / "step-00000000"
    assert not golden.differing(start) and read_index(start).num_updates == golden.saved_step
    expected = read_trace(golden.run_dir, 0, None).validation[golden.saved_step]
    assert traces["start_is_saved"].validation[0] == pytest.approx(expected, rel=2e-6)
    assert golden.differing(tmp_path / "origin_half_forgotten" / "start" / "checkpoints" / "step-00000000")


@OF_EACH
def test_status_reads_the_kept_run_and_a_loss_under_another_name_would_be_missed(
    kept_run: KeptRun, tmp_path: Path
) -> None:
    golden, step = kept_run.copied(tmp_path / "golden"), kept_run.saved_step
    found = status(golden.run_dir)
    assert (found["state"], found["step"], found["train_steps"], found["steps_left"]) == ("finished", step, step, 0)
    assert found["loss_nats"] == golden.loss and found["loss_step"] == step
    domains = {prefix.name.split("-")[1] for prefix in golden.shards}
    assert found["validation_loss_nats"].keys() == domains and found["validation_step"] == step
    assert found["pace"]["num_records"] == step and found["checkpoint"]["step"] == step
    assert (found["consumed_tokens"], found["skipped_steps"], found["skipped_spikes"]) == (step * 8 * 32, 0, 0)
    metrics = golden.run_dir / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"loss": ', '"nats": '))
    assert status(golden.run_dir)["loss_nats"] is None
