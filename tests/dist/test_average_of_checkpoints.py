"""``fanal average``: the mean of checkpoints is a checkpoint that is exported, generates and starts runs, and says what it is."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from fanal.run_folder import AVERAGE, DATA, ORIGIN, checkpoints_dir, step_name
from pretrain.__main__ import cli
from pretrain.checkpoint.disk.average_file import read_average
from pretrain.checkpoint.disk.origin import read_origin, sealed_hash
from pretrain.checkpoint.disk.stored_sums import sum_problems
from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.config.schema import RunConfig
from pretrain.convert.averaging import average as averaging
from tests.dist.export_faults import Case
from tests.dist.harness import make_run, run_and_trace
from tests.dist.test_export import in_a_process, load, safetensors_of, validation_ids
from tests.dist.test_independent_llama import shape_of
from tests.reference.llama import ReferenceLlama
from tests.runs.cases import DP2, TP2
from tests.runs.disks import small_disk

KEYS = (
    "optim.ema_decay=0.7", "train.validate_ema=true", "optim.lr_decay_samples=80", "optim.lr=2e-2", "checkpoint.interval=1",
    "model.init_method_std=0.1",
)  # fmt: skip
FIRST, LAST = 2, 4
STEPS = range(FIRST, LAST + 1)


@dataclass(frozen=True)
class Lab:
    """A run of four steps, the last two in another layout, averages of it, and what became of every export."""

    folder: Path
    run: RunConfig
    results: dict[str, dict[str, Any]]

    def checkpoint(self, step: int) -> Path:
        return checkpoints_dir(self.run.run_dir) / step_name(step)


def command(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def lab(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("averages")
    for layout, steps in ((TP2, FIRST), (DP2, LAST)):
        run = make_run(small_run, folder / "run", *KEYS, *layout, f"train.train_steps={steps}")
        trace = run_and_trace(run, fresh=steps == FIRST)
        assert trace.exit_code == 0, trace.failure
    for words in (("mean", "--last", 3), ("ema", "--ema")):
        result = command("average", run.run_dir, "--to", folder / words[0], *words[1:])
        assert result.exit_code == 0, result.output
    blind = make_run(small_run, folder / "blind", *KEYS, "train.train_steps=4")
    assert run_and_trace(blind, "average_not_put_in_place").exit_code == 0
    mean = averaging.mean_blocks
    with mock.patch.object(averaging, "mean_blocks", lambda parts, readers, *rest: mean(parts[1:], readers[1:], *rest)):
        result = command("average", run.run_dir, "--to", folder / "planted", "--last", 3)
    assert result.exit_code == 0, result.output
    cases = [
        Case(f"step {step}", f"{run.run_dir}/checkpoints/{step_name(step)}", str(folder / f"hf-{step}"))
        for step in STEPS
    ]
    # Beside the run's log, whose losses are not those of the mean.
    shutil.copytree(folder / "mean", folder / "run" / "averages" / "mean")
    cases += [
        Case("planted", str(folder / "planted"), str(folder / "hf-planted")),
        Case("mean", f"{run.run_dir}/averages/mean", str(folder / "hf-mean")),
        Case("ema", run.run_dir, str(folder / "hf-ema"), {"ema": True}),
        Case(
            "wrong", run.run_dir, str(folder / "hf-wrong"), {"ema": True}, fault=("weights_in_place_of_their_average",)
        ),
        Case("blind", blind.run_dir, str(folder / "hf-blind"), {"ema": True}),
        Case("no ema", str(folder / "mean"), str(folder / "hf-none"), {"ema": True}),
    ]
    code, failure = in_a_process(cases, folder)
    assert code == 0, failure
    return Lab(folder, run, json.loads((folder / "results.json").read_text()))


def weights_of(checkpoint: Path, state: str = "param") -> dict[str, torch.Tensor]:
    return {
        name.removesuffix(f"/{state}"): torch.from_numpy(values)
        for name, values in read_whole(checkpoint)
        if name.endswith(f"/{state}")
    }


def test_the_mean_is_that_of_what_transformers_reads_of_each_checkpoint(lab: Lab) -> None:
    """By no code of the average's: each checkpoint is exported by itself, and read by the safetensors package."""
    assert {part.file for tensor in read_index(lab.checkpoint(LAST)).tensors.values() for part in tensor.stored} == {
        0,
        1,
    }
    parts = [safetensors_of(lab.folder / f"hf-{step}" / "model.safetensors") for step in STEPS]
    found, planted = (safetensors_of(lab.folder / f"hf-{name}" / "model.safetensors") for name in ("mean", "planted"))
    assert found.keys() == planted.keys() == parts[0].keys() != set()
    for name, values in found.items():
        expected = np.mean([part[name].double().numpy() for part in parts], axis=0).astype(np.float32)
        assert np.array_equal(values.numpy(), expected), name
        assert not np.array_equal(planted[name].numpy(), expected), f"{name}: a checkpoint left out would be noticed"


