"""Train, export, load: the folder is the model that was trained, and one that is not never gets its name."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.export_large import write_checkpoint
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.config.schema import ModelConfig, RunConfig
from pretrain.parallel.local import run_local_ranks
from tests.dist.export_faults import DATE, Case, run_exports
from tests.dist.harness import make_run, run_and_trace
from tests.dist.test_independent_llama import shape_of
from tests.reference.llama import ReferenceLlama
from tests.runs.disks import small_disk
from tokenizer.shards.shard import open_shard
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.spec import TokenizerSpec
from tokenizer.vocabulary.train import train_tokenizer

transformers = pytest.importorskip("transformers")

LAYOUT = ("parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2", "train.train_steps=4")
UNTIED = (*LAYOUT, "model.vocab_size=2011", "model.rotary_base=5000", "model.init_method_std=0.1", "optim.lr=2e-2")
TIED = (
    *LAYOUT, "model.share_embeddings_and_output_weights=true", "model.kv_channels=16", "train.precision=bf16",
    "parallel.sequence_parallel=true", "data.validation=[]",
)  # fmt: skip

IMPORTED = ModelConfig(
    num_layers=2, hidden_size=64, ffn_hidden_size=80, num_attention_heads=4, num_query_groups=4, vocab_size=300,
)  # fmt: skip

FAULTS: dict[str, tuple[tuple[str, ...], str]] = {
    "q and k rows swapped": (("query_and_key_rows_swapped", "1"), "the two models differ first at layer 1, attention"),
    "rope theta changed": (("config_says", "rope_theta", "10000.0"), "the two models differ first at layer 0, attention"),
    "another epsilon": (("config_says", "rms_norm_eps", "1e-3"), "the two models differ first at layer 0, attention"),
    "one norm weight set to one": (
        ("norm_set_to_one", "model.layers.2.post_attention_layernorm.weight"), "the two models differ first at layer 2, feed-forward",
    ),
    "last norm set to one": (("norm_set_to_one", "model.norm.weight"), "the two models differ first at final norm"),
    "gate and up swapped": (("gate_and_up_swapped", "3"), "the two models differ first at layer 3, feed-forward"),
    "embedding off by one": (("vocabulary_off_by_one", "model.embed_tokens.weight"), "the two models differ first at embedding"),
    "output off by one": (
        ("vocabulary_off_by_one", "lm_head.weight"), "every state up to the final norm agrees, so the two models differ first at the output layer",
    ),
    "vocab_size off by one": (("config_says", "vocab_size", "2001"), "model.embed_tokens"),
    "KV groups interleaved wrongly": (("groups_interleaved_wrongly", "0"), "the two models differ first at layer 0, attention"),
    "a tensor left out": (("a_tensor_left_out", "model.layers.1.mlp.up_proj.weight"), "missing_keys: model.layers.1.mlp.up_proj.weight"),
    "tokenizer of another vocabulary": (("tokenizer_of", "OTHER"), "the exported tokenizer's ids differ from those of"),
    "special names are split": (("special_names_are_split",), "the special token '<s>': a chat template that writes its name does not get its id, 0"),
    "special tokens decode to nothing": (("special_tokens_decode_to_nothing",), "the special token '<s>': its id decodes to '', and to ''"),
}  # fmt: skip
ALSO_LAYER_BY_LAYER = ("rope theta changed", "one norm weight set to one", "a tensor left out", "vocab_size off by one")


@dataclass(frozen=True)
class Lab:
    """Two trained runs, and what became of every export of them."""

    folder: Path
    untied: RunConfig
    tied: RunConfig
    results: dict[str, dict[str, Any]]

    def checkpoint(self, run: RunConfig) -> Path:
        return Path(run.run_dir) / "checkpoints" / "step-00000004"


def good_cases(folder: Path, untied: str, tied: str) -> list[Case]:
    def case(name: str, run: str, *overrides: str, **options: Any) -> Case:
        return Case(name, run, str(folder / name), options=options, overrides=overrides)

    return [
        case("untied", untied),
        case("again", f"{untied}/checkpoints/step-00000004", memory="layers"),
        case("rounded", untied, dtype="bf16", max_shard_bytes=200_000),
        case("tied", tied),
        case("masters", tied, dtype="fp32", licence="apache-2.0"),
        case("without shards", untied, with_shards=False, adds_bos=True),
        case("wiped", untied, max_shard_bytes=400_000),
        case("imported", str(folder.parent / "imported"), memory="layers"),
    ]


def bad_cases(folder: Path, lab: Path, untied: str) -> list[Case]:
    def case(name: str, checkpoint: str | Path, to: Path | None = None, *overrides: str, fault: tuple[str, ...] = (), **options: Any) -> Case:  # fmt: skip
        return Case(name, str(checkpoint), str(to or folder / name), options=options, overrides=overrides, fault=fault)

    cases = []
    for name, (fault, _) in FAULTS.items():
        planted = tuple(str(lab / "other") if word == "OTHER" else word for word in fault)
        cases.append(case(name, untied, fault=planted))
        if name in ALSO_LAYER_BY_LAYER:
            cases.append(case(f"{name}, layer by layer", untied, fault=planted, memory="layers"))
    return [
        *cases,
        case("incomplete", lab / "incomplete" / "step-00000004"),
        case("damaged", lab / "damaged" / "step-00000004"),
        case("deleted meanwhile", lab / "live" / "step-00000004", fault=("deleted_by_its_run",)),
        case("no checkpoint", lab),
        case("not empty", untied, lab / "full"),
        case("no parent", untied, lab / "nowhere" / "export"),
        case("tokenizer gone", untied, None, "data.tokenizer=/nowhere"),
        case("another tokenizer", untied, None, f"data.tokenizer={lab / 'other'}"),
        case("shards gone", untied, None, "data.train=[{prefix: /nowhere/shard}]"),
        case("another model", untied, None, "model.num_layers=2"),
        case("bos unknown", untied, with_shards=False),
        case("not installed", untied, fault=("no_transformers",)),
    ]


@pytest.fixture(scope="module")
def lab(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("export")
    untied, tied = make_run(small_run, folder / "run-untied", *UNTIED), make_run(small_run, folder / "run-tied", *TIED)
    for run in (untied, tied):
        trace = run_and_trace(run)
        assert trace.exit_code == 0, trace.failure
    checkpoint = folder / "run-untied" / "checkpoints" / "step-00000004"
    for name in ("incomplete", "damaged", "live"):
        shutil.copytree(checkpoint, folder / name / "step-00000004")
    (folder / "incomplete" / "step-00000004" / "COMPLETE").unlink()
    shard = folder / "damaged" / "step-00000004" / "shards" / "rank-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    write_checkpoint(folder / "imported", IMPORTED, num_ranks=3, seq_length=32)
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    train_tokenizer(
        TokenizerSpec(vocab_size=900), [small_run.parent / "corpus" / "validation" / "prose.jsonl"], folder / "other"
    )
    out = folder / "out"
    out.mkdir()
    killed = Case(
        "killed", untied.run_dir, str(out / "wiped"), {"max_shard_bytes": 400_000}, (), ("killed_in_the_second_file",)
    )
    code, _ = in_a_process([killed], folder)
    assert code == -9 and (out / "wiped.part").is_dir() and not (out / "wiped").exists(), code
    cases = [*good_cases(out, untied.run_dir, tied.run_dir), *bad_cases(out, folder, untied.run_dir)]
    code, failure = in_a_process(cases, folder)
    assert code == 0, failure
    return Lab(folder, untied, tied, json.loads((folder / "results.json").read_text()))


def in_a_process(cases: list[Case], folder: Path) -> tuple[int, Any]:
    return run_local_ranks(
        run_exports, cases, str(folder / "results.json"),
        preload=["pretrain.train.loop"], num_ranks=1, device_type="cpu", log_dir=folder / "logs",
    )  # fmt: skip


def load(folder: Path) -> Any:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def validation_ids(run: RunConfig, length: int = 48) -> torch.Tensor:
    prefix = (run.data.validation or run.data.train)[0].prefix
    return torch.from_numpy(np.asarray(open_shard(prefix).tokens[:length]).astype(np.int64))[None]


@pytest.mark.parametrize(
    "name", ["untied", "again", "rounded", "tied", "masters", "without shards", "wiped", "imported"]
)
def test_an_export_is_certified_and_gets_its_name(lab: Lab, name: str) -> None:
    result = lab.results[name]
    assert result["code"] == 0 and result["is_there"] and not result["has_part"], result["text"]
    certificate = json.loads((lab.folder / "out" / name / "certificate.json").read_text())
    assert certificate["figures"]["largest_logit_difference"] < 1e-5
    assert certificate["figures"]["top1_agreement"] == 1.0
    assert certificate["compared"]["warnings_of_transformers"] == []
    for entry in certificate["files"]:
        content = (lab.folder / "out" / name / entry["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"] and len(content) == entry["bytes"], entry
    there = {path.name for path in (lab.folder / "out" / name).iterdir()}
    assert there == {entry["path"] for entry in certificate["files"]} | {"certificate.json"}


@pytest.mark.parametrize(("name", "kind"), [("untied", "untied"), ("masters", "tied"), ("rounded", "untied")])
def test_what_transformers_loads_is_an_independent_llama_with_our_weights(lab: Lab, name: str, kind: str) -> None:
    run = getattr(lab, kind)
    weights = {
        key.removesuffix("/param"): torch.from_numpy(value)
        for key, value in read_whole(lab.checkpoint(run))
        if key.endswith("/param")
    }
    if name == "rounded":
        weights = {key: value.to(torch.bfloat16).float() for key, value in weights.items()}
    ids = validation_ids(run)
    with torch.no_grad():
        expected = ReferenceLlama(shape_of(run), weights)(ids)
        found = load(lab.folder / "out" / name)(ids).logits
    assert found.shape[-1] == 2000, "the vocabulary is trimmed to the tokenizer's"
    assert (found - expected[..., :2000]).abs().max() < 2e-5


def test_the_same_checkpoint_gives_the_same_bytes_whole_or_layer_by_layer(lab: Lab) -> None:
    left, right = (lab.folder / "out" / name for name in ("untied", "again"))
    for path in left.iterdir():
        if path.name not in ("certificate.json", "README.md"):
            assert path.read_bytes() == (right / path.name).read_bytes(), path.name
    ours, theirs = (json.loads((folder / "certificate.json").read_text()) for folder in (left, right))
    assert (ours["compared"].pop("transformers_ran"), theirs["compared"].pop("transformers_ran")) == ("whole", "layers")
    for certificate in (ours, theirs):
        del certificate["figures"], certificate["files"], certificate["certificate_sha256"]
    assert ours == theirs


def test_an_import_without_run_and_shards_is_exported_with_what_its_origin_says(lab: Lab) -> None:
    folder = lab.folder / "out" / "imported"
    config = json.loads((folder / "config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"], config["bos_token_id"]) == (300, 2, None)
    certificate = json.loads((folder / "certificate.json").read_text())
    assert certificate["figures"]["tokenizer"]["oracle"] == "none"
    assert [text["kind"] for text in certificate["figures"]["texts"]] == ["built-in", "edge", "edge"]
    assert "weights imported from random" in (folder / "README.md").read_text()


def test_files_are_cut_at_the_size_asked_for_and_indexed(lab: Lab) -> None:
    folder = lab.folder / "out" / "rounded"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(names) > 2 and set(index["weight_map"].values()) == set(names)
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    whole = {name: tensor for file in names for name, tensor in safetensors_of(folder / file).items()}
    assert sum(tensor.numel() for tensor in whole.values()) == index["metadata"]["total_parameters"]
    exact = safetensors_of(lab.folder / "out" / "untied" / "model.safetensors")
    assert all(torch.equal(whole[name], exact[name].to(torch.bfloat16)) for name in exact)


def safetensors_of(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_a_run_s_own_precision_is_the_default(lab: Lab) -> None:
    for name, dtype in (("untied", torch.float32), ("tied", torch.bfloat16), ("masters", torch.float32)):
        tensors = safetensors_of(lab.folder / "out" / name / "model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    assert "lm_head.weight" not in safetensors_of(lab.folder / "out" / "tied" / "model.safetensors")


def test_rounding_is_told_in_the_loss(lab: Lab) -> None:
    figures = json.loads((lab.folder / "out" / "rounded" / "certificate.json").read_text())["figures"]
    exact = json.loads((lab.folder / "out" / "untied" / "certificate.json").read_text())["figures"]
    assert figures["loss_before_rounding"] == pytest.approx(exact["our_loss"], abs=1e-6)
    assert figures["our_loss"] != exact["our_loss"] and figures["our_loss"] == pytest.approx(
        exact["our_loss"], abs=0.05
    )
    assert exact["loss_before_rounding"] is None


def test_the_certificate_s_texts_are_validation_and_reach_the_edges(lab: Lab) -> None:
    certificate = json.loads((lab.folder / "out" / "untied" / "certificate.json").read_text())
    texts = certificate["figures"]["texts"]
    assert [text["kind"] for text in texts] == ["validation"] * 4 + ["edge"] * 2
    assert [text["num_tokens"] for text in texts] == [64, 64, 64, 64, 1, 64]
    assert texts[-1]["name"] == "text whose token 32 starts a document"
    assert (certificate["compared"]["vocabulary_rows"], certificate["compared"]["vocabulary_rows_left_out"]) == (
        2000,
        11,
    )
    assert certificate["checkpoint"]["step"] == 4 and certificate["date"] == DATE
    kinds = [
        t["kind"]
        for t in json.loads((lab.folder / "out" / "tied" / "certificate.json").read_text())["figures"]["texts"]
    ]
    assert kinds[0] == "training", "without validation shards the training shards are read"
    built_in = json.loads((lab.folder / "out" / "without shards" / "certificate.json").read_text())["figures"]["texts"]
    assert built_in[0]["kind"] == "built-in" and max(text["num_tokens"] for text in built_in) == 64


def test_auto_tokenizer_gives_the_shards_ids_and_reads_special_names_as_text_when_told(lab: Lab) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(lab.folder / "out" / "untied", local_files_only=True)
    ours = load_tokenizer(lab.untied.data.tokenizer)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 3)
    document = open_shard(lab.untied.data.validation[1].prefix).document(0).tolist()
    text = tokenizer.decode(document, skip_special_tokens=True)
    assert [*tokenizer(text)["input_ids"], ours.eos_id] == document, "with a BOS in front, as the shard has it"
    as_text = ours.encode_batch(["a <s> b"], num_threads=1)[0].tolist()
    assert tokenizer("a <s> b", add_special_tokens=False, split_special_tokens=True)["input_ids"] == as_text
    assert tokenizer("a <s> b", add_special_tokens=False)["input_ids"].count(ours.bos_id) == 1
    assert len(tokenizer) == 2000


def test_generate_runs_to_the_length_asked_for(lab: Lab) -> None:
    folder = lab.folder / "out" / "tied"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    inputs = tokenizer("The lamp", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert output.shape[1] <= inputs["input_ids"].shape[1] + 5
    assert model.generation_config.pad_token_id == 3 and model.config.max_position_embeddings == 64


def test_the_card_says_what_the_run_recorded_and_no_path(lab: Lab) -> None:
    card = (lab.folder / "out" / "untied" / "README.md").read_text()
    for line in (
        "pipeline_tag: text-generation", "| layers | 4 |", "8 query heads and 4 key/value heads of size 8", "theta 5000",
        "| steps | 4 |", "| tokens | 2,048 |", "| layout of the last session | tensor 2, pipeline 2,", "PSF-2.0",
        "| validation loss | code ", "| training loss | ", "| hardware | 4 x cpu |", "11 rows without a token were left out",
        "up to this checkpoint: 2,048 tokens", "| PSF-2.0 | ", "| hours of ranks | ", "| energy | ", "| CO2 | not known |",
    ):  # fmt: skip
        assert line in card, f"{line!r} is not in\n{card}"
    assert "license:" not in card, "a licence of the data is none of the model"
    assert (
        str(lab.folder) not in card
        and str(lab.folder) not in (lab.folder / "out" / "untied" / "certificate.json").read_text()
    )
    assert "license: apache-2.0" in (lab.folder / "out" / "masters" / "README.md").read_text()


@pytest.mark.parametrize("name", [*FAULTS, *(f"{name}, layer by layer" for name in ALSO_LAYER_BY_LAYER)])
def test_a_planted_fault_is_caught_and_its_place_named(lab: Lab, name: str) -> None:
    result, (_, message) = lab.results[name], FAULTS[name.removesuffix(", layer by layer")]
    assert result["code"] == 76, result["text"]
    assert message in result["text"] and "the export is not the model in" in result["text"]
    assert not result["is_there"] and not result["has_part"], "nothing may be left under the name, or beside it"


BAD_INPUT = {
    "incomplete": (76, "COMPLETE cannot be read"),
    "damaged": (76, "rank-00002.safetensors has hash"),
    "deleted meanwhile": (2, "was deleted while it was read"),
    "no checkpoint": (2, "must be a checkpoint's folder or a run's folder with one in it"),
    "no parent": (2, "must be in an existing folder, and"),
    "tokenizer gone": (2, "give their new places as arguments data.train=... and data.tokenizer=..."),
    "another tokenizer": (2, "set data.tokenizer to the one it was encoded with"),
    "shards gone": (2, "--without-shards"),
    "another model": (2, "model.num_layers stays as it was in training"),
    "bos unknown": (2, "state it with --bos or --no-bos"),
    "not installed": (2, "pip install 'fanal[hf]' installs it"),
}


@pytest.mark.parametrize(("name", "code", "message"), [(name, *rest) for name, rest in BAD_INPUT.items()])
def test_bad_input_is_named_and_nothing_is_written(lab: Lab, name: str, code: int, message: str) -> None:
    result = lab.results[name]
    assert result["code"] == code and message in result["text"], result["text"]
    assert not result["is_there"] and not result["has_part"]


def test_a_folder_with_something_in_it_is_left_as_it_is(lab: Lab) -> None:
    result = lab.results["not empty"]
    assert result["code"] == 2 and "must not exist, or be an empty folder" in result["text"]
    assert [path.name for path in (lab.folder / "full").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [((), "the disk of"), (("space_looks_enough",), "could not be written, and nothing is left of it: No space left")],
    ids=["seen before", "full on the way"],
)
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(
    lab: Lab, tmp_path: Path, fault: tuple[str, ...], message: str
) -> None:
    small = tmp_path / "small"
    with small_disk(small, "size=1m"):
        code, failure = in_a_process([Case("full", lab.untied.run_dir, str(small / "export"), {}, (), fault)], tmp_path)
        assert code == 0, failure
        result = json.loads((tmp_path / "results.json").read_text())["full"]
        assert result["code"] == 2 and message in result["text"], result["text"]
        assert list(small.iterdir()) == []


def test_the_command_line_says_what_was_proved(lab: Lab, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pretrain",
        "export",
        lab.tied.run_dir,
        "--to",
        str(tmp_path / "hf"),
        "--date",
        DATE,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert "certificate     logits of transformers and of the trainer differ by" in done.stdout
    assert "tokenizer       40 documents and" in done.stdout
    assert done.stderr == ""