def test_an_average_is_a_whole_checkpoint_that_names_what_it_is_the_mean_of(lab: Lab) -> None:
    average = lab.folder / "mean"
    assert not verify_checkpoint(average, deep=True).problems and not list(sum_problems(average))
    found = read_average(average)
    assert found is not None and found.state == "param"
    assert [(part.step, part.manifest_sha256, Path(part.checkpoint)) for part in found.sources] == [
        (step, sealed_hash(lab.checkpoint(step)), lab.checkpoint(step)) for step in STEPS
    ]
    for part, step in zip(found.sources, STEPS, strict=True):
        assert part.data == json.loads((lab.checkpoint(step) / DATA).read_text()) and part.consumed_samples == 8 * step
    assert read_index(average).states == ("param",)
    said = command("verify", average, "--deep").output
    assert "mean of the weights of 3 checkpoints: step 2 (manifest " in said, said


def test_an_average_is_exported_with_its_certificate_and_is_the_model_it_says(lab: Lab) -> None:
    for name, weights in (("mean", weights_of(lab.folder / "mean")), ("ema", weights_of(lab.checkpoint(LAST), "ema"))):
        result, folder = lab.results[name], lab.folder / f"hf-{name}"
        assert result["code"] == 0, result["text"]
        ids = validation_ids(lab.run)
        with torch.no_grad():
            expected = ReferenceLlama(shape_of(lab.run), weights)(ids)
            logits = load(folder)(ids).logits
        assert (logits - expected[..., : logits.shape[-1]]).abs().max() < 2e-5
    logged = json.loads((lab.folder / "hf-ema" / "certificate.json").read_text())["figures"]["validation_loss"]
    assert {part["domain"] for part in logged["domains"]} == {"code", "prose"}
    assert all(part["logged"] == pytest.approx(part["exported"], abs=1e-4) for part in logged["domains"])
    certificate = json.loads((lab.folder / "hf-mean" / "certificate.json").read_text())
    assert "and these are their mean" in certificate["figures"]["validation_loss"]["not_compared"]
    assert certificate["checkpoint"]["average_of"] == [
        {"step": step, "manifest_sha256": sealed_hash(lab.checkpoint(step))} for step in STEPS
    ]
    card = (lab.folder / "hf-mean" / "README.md").read_text()
    assert (
        "mean of the weights of 3 checkpoints" in card and "validation loss" not in card and str(lab.folder) not in card
    )
    card = (lab.folder / "hf-ema" / "README.md").read_text()
    assert "decay 0.7 an update" in card and "validation loss of the weights, not of their average" in card


def test_an_export_of_the_weights_in_place_of_their_average_is_caught(lab: Lab) -> None:
    result = lab.results["wrong"]
    assert result["code"] == 76 and "the export is not the model in" in result["text"], result["text"]


def test_a_validation_of_the_weights_in_place_of_their_average_is_caught_by_the_export(lab: Lab) -> None:
    result = lab.results["blind"]
    assert result["code"] == 76 and "its validation loss of " in result["text"], result["text"]


def test_an_average_of_one_moving_average_is_that_one(lab: Lab) -> None:
    expected = weights_of(lab.checkpoint(LAST), "ema")
    found = weights_of(lab.folder / "ema")
    assert found.keys() == expected.keys() != set()
    assert all(torch.equal(values, expected[name]) for name, values in found.items())


def test_an_average_generates_and_so_does_a_moving_average(lab: Lab) -> None:
    texts = []
    for path, options in ((lab.folder / "mean", ()), (lab.folder / "ema", ()), (lab.run.run_dir, ("--ema",))):
        result = command("generate", path, "--prompt", "The", "--max-new-tokens", 8, "--device", "cpu", *options)
        assert result.exit_code == 0, result.output
        texts.append(result.stdout)
    assert texts[1] == texts[2] and texts[0].startswith("The")
    for path in (lab.folder / "mean", lab.folder / "hf-mean"):
        refused = command("generate", path, "--prompt", "The", "--ema")
        assert refused.exit_code == 2 and "without --ema" in refused.output, refused.output
    assert lab.results["no ema"]["code"] == 2 and "without --ema, work" in lab.results["no ema"]["text"]


def test_a_run_begins_with_an_average_but_not_with_an_optimizer_that_it_has_not(
    lab: Lab, small_run: Path, tmp_path: Path
) -> None:
    keys = (*KEYS, f"checkpoint.init_from={lab.folder / 'mean'}", "train.train_steps=1", f"run_dir={tmp_path / 'run'}")
    refused = command("train", small_run, *keys)
    assert refused.exit_code == 2 and "holds only weights; checkpoint.init_optimizer=fresh works" in refused.output
    assert not (tmp_path / "run").exists()
    run = make_run(small_run, tmp_path / "run", *keys, *DP2, "checkpoint.init_optimizer=fresh")
    trace = run_and_trace(run, "start_is_saved")
    assert trace.exit_code == 0, trace.failure
    start = checkpoints_dir(tmp_path / "run" / "start") / step_name(0)
    for state in ("param", "ema"):
        found = weights_of(start, state)
        assert all(torch.equal(found[name], values) for name, values in weights_of(lab.folder / "mean").items()), state
    origin = read_origin(checkpoints_dir(tmp_path / "run") / step_name(1))
    assert origin is not None and origin.average == json.loads((lab.folder / "mean" / AVERAGE).read_text())
    assert "the mean of 3 checkpoints" in command("verify", tmp_path / "run").output
    assert (checkpoints_dir(tmp_path / "run") / step_name(1) / ORIGIN).is_file()


def test_checkpoints_that_are_named_give_what_their_run_and_steps_give(lab: Lab, tmp_path: Path) -> None:
    """In whatever order, and whatever the files' number that are open."""
    named = command("average", lab.checkpoint(4), lab.checkpoint(2), lab.checkpoint(3), "--to", tmp_path / "named")
    ranged = command("average", lab.run.run_dir, "--from-step", 2, "--to-step", 4, "--to", tmp_path / "ranged")
    assert (named.exit_code, ranged.exit_code) == (0, 0), named.output + ranged.output
    seals = {sealed_hash(folder) for folder in (tmp_path / "named", tmp_path / "ranged", lab.folder / "mean")}
    assert len(seals) == 1
    of_two_runs = command(
        "average", lab.checkpoint(4), checkpoints_dir(lab.folder / "blind") / step_name(4), "--to", tmp_path / "runs"
    )
    assert "averaged 2 checkpoints (steps 4, 4)" in of_two_runs.output
    two = command("average", lab.run.run_dir, "--last", 2, "--to-step", 3, "--to", tmp_path / "two")
    assert "averaged 2 checkpoints (steps 2, 3)" in two.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{run}",), "--last 4 works"),
        (("{run}", "--last", "5"), "--last (5) must be of 5 intact checkpoints, and"),
        (("{run}", "--last", "1"), "--last (1) must be at least 2; --last 2 works"),
        (("{run}", "--from-step", "4"), "--from-step 1 --to-step 4 has them all"),
        (("{run}/checkpoints/step-00000004",), "must be named with at least one more"),
        (("{run}/checkpoints/step-00000004",) * 2, "must be named once"),
        (("{run}/checkpoints/step-00000004", "{run}"), "must be a checkpoint's folder where several are named"),
        (("{run}/checkpoints/step-00000004", "{run}/checkpoints/step-00000003", "--last", "2"), "--last (2) must be left out"),
        (("{run}/checkpoints/step-00000004", "{mean}"), "is itself an average"),
        (("{nowhere}", "--last", "2"), "must be a run's folder with checkpoints in it"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_nothing_is_written(
    words: tuple[str, ...], message: str, lab: Lab, tmp_path: Path
) -> None:
    places = {"run": lab.run.run_dir, "mean": str(lab.folder / "mean"), "nowhere": str(tmp_path / "nowhere")}
    result = command("average", *(word.format(**places) for word in words), "--to", tmp_path / "out" / "mean")
    assert result.exit_code == 2 and message in result.output, result.output
    assert list(tmp_path.iterdir()) == [] and result.output.count("\n") == 1


def test_what_a_message_recommends_works(lab: Lab, tmp_path: Path) -> None:
    for number, words in enumerate((("--last", 4), ("--from-step", 1, "--to-step", 4))):
        result = command("average", lab.run.run_dir, *words, "--to", tmp_path / str(number))
        assert result.exit_code == 0, result.output
    refused = command("average", lab.run.run_dir, "--last", 2, "--to", lab.run.run_dir)
    assert refused.exit_code == 2 and f"{lab.run.run_dir}-2 works" in refused.output
    inside = command("average", lab.run.run_dir, "--last", 2, "--to", lab.checkpoint(1) / "mean")
    assert inside.exit_code == 2 and "must be outside of checkpoints" in inside.output
    counted = command("average", lab.run.run_dir, "--last", 2, "--to", lab.checkpoint(9))
    assert counted.exit_code == 2 and "must not be named like a run's checkpoint" in counted.output


def test_a_run_with_one_checkpoint_is_told_that_a_mean_of_one_is_that_one(lab: Lab, tmp_path: Path) -> None:
    alone = checkpoints_dir(tmp_path / "alone") / step_name(4)
    shutil.copytree(lab.checkpoint(4), alone)
    for words in ((), ("--last", 2), ("--from-step", 4)):
        result = command("average", tmp_path / "alone", *words, "--to", tmp_path / "mean")
        assert result.exit_code == 2 and f"and has {alone} alone; fanal export {alone} works" in result.output
    exported = command("export", alone, "--to", tmp_path / "exported")
    assert exported.exit_code == 0, exported.output
    of_one = command("average", tmp_path / "alone", "--ema", "--to", tmp_path / "mean")
    assert of_one.exit_code == 0 and "averaged 1 checkpoint (step 4) to" in of_one.output


def test_another_model_or_tokenizer_is_refused_by_name(lab: Lab, small_run: Path, tmp_path: Path) -> None:
    run = make_run(small_run, tmp_path / "other", *KEYS, "model.ffn_hidden_size=192", "train.train_steps=1")
    assert run_and_trace(run).exit_code == 0
    other = checkpoints_dir(run.run_dir) / step_name(1)
    result = command("average", other, lab.checkpoint(3), "--to", tmp_path / "mean")
    assert result.exit_code == 2 and "model.ffn_hidden_size (there 192, here 176)" in result.output, result.output
    assert not (tmp_path / "mean").exists()


def test_a_damaged_checkpoint_is_refused_where_it_is_named_and_passed_over_where_it_is_not(
    lab: Lab, tmp_path: Path
) -> None:
    shutil.copytree(checkpoints_dir(lab.run.run_dir), checkpoints_dir(tmp_path / "run"))
    damaged = checkpoints_dir(tmp_path / "run") / step_name(3)
    shard = damaged / "shards" / "rank-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    result = command("average", damaged, lab.checkpoint(4), "--to", tmp_path / "mean")
    assert result.exit_code == 76 and "rank-00001.safetensors has hash" in result.output
    result = command("average", tmp_path / "run", "--last", 3, "--to", tmp_path / "mean")
    assert result.exit_code == 0 and "averaged 3 checkpoints (steps 1, 2, 4)" in result.output
    assert "warning: a damaged checkpoint is passed over" in result.output


def test_values_that_change_after_they_were_verified_are_not_averaged(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = averaging.open_sources

    def another_sum(*args: Any) -> Any:
        *rest, last = sound(*args)
        tensors = {name: dataclasses.replace(part, weights_sum="0" * 16) for name, part in last.index.tensors.items()}
        return [*rest, dataclasses.replace(last, index=dataclasses.replace(last.index, tensors=tensors))]

    monkeypatch.setattr(averaging, "open_sources", another_sum)
    result = command("average", lab.run.run_dir, "--last", 2, "--to", tmp_path / "mean")
    assert result.exit_code == 76 and "other values were stored than were trained" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("looks_enough", [False, True], ids=["seen before", "full on the way"])
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(
    looks_enough: bool, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if looks_enough:
        monkeypatch.setattr(averaging, "shortage", lambda *args, **kwargs: None)
    with small_disk(tmp_path / "small", "size=1m"):
        result = command("average", lab.run.run_dir, "--last", 2, "--to", tmp_path / "small" / "mean")
        said = "could not be written, and nothing is left of it: No space left" if looks_enough else "the disk of"
        assert result.exit_code == 2 and said in result.output, result.output
        assert list((tmp_path / "small").iterdir()) == []
